"""Objectives with several teachers."""

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
    return ensemble.EnsembleOutputs(
        mean, tuple(outputs._replace(logits=mean) for outputs in teachers)
    )


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
