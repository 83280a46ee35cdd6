"""Objectives on two views of each image: numbers of the published code, and float64 code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import crld, mlkd, vrm
from rrd_jax.objectives.batch import SecondView
from rrd_jax.objectives.parts.logits import Views, cross_entropy
from tests.objectives import batches, recent


def _views(student, student_second):
    teacher = Views(recent.TEACHER, jnp.asarray(recent.FILE["teacher_second"]))
    return Views(student, student_second), teacher


_TWO = {name: recent.FILE[name] for name in ("student", "student_second")}


def test_mlkd_equals_the_published_code():
    objective = objectives.create("mlkd", reference=True)

    def loss(student, student_second):
        outputs = [Outputs(z, ()) for z in (student, recent.TEACHER, student_second)]
        second = SecondView(outputs[2], Outputs(jnp.asarray(recent.FILE["teacher_second"]), ()))
        batch = batches.from_labels(recent.LABELS, second=second)
        losses, _ = objective.loss(objectives.ObjectiveState(), *outputs[:2], batch)
        return losses + 0.1 * cross_entropy(student, recent.LABELS)

    recent.assert_equal("mlkd", loss, **_TWO)


def test_crld_equals_the_published_code():
    def loss(student, student_second):
        losses = crld.crld_loss(*_views(student, student_second))
        return losses + sum(cross_entropy(z, recent.LABELS) for z in (student, student_second))

    recent.assert_equal("crld", loss, **_TWO)


def test_rdd_weights_labels_by_agreement_and_then_by_relative_difficulty():
    objective = objectives.create("rdd", first_share=0.5, total_steps=4, temperature=2.0)
    student, teacher, other = recent.random(0, 3, 12, 5)
    labels = np.arange(12) % 5
    second = SecondView(None, Outputs(jnp.asarray(other), ()))
    batch = batches.from_labels(labels, second=second)
    state, losses = objective.init(jax.random.key(0), None, None), []
    for _ in range(3):
        outputs = (Outputs(jnp.asarray(z), ()) for z in (student, teacher))
        loss, memory = objective.loss(state, *outputs, batch)
        state, losses = state._replace(memory=memory), [*losses, loss]
    p_s, p_t, p_2 = (recent.softmax(z) for z in (student, teacher, other))
    entropy = -np.log(p_s[np.arange(12), labels])
    kd_part = _kd64(student, teacher, 2.0)
    weights = np.exp(-np.sum(p_2 * np.log(p_2 / p_t), -1))
    for loss in losses[:2]:
        np.testing.assert_allclose(loss, weights * entropy + kd_part, rtol=1e-4)
    unsure_s, unsure_t = (p[np.arange(12), labels] <= 0.7 for p in (p_s, p_t))
    assert 0 < np.sum(unsure_s ^ unsure_t) < 12
    np.testing.assert_allclose(losses[2], (unsure_s ^ unsure_t) * entropy + kd_part, rtol=1e-4)
    with pytest.raises(errors.InputError, match="threshold is 2"):
        objectives.create("rdd", threshold=2.0)


def _kd64(student, teacher, temperature):
    p, q = (recent.softmax(z / temperature) for z in (teacher, student))
    return temperature**2 * np.sum(p * np.log(p / q), -1)


def _mlkd64(student, teacher, second_s, second_t, temperatures):
    total = 0.0
    for temperature in temperatures:
        p, q = (recent.softmax(z / temperature) for z in (teacher, student))
        total += _kd64(student, teacher, temperature) / 2 + _kd64(second_s, second_t, temperature)
        total += np.linalg.norm(p @ p.T - q @ q.T) ** 2 / (2 * len(p))
        total += np.linalg.norm(p.T @ p - q.T @ q) ** 2 / (2 * p.shape[1])
    return total


def test_mlkd_equals_float64():
    student, teacher, *second = recent.random(0, 4, 6, 5)
    arrays = [jnp.asarray(z, jnp.float32) for z in (student, teacher, *second)]
    views = Views(arrays[0], arrays[2]), Views(arrays[1], arrays[3])
    actual = mlkd.mlkd_loss(*views, arrays[:2], temperatures=(4.0, 1.0))
    np.testing.assert_allclose(actual, _mlkd64(student, teacher, *second, (4.0, 1.0)), rtol=1e-4)


def _edges64(a, b):
    edges = a[:, None] - b[None]
    return edges / np.linalg.norm(edges, axis=-1, keepdims=True)


def _vrm64(student, teacher, keep):
    images = np.sum((_edges64(*student) - _edges64(*teacher)) ** 2, -1) / 2
    columns = [[z.T for z in views] for views in (student, teacher)]
    classes = np.sum((_edges64(*columns[0]) - _edges64(*columns[1])) ** 2, -1) / 2
    entropies = [-np.sum(recent.softmax(z) * np.log(recent.softmax(z)), -1) for z in student]
    joint = entropies[0][:, None] + entropies[1]
    images[joint > np.quantile(joint, keep)] = 0
    return images.mean(1) + classes.mean()


@pytest.mark.parametrize("keep", [0.3, 1.0])
def test_vrm_equals_float64(keep):
    student, teacher = recent.random(0, 2, 2, 6, 5)
    views = (Views(*jnp.asarray(z, jnp.float32)) for z in (student, teacher))
    actual = vrm.vrm_loss(*views, keep=keep)
    np.testing.assert_allclose(actual, _vrm64(student, teacher, keep), rtol=1e-4)


def test_vrm_leaves_out_edges_without_length():
    points = jnp.asarray(recent.random(0, 4, 3), jnp.float32)
    same, other = Views(points, points), Views(points, points[::-1])

    def mean(first):
        return jnp.mean(vrm.vrm_loss(Views(first, points), other, keep=1.0))

    assert np.isfinite(jax.grad(mean)(points)).all()
    np.testing.assert_allclose(vrm.vrm_loss(same, same), 0, atol=1e-5)
