"""Objectives since 2023: numbers of the published code, and float64 code from the equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ckd, ctkd, disco, kd, ofa, pkth, rld, sdd, wkd, wttm
from rrd_jax.objectives.parts import transport
from tests import golden
from tests.objectives import batches, recent, toy


def _nhwc(name):
    return jnp.asarray(golden.to_nhwc(recent.FILE[name]))


def _rld64(student, teacher, labels, temperature):
    losses = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        p, q = recent.softmax(t).max(), recent.softmax(s)[label]
        loss = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        below = t < t[label]
        if below.any():
            p, q = (recent.softmax(x[below] / temperature) for x in (t, s))
            loss += 8 * temperature**2 * np.sum(p * np.log(p / q))
        losses.append(loss)
    return losses


def test_rld_equals_float64():
    student, teacher, labels = recent.random(0, 9, 5), recent.random(1, 9, 5), np.arange(9) % 5
    # The teacher ranks the label last, first, and equal to another class.
    teacher[0, 0], teacher[1, 1], teacher[2, 3] = -20, 20, teacher[2, 2]
    actual = rld.rld_loss(jnp.asarray(student), jnp.asarray(teacher), labels)
    # Float32 rounds the second part to 1e-5.
    np.testing.assert_allclose(actual, _rld64(student, teacher, labels, 4.0), rtol=1e-4)


def _wttm64(student, teacher, power):
    powers = recent.softmax(teacher) ** power
    q = powers / powers.sum(-1, keepdims=True)
    return powers.sum(-1) * np.sum(q * np.log(q / recent.softmax(student)), -1)


@pytest.mark.parametrize("power", [0.1, 1.0, 3.0])
def test_wttm_equals_float64(power):
    student, teacher = recent.random(0, 9, 5), recent.random(1, 9, 5)
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
    student, teacher, labels = recent.random(0, 6, 5), recent.random(1, 6, 5), np.arange(6) % 5
    cost = np.random.default_rng(2).uniform(0.3, 0.6, (5, 5)) * (1 - np.eye(5))
    cost = (cost + cost.T) / 2
    expected = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        a, b = (recent.softmax(np.delete(z, label) / temperature) for z in (s, t))
        others = np.delete(np.delete(cost, label, 0), label, 1)
        target = -recent.softmax(t)[label] * np.log(recent.softmax(s)[label])
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


def test_rld_equals_the_published_code():
    recent.assert_equal(
        "rld",
        lambda student: rld.rld_loss(student, recent.TEACHER, recent.LABELS),
        student=recent.FILE["student"],
    )


@pytest.mark.parametrize("case", ["wttm", "ttm"])
def test_wttm_equals_the_published_code(case):
    def loss(student):
        return wttm.wttm_loss(student, recent.TEACHER, power=0.2, weighted=case == "wttm")

    recent.assert_equal(case, loss, student=recent.FILE["student"])


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
def test_ctkd_equals_the_published_code(factor):
    def loss(student, temperature):
        scalar = ctkd.reversed_gradient(temperature[0], factor)
        softmax = 1 + 20 * jax.nn.sigmoid(scalar)
        return kd.kd_loss(student, recent.TEACHER, temperature=softmax)

    recent.assert_equal(
        f"ctkd_{factor}", loss, student=recent.FILE["student"], temperature=np.ones(1)
    )


@pytest.mark.parametrize("case", ["kd", "dkd"])
def test_sdd_equals_the_published_code(case):
    head = {"kernel": jnp.asarray(recent.FILE["sdd/teacher_kernel"]), "bias": jnp.zeros(7)}
    teacher = sdd.regions(_nhwc("sdd/teacher_map"), head, 3)

    def loss(map, kernel):
        maps = jnp.moveaxis(map, 1, -1)
        student = sdd.regions(maps, {"kernel": kernel, "bias": jnp.zeros(7)}, 3)
        return sdd.sdd_loss(student, teacher, recent.LABELS, loss=case)

    arrays = {"map": recent.FILE["sdd/student_map"], "kernel": recent.FILE["sdd/student_kernel"]}
    recent.assert_equal(f"sdd_{case}", loss, **arrays)


def test_wkd_equals_the_published_code():
    cost = jnp.asarray(1 - np.exp(-recent.FILE["wkd/distance"]), jnp.float32)
    recent.assert_equal(
        "wkd_logits",
        lambda student: wkd.wkd_logits_loss(student, recent.TEACHER, recent.LABELS, cost),
        student=recent.FILE["student"],
    )


@pytest.mark.parametrize("grid", [1, 3])
def test_wkd_of_features_equals_the_published_code(grid):
    teacher = _nhwc("wkd_features/teacher")

    def loss(student):
        return wkd.wkd_features_loss(jnp.moveaxis(student, 1, -1), teacher, grid=grid)

    recent.assert_equal(f"wkd_features_{grid}", loss, student=recent.FILE["wkd_features/student"])


def test_distances_between_classes_equal_the_published_code():
    features = recent.FILE["wkd/features"]
    classes, count, _ = features.shape
    # Images of the classes alternate, and the last class has one more.
    embedding = np.concatenate([features.swapaxes(0, 1).reshape(count * classes, -1), features[0]])
    labels = np.concatenate([np.tile(np.arange(classes), count), np.full(count, classes - 1)])
    # A fifth class is too small.
    embedding, labels = np.append(embedding, embedding[:3], 0), np.append(labels, [classes] * 3)
    actual = transport.cka_distances(embedding, labels, classes + 1)
    np.testing.assert_allclose(actual[:-1, :-1], recent.FILE["wkd/cka"], atol=1e-6)
    mean = recent.FILE["wkd/cka"].sum() / (classes * (classes - 1))
    np.testing.assert_allclose(actual[-1], [mean] * classes + [0], atol=1e-6)


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_ofa_equals_the_published_code(power):
    recent.assert_equal(
        f"ofa_{power}",
        lambda student: ofa.ofa_loss(student, recent.TEACHER, recent.LABELS, power=power),
        student=recent.FILE["student"],
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


def test_pkth_equals_the_published_code():
    def loss(student):
        return pkth.pkth_loss(student, jnp.asarray(recent.FILE["pkth/teacher"]))

    recent.assert_equal("pkth", loss, student=recent.FILE["pkth/student"])


def _disco64(student, teacher, rows, scale):
    keys = np.concatenate([teacher, rows])
    return -np.log(np.diagonal(recent.softmax(scale * student @ keys.T)))


def test_disco_equals_float64():
    student, teacher, rows = (recent.random(i, count, 5) for i, count in enumerate((4, 4, 9)))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher, rows)]
    actual = disco.disco_loss(*(jnp.asarray(x, jnp.float32) for x in unit), scale=14.0)
    np.testing.assert_allclose(actual, _disco64(*unit, 14.0), rtol=1e-4)


def test_ckd_compares_an_image_with_the_mean_of_the_next_images():
    student, teacher = recent.random(0, 2, 5, 3)
    e = student - teacher
    pairs = np.mean([np.sum((e - other) ** 2, 1) for other in e], 0) / 3
    groups = np.stack([e[i] - (e[(i + 1) % 5] + e[(i + 2) % 5]) / 2 for i in range(5)])
    actual = ckd.ckd_loss(jnp.asarray(student), jnp.asarray(teacher), group=2)
    expected = np.mean(pairs) + np.mean(groups**2)
    assert float(jnp.mean(actual)) == pytest.approx(expected, rel=1e-5)
    alone = ckd.ckd_loss(jnp.asarray(student), jnp.asarray(teacher))
    np.testing.assert_allclose(actual - alone, np.mean(groups**2, 1), rtol=1e-4)


def test_networks_and_options_that_do_not_fit_are_refused():
    outputs = toy.outputs(0)
    with pytest.raises(errors.InputError, match="cells of 1x1 positions"):
        wkd.wkd_features_loss(jnp.ones((2, 4, 4, 3)), jnp.ones((2, 4, 4, 3)), grid=4)
    narrow = outputs._replace(patches=outputs.patches[..., :3])
    with pytest.raises(errors.InputError, match="the student's classifier reads 8 features"):
        objectives.create("sdd").init(jax.random.key(0), narrow, outputs)
    with pytest.raises(errors.InputError, match="decay_from is 2"):
        objectives.create("wkd", decay_from=2.0)
