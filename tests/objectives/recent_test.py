"""Losses and gradients of published code for objectives since 2023, see tests/golden/README.md."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import ckd, crld, ctkd, disco, kd, mlkd, ofa, pkth, rld, sdd, vrm, wkd, wttm
from rrd_jax.objectives.batch import SecondView
from rrd_jax.objectives.parts import transport
from rrd_jax.objectives.parts.logits import Views, cross_entropy
from tests import golden
from tests.objectives import batches, toy

_FILE = golden.load("recent")
_LABELS, _TEACHER = (jnp.asarray(_FILE[name]) for name in ("label", "teacher"))


def _assert_equal(name, loss, **inputs):
    """Compares the mean loss of the inputs, and its gradients, with those of a case."""
    value, gradients = jax.jit(jax.value_and_grad(lambda arrays: jnp.mean(loss(**arrays))))(
        {key: jnp.asarray(array, jnp.float32) for key, array in inputs.items()}
    )
    np.testing.assert_allclose(value, _FILE[f"{name}/loss"], rtol=1e-5)
    for key, gradient in gradients.items():
        expected = _FILE[f"{name}/grad/{key}"]
        # The gradient for the temperature is a difference of large sums.
        rtol = 1e-3 if key == "temperature" else 1e-4
        np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=1e-5 * abs(expected).max())


def _nhwc(name):
    return jnp.asarray(golden.to_nhwc(_FILE[name]))


def _softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def _random(seed, *shape):
    return 3 * np.random.default_rng(seed).standard_normal(shape)


def _rld64(student, teacher, labels, temperature):
    losses = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        p, q = _softmax(t).max(), _softmax(s)[label]
        loss = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        below = t < t[label]
        if below.any():
            p, q = (_softmax(x[below] / temperature) for x in (t, s))
            loss += 8 * temperature**2 * np.sum(p * np.log(p / q))
        losses.append(loss)
    return losses


def test_rld_equals_float64():
    student, teacher, labels = _random(0, 9, 5), _random(1, 9, 5), np.arange(9) % 5
    # The teacher ranks the label last, first, and equal to another class.
    teacher[0, 0], teacher[1, 1], teacher[2, 3] = -20, 20, teacher[2, 2]
    actual = rld.rld_loss(jnp.asarray(student), jnp.asarray(teacher), labels)
    # Float32 rounds the second part to 1e-5.
    np.testing.assert_allclose(actual, _rld64(student, teacher, labels, 4.0), rtol=1e-4)


def _wttm64(student, teacher, power):
    powers = _softmax(teacher) ** power
    q = powers / powers.sum(-1, keepdims=True)
    return powers.sum(-1) * np.sum(q * np.log(q / _softmax(student)), -1)


@pytest.mark.parametrize("power", [0.1, 1.0, 3.0])
def test_wttm_equals_float64(power):
    student, teacher = _random(0, 9, 5), _random(1, 9, 5)
    actual = wttm.wttm_loss(jnp.asarray(student), jnp.asarray(teacher), power=power)
    np.testing.assert_allclose(actual, _wttm64(student, teacher, power), rtol=1e-4)


def _transport64(a, b, cost):
    kernel = np.exp(-cost / 0.05)
    u = np.full(len(a), 1 / len(a))
    for _ in range(10):
        v = b / (kernel.T @ u)
        u = a / (kernel @ v)
    return np.sum(u[:, None] * kernel * v * cost)


@pytest.mark.parametrize("temperature", [0.5, 8.0, 50.0])
def test_wkd_equals_float64(temperature):
    student, teacher, labels = _random(0, 6, 5), _random(1, 6, 5), np.arange(6) % 5
    cost = np.random.default_rng(2).uniform(0.3, 0.6, (5, 5)) * (1 - np.eye(5))
    cost = (cost + cost.T) / 2
    expected = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        a, b = (_softmax(np.delete(z, label) / temperature) for z in (s, t))
        others = np.delete(np.delete(cost, label, 0), label, 1)
        target = -_softmax(t)[label] * np.log(_softmax(s)[label])
        expected.append(target + 600 * _transport64(a, b, others))
    arrays = (jnp.asarray(x, jnp.float32) for x in (student, teacher))
    actual = wkd.wkd_logits_loss(*arrays, labels, jnp.asarray(cost), temperature=temperature)
    # The published 1e-8 in denominators changes the transport by up to 1e-3.
    np.testing.assert_allclose(actual, expected, rtol=2e-3)


def test_wkd_weights_fall_with_half_a_cosine_at_the_end_of_a_run():
    objective = objectives.create("wkd", cost="head", decay_from=0.5, total_steps=8)
    student, teacher = toy.outputs(0), toy.outputs(1)
    state = objective.init(jax.random.key(0), student, teacher)
    batch = batches.from_labels(np.arange(8) % 5)
    losses = []
    for _ in range(9):
        loss, memory = objective.loss(state, student, teacher, batch)
        state = state._replace(memory=memory)
        losses.append(float(jnp.mean(loss)))
    shares = (np.array(losses) - losses[-1]) / (losses[0] - losses[-1])
    expected = [1] * 5 + [(1 + np.cos(np.pi * i / 4)) / 2 for i in range(1, 5)]
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    kernel = np.asarray(teacher.head["kernel"])
    cosines = kernel.T @ kernel / np.outer(*2 * [np.linalg.norm(kernel, axis=0)])
    np.testing.assert_allclose(state.frozen["cost"], 1 - np.exp(cosines - 1), atol=1e-6)


def test_ctkd_raises_the_factor_of_its_temperature_epoch_by_epoch():
    objective = objectives.create("ctkd", ramp_epochs=4, steps_per_epoch=2)
    student, teacher = toy.outputs(0), toy.outputs(1)
    state = objective.init(jax.random.key(0), student, teacher)

    def mean(params, state):
        losses, memory = objective.loss(state._replace(params=params), student, teacher, None)
        return jnp.mean(losses), memory

    gradients = []
    for _ in range(9):
        gradient, memory = jax.grad(mean, has_aux=True)(state.params, state)
        state = state._replace(memory=memory)
        gradients.append(float(gradient["temperature"][0]))
    ramp = [(1 - np.cos(np.pi * epoch / 4)) / 2 for epoch in (1, 1, 2, 2, 3, 3, 4, 4, 4)]
    np.testing.assert_allclose(np.array(gradients) / gradients[-1], ramp, rtol=1e-4)


def test_rld_equals_the_the_published_code():
    _assert_equal(
        "rld", lambda student: rld.rld_loss(student, _TEACHER, _LABELS), student=_FILE["student"]
    )


@pytest.mark.parametrize("case", ["wttm", "ttm"])
def test_wttm_equals_the_published_code(case):
    def loss(student):
        return wttm.wttm_loss(student, _TEACHER, power=0.2, weighted=case == "wttm")

    _assert_equal(case, loss, student=_FILE["student"])


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
def test_ctkd_equals_the_published_code(factor):
    def loss(student, temperature):
        scalar = ctkd.reversed_gradient(temperature[0], factor)
        softmax = 1 + 20 * jax.nn.sigmoid(scalar)
        return kd.kd_loss(student, _TEACHER, temperature=softmax)

    _assert_equal(f"ctkd_{factor}", loss, student=_FILE["student"], temperature=np.ones(1))


@pytest.mark.parametrize("case", ["kd", "dkd"])
def test_sdd_equals_the_published_code(case):
    head = {"kernel": jnp.asarray(_FILE["sdd/teacher_kernel"]), "bias": jnp.zeros(7)}
    teacher = sdd.regions(_nhwc("sdd/teacher_map"), head, 3)

    def loss(map, kernel):
        maps = jnp.moveaxis(map, 1, -1)
        student = sdd.regions(maps, {"kernel": kernel, "bias": jnp.zeros(7)}, 3)
        return sdd.sdd_loss(student, teacher, _LABELS, loss=case)

    arrays = {"map": _FILE["sdd/student_map"], "kernel": _FILE["sdd/student_kernel"]}
    _assert_equal(f"sdd_{case}", loss, **arrays)


def test_wkd_equals_the_published_code():
    cost = jnp.asarray(1 - np.exp(-_FILE["wkd/distance"]), jnp.float32)
    _assert_equal(
        "wkd_logits",
        lambda student: wkd.wkd_logits_loss(student, _TEACHER, _LABELS, cost),
        student=_FILE["student"],
    )


@pytest.mark.parametrize("grid", [1, 3])
def test_wkd_of_features_equals_the_published_code(grid):
    teacher = _nhwc("wkd_features/teacher")

    def loss(student):
        return wkd.wkd_features_loss(jnp.moveaxis(student, 1, -1), teacher, grid=grid)

    _assert_equal(f"wkd_features_{grid}", loss, student=_FILE["wkd_features/student"])


def test_distances_between_classes_equal_the_published_code():
    features = _FILE["wkd/features"]
    classes, count, _ = features.shape
    # Images of the classes alternate, and the last class has one more.
    embedding = np.concatenate([features.swapaxes(0, 1).reshape(count * classes, -1), features[0]])
    labels = np.concatenate([np.tile(np.arange(classes), count), np.full(count, classes - 1)])
    # A fifth class is too small.
    embedding, labels = np.append(embedding, embedding[:3], 0), np.append(labels, [classes] * 3)
    actual = transport.cka_distances(embedding, labels, classes + 1)
    np.testing.assert_allclose(actual[:-1, :-1], _FILE["wkd/cka"], atol=1e-6)
    mean = _FILE["wkd/cka"].sum() / (classes * (classes - 1))
    np.testing.assert_allclose(actual[-1], [mean] * classes + [0], atol=1e-6)


def _views(student, student_second):
    teacher = Views(_TEACHER, jnp.asarray(_FILE["teacher_second"]))
    return Views(student, student_second), teacher


_TWO = {name: _FILE[name] for name in ("student", "student_second")}


def test_mlkd_equals_the_published_code():
    objective = objectives.create("mlkd", reference=True)

    def loss(student, student_second):
        outputs = [Outputs(z, ()) for z in (student, _TEACHER, student_second)]
        second = SecondView(outputs[2], Outputs(jnp.asarray(_FILE["teacher_second"]), ()))
        batch = batches.from_labels(_LABELS, second=second)
        losses, _ = objective.loss(objectives.ObjectiveState(), *outputs[:2], batch)
        return losses + 0.1 * cross_entropy(student, _LABELS)

    _assert_equal("mlkd", loss, **_TWO)


def test_crld_equals_the_published_code():
    def loss(student, student_second):
        losses = crld.crld_loss(*_views(student, student_second))
        return losses + sum(cross_entropy(z, _LABELS) for z in (student, student_second))

    _assert_equal("crld", loss, **_TWO)


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_ofa_equals_the_published_code(power):
    _assert_equal(
        f"ofa_{power}",
        lambda student: ofa.ofa_loss(student, _TEACHER, _LABELS, power=power),
        student=_FILE["student"],
    )


def test_exits_of_ofa_halve_the_maps_and_all_are_trained():
    objective = objectives.create("ofa")
    student, teacher = toy.outputs(0), toy.outputs(1)
    state = objective.init(jax.random.key(0), student, teacher)
    batch = batches.from_labels(np.arange(8) % 5)
    # Three maps after the stem, of 4, 6 and 8 channels; the embeddings have 8 features.
    blocks = {name: len(layers["stack"]) for name, layers in state.params.items()}
    assert blocks == {"exit0": 8, "exit1": 4, "exit2": 1}
    assert state.params["exit0"]["stack"]["layer4"]["kernel"].shape == (3, 3, 1, 8)

    def mean(params):
        return jnp.mean(objective.loss(state._replace(params=params), student, teacher, batch)[0])

    loss, gradients = jax.jit(jax.value_and_grad(mean))(state.params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))
    # The exits' first logits are almost 0, so that each has the entropy of five equal classes.
    alone = float(jnp.mean(ofa.ofa_loss(student.logits, teacher.logits, batch.label)))
    assert float(loss) == pytest.approx(alone + 3 * np.log(5), rel=0.05)
    mixed = batch._replace(other_label=batch.label[::-1], share=jnp.full(8, 0.2))
    swapped = objective.loss(state, student, teacher, mixed)[0]
    expected = objective.loss(state, student, teacher, batch._replace(label=batch.label[::-1]))[0]
    np.testing.assert_allclose(swapped, expected, rtol=1e-6)


def test_rdd_weights_labels_by_agreement_and_then_by_relative_difficulty():
    objective = objectives.create("rdd", first_share=0.5, total_steps=4, temperature=2.0)
    student, teacher, other = _random(0, 3, 12, 5)
    labels = np.arange(12) % 5
    second = SecondView(None, Outputs(jnp.asarray(other), ()))
    batch = batches.from_labels(labels, second=second)
    state, losses = objective.init(jax.random.key(0), None, None), []
    for _ in range(3):
        outputs = (Outputs(jnp.asarray(z), ()) for z in (student, teacher))
        loss, memory = objective.loss(state, *outputs, batch)
        state, losses = state._replace(memory=memory), [*losses, loss]
    p_s, p_t, p_2 = (_softmax(z) for z in (student, teacher, other))
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


def test_pkth_equals_the_published_code():
    def loss(student):
        return pkth.pkth_loss(student, jnp.asarray(_FILE["pkth/teacher"]))

    _assert_equal("pkth", loss, student=_FILE["pkth/student"])


def _disco64(student, teacher, rows, scale):
    keys = np.concatenate([teacher, rows])
    return -np.log(np.diagonal(_softmax(scale * student @ keys.T)))


def test_disco_equals_float64():
    student, teacher, rows = (_random(i, count, 5) for i, count in enumerate((4, 4, 9)))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher, rows)]
    actual = disco.disco_loss(*(jnp.asarray(x, jnp.float32) for x in unit), scale=14.0)
    np.testing.assert_allclose(actual, _disco64(*unit, 14.0), rtol=1e-4)


def test_ckd_compares_an_image_with_the_mean_of_the_next_images():
    student, teacher = _random(0, 2, 5, 3)
    e = student - teacher
    pairs = np.mean([np.sum((e - other) ** 2, 1) for other in e], 0) / 3
    groups = np.stack([e[i] - (e[(i + 1) % 5] + e[(i + 2) % 5]) / 2 for i in range(5)])
    actual = ckd.ckd_loss(jnp.asarray(student), jnp.asarray(teacher), group=2)
    expected = np.mean(pairs) + np.mean(groups**2)
    assert float(jnp.mean(actual)) == pytest.approx(expected, rel=1e-5)
    alone = ckd.ckd_loss(jnp.asarray(student), jnp.asarray(teacher))
    np.testing.assert_allclose(actual - alone, np.mean(groups**2, 1), rtol=1e-4)


def _kd64(student, teacher, temperature):
    p, q = (_softmax(z / temperature) for z in (teacher, student))
    return temperature**2 * np.sum(p * np.log(p / q), -1)


def _mlkd64(student, teacher, second_s, second_t, temperatures):
    total = 0.0
    for temperature in temperatures:
        p, q = (_softmax(z / temperature) for z in (teacher, student))
        total += _kd64(student, teacher, temperature) / 2 + _kd64(second_s, second_t, temperature)
        total += np.linalg.norm(p @ p.T - q @ q.T) ** 2 / (2 * len(p))
        total += np.linalg.norm(p.T @ p - q.T @ q) ** 2 / (2 * p.shape[1])
    return total


def test_mlkd_equals_float64():
    student, teacher, *second = _random(0, 4, 6, 5)
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
    entropies = [-np.sum(_softmax(z) * np.log(_softmax(z)), -1) for z in student]
    joint = entropies[0][:, None] + entropies[1]
    images[joint > np.quantile(joint, keep)] = 0
    return images.mean(1) + classes.mean()


@pytest.mark.parametrize("keep", [0.3, 1.0])
def test_vrm_equals_float64(keep):
    student, teacher = _random(0, 2, 2, 6, 5)
    views = (Views(*jnp.asarray(z, jnp.float32)) for z in (student, teacher))
    actual = vrm.vrm_loss(*views, keep=keep)
    np.testing.assert_allclose(actual, _vrm64(student, teacher, keep), rtol=1e-4)


def test_vrm_leaves_out_edges_without_length():
    points = jnp.asarray(_random(0, 4, 3), jnp.float32)
    same, other = Views(points, points), Views(points, points[::-1])

    def mean(first):
        return jnp.mean(vrm.vrm_loss(Views(first, points), other, keep=1.0))

    assert np.isfinite(jax.grad(mean)(points)).all()
    np.testing.assert_allclose(vrm.vrm_loss(same, same), 0, atol=1e-5)


def test_networks_and_options_that_do_not_fit_are_refused():
    outputs = toy.outputs(0)
    with pytest.raises(errors.InputError, match="cells of 1x1 positions"):
        wkd.wkd_features_loss(jnp.ones((2, 4, 4, 3)), jnp.ones((2, 4, 4, 3)), grid=4)
    narrow = outputs._replace(patches=outputs.patches[..., :3])
    with pytest.raises(errors.InputError, match="the student's classifier reads 8 features"):
        objectives.create("sdd").init(jax.random.key(0), narrow, outputs)
    with pytest.raises(errors.InputError, match="decay_from is 2"):
        objectives.create("wkd", decay_from=2.0)
