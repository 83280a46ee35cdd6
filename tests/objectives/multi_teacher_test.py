"""Objectives with several teachers."""

import itertools

import chex
import jax
import numpy as np
import pytest

from rrd_jax import errors, networks, objectives
from rrd_jax.objectives import kd
from rrd_jax.teacher import ensemble
from tests.objectives import batches


def _outputs(seed, width):
    rng = np.random.default_rng(seed)
    return networks.Outputs(
        rng.standard_normal((6, 5)).astype(np.float32),
        rng.standard_normal((6, width)).astype(np.float32),
        patches=rng.standard_normal((6, 2, 2, width)).astype(np.float32),
    )


def _ensemble_outputs(weights, teachers):
    mean = sum(w * outputs.logits for w, outputs in zip(weights, teachers, strict=True))
    return ensemble.EnsembleOutputs(mean, teachers)


def test_kd_compares_with_the_averaged_logits():
    student, teachers, weights = _outputs(0, 8), (_outputs(1, 16), _outputs(2, 4)), (0.75, 0.25)
    term = objectives.averaged("kd", objectives.create("kd"), weights)
    teacher = _ensemble_outputs(weights, teachers)
    state = term.init(jax.random.key(0), student, teacher)
    losses, _ = term.loss(state, student, teacher, batches.NO_BATCH)
    expected = kd.kd_loss(
        student.logits, 0.75 * teachers[0].logits + 0.25 * teachers[1].logits, temperature=4.0
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    # The teachers have the same, averaged logits, so their losses are not reported.
    arguments = ("kd", term, state, student, teacher, batches.NO_BATCH)
    assert objectives.mean_losses(*arguments)[0].keys() == {"kd"}


@pytest.mark.parametrize("over", ["images", "both"])
@pytest.mark.long
def test_rrd_compares_with_a_memory_of_each_teacher(over):
    student, teachers, weights = _outputs(0, 8), (_outputs(1, 16), _outputs(2, 4)), (0.75, 0.25)
    alone = objectives.create("rrd", queue_size=10, patch_queue_size=30, dim=3, over=over)
    rrd = objectives.averaged("rrd", alone, weights)
    teacher = _ensemble_outputs(weights, teachers)
    state = jax.jit(rrd.init)(jax.random.key(0), student, teacher)
    losses, memory = jax.jit(rrd.loss)(state, student, teacher, batches.NO_BATCH)
    means, _ = objectives.mean_losses("rrd", rrd, state, student, teacher, batches.NO_BATCH)
    expected = 0.0
    for i, weight in enumerate(weights):
        state_of_teacher = objectives.ObjectiveState(*(part[f"teacher{i}"] for part in state))
        loss, pushed = jax.jit(alone.loss)(state_of_teacher, student, teachers[i], batches.NO_BATCH)
        expected += weight * loss
        chex.assert_trees_all_equal(memory[f"teacher{i}"], pushed)
        assert float(means[f"rrd[{i}]"]) == pytest.approx(float(loss.mean()), rel=1e-5)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    rows = [jax.tree.leaves(memory[f"teacher{i}"])[0] for i in range(2)]
    assert rows[0].shape != rows[1].shape or not np.array_equal(*rows)


def test_an_objective_that_classifies_refuses_several_teachers():
    with pytest.raises(errors.InputError, match="'simkd' reuses its teacher's classifier"):
        objectives.averaged("simkd", objectives.create("simkd"), (0.5, 0.5))


def test_an_objective_compares_with_its_teachers_only():
    student, teachers = _outputs(0, 8), (_outputs(1, 16), _outputs(2, 4), _outputs(3, 6))
    teacher = _ensemble_outputs((0.5, 0.25, 0.25), teachers)
    kd_term = objectives.averaged("kd", objectives.create("kd"), (0.0, 0.75, 0.25))
    state = kd_term.init(jax.random.key(0), student, teacher)
    losses, _ = kd_term.loss(state, student, teacher, batches.NO_BATCH)
    expected = 0.75 * teachers[1].logits + 0.25 * teachers[2].logits
    np.testing.assert_allclose(losses, kd.kd_loss(student.logits, expected, temperature=4.0))
    alone = objectives.create("embed")
    term = objectives.averaged("embed", alone, (0.0, 0.0, 1.0))
    state = term.init(jax.random.key(0), student, teacher)
    assert state.params.keys() == {"teacher2"}
    means, _ = objectives.mean_losses("embed", term, state, student, teacher, batches.NO_BATCH)
    assert means.keys() == {"embed", "embed[2]"}
    assert means["embed"] == means["embed[2]"]


def _both_teach(losses, values, weights):
    """Returns which of two teachers are kept for each image, from the losses and those of each."""
    largest = values.argmax(1)[:, None] == np.arange(2)
    for others in itertools.product([False, True], repeat=len(values)):
        both = largest | np.array(others)[:, None]
        expected = len(values) * (both * weights * values).sum(1) / (both * weights).sum()
        if np.allclose(losses, expected, rtol=1e-5):
            return both.all(1)
    raise AssertionError("no choice of teachers has these losses")


def test_teachers_without_logits_are_accepted():
    student, teachers = _outputs(0, 8), (_outputs(1, 16), _outputs(2, 4)._replace(logits=()))
    teacher = ensemble.EnsembleOutputs((), teachers)
    batch = batches.NO_BATCH._replace(index=np.arange(6, dtype=np.int32))
    for name, drop in (("embed", 0.0), ("embed", 0.5), ("rrd", 0.0)):
        term = objectives.averaged(name, objectives.create(name), (0.5, 0.5), drop=drop)
        objectives.check(name, term, student, teacher, batch)
    term = objectives.averaged("kd", objectives.create("kd"), (0.5, 0.5))
    with pytest.raises(errors.InputError, match="reads teacher.logits"):
        objectives.check("kd", term, student, teacher, batch)


def test_teachers_are_dropped_as_in_the_float64_reference():
    weights = (0.7, 0.3)
    student, teachers = _outputs(0, 8), (_outputs(1, 16), _outputs(2, 4))
    teacher = _ensemble_outputs(weights, teachers)
    batch = batches.NO_BATCH._replace(index=np.arange(6, dtype=np.int32) + 3)
    term = objectives.averaged("embed", objectives.create("embed"), weights, drop=0.25)
    state = jax.jit(term.init)(jax.random.key(0), student, teacher)
    loss, both = jax.jit(term.by_teacher), []
    for _ in range(60):
        losses, memory, parts = loss(state, student, teacher, batch)
        values = np.stack([parts[0], parts[1]], axis=1).astype(np.float64)
        both.append(_both_teach(losses, values, weights))
        state = state._replace(memory=memory)
    # 360 draws; the standard deviation of their mean is 0.023.
    assert abs(np.mean(both) - 0.75) < 0.08
    assert not np.array_equal(both[0], both[1])
    # Held-out images have no index: nothing is dropped, and the state is unchanged.
    losses, memory, parts = loss(state, student, teacher, batches.NO_BATCH._replace(index=None))
    np.testing.assert_allclose(losses, 0.7 * parts[0] + 0.3 * parts[1], rtol=1e-6)
    chex.assert_trees_all_equal(memory, state.memory)


def test_the_teachers_of_an_image_do_not_depend_on_the_other_images():
    weights = (0.7, 0.3)
    student, teachers = _outputs(0, 8), (_outputs(1, 16), _outputs(2, 4))
    term = objectives.averaged("embed", objectives.create("embed"), weights, drop=0.5)
    state = term.init(jax.random.key(0), student, _ensemble_outputs(weights, teachers))
    both = []
    for part in (slice(0, 6), slice(2, 6)):
        of_part = [
            jax.tree.map(lambda leaf, part=part: leaf[part], o) for o in (student, *teachers)
        ]
        teacher = _ensemble_outputs(weights, tuple(of_part[1:]))
        batch = batches.NO_BATCH._replace(index=np.arange(6, dtype=np.int32)[part])
        losses, _, parts = term.by_teacher(state, of_part[0], teacher, batch)
        both.append(_both_teach(losses, np.stack([parts[0], parts[1]], axis=1), weights))
    np.testing.assert_array_equal(both[0][2:], both[1])


def test_averaged_logits_and_losses_of_whole_batches_are_not_dropped():
    student, teachers, weights = _outputs(0, 8), (_outputs(1, 8), _outputs(2, 8)), (0.75, 0.25)
    teacher = _ensemble_outputs(weights, teachers)
    batch = batches.NO_BATCH._replace(index=np.arange(6, dtype=np.int32))
    losses = {}
    for drop in (0.0, 0.9):
        term = objectives.averaged("kd", objectives.create("kd"), weights, drop=drop)
        state = term.init(jax.random.key(0), student, teacher)
        losses[drop] = term.loss(state, student, teacher, batch)[0]
    np.testing.assert_allclose(losses[0.0], losses[0.9], rtol=1e-6)
    term = objectives.averaged("cc", objectives.create("cc"), weights, drop=0.5)
    state = term.init(jax.random.key(0), student, teacher)
    with pytest.raises(errors.InputError, match="'cc' has one loss for the whole batch"):
        term.loss(state, student, teacher, batch)
