"""The floor of RRD's loss, compared with NumPy in float64."""

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from rrd_jax import objectives, parallel
from rrd_jax.jobs.alignment_during_training import compile_loss_and_floor
from rrd_jax.networks import Outputs


def _create(**options):
    """Creates an objective; returns it, its state and embeddings of student and teacher."""
    objective = objectives.create("rrd", queue_size=32, dim=8, **options)
    rng = np.random.default_rng(0)
    student, teacher = (rng.standard_normal((16, d)).astype(np.float32) for d in (5, 6))
    state = objective.init(jax.random.key(0), Outputs((), student), Outputs((), teacher))
    return objective, state, student, teacher


def _unit(layer, embedding):
    rows = embedding.astype(np.float64) @ np.asarray(layer["kernel"], np.float64) + np.asarray(
        layer["bias"], np.float64
    )
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("train_projection", [True, False])
@pytest.mark.parametrize(
    ("preset", "temperature"), [("sharp_student", 0.1), ("sharp_teacher", 0.02)]
)
def test_the_floor_is_the_entropy_of_the_teachers_relations(preset, temperature, train_projection):
    objective, state, student, teacher = _create(preset=preset, train_projection=train_projection)
    target = _unit(state.frozen if train_projection else state.frozen[1], teacher)
    memory = np.asarray(state.memory.rows, np.float64)
    if preset == "sharp_teacher":
        # The batch is pushed to the memory before the comparison.
        memory = np.concatenate([target, memory[16:]])
    shares = scipy.special.softmax(target @ memory.T / temperature, axis=1)
    floor = objective.floor(state, Outputs((), teacher))
    np.testing.assert_allclose(floor, scipy.stats.entropy(shares, axis=1), rtol=1e-5, atol=2e-6)
    loss, _ = objective.loss(state, Outputs((), student), Outputs((), teacher), None)
    assert (np.asarray(loss) > np.asarray(floor)).all()


def test_a_sharded_memory_has_the_loss_and_floor_of_an_unsharded_memory():
    objective, state, student, teacher = _create()
    mesh = parallel.make_mesh()
    rows = jax.device_put(state.memory.rows, parallel.split(mesh))
    replicated = parallel.replicated(mesh)
    rest = parallel.put(replicated, state._replace(memory=state.memory._replace(rows=())))
    placed = rest._replace(memory=rest.memory._replace(rows=rows))
    actual = compile_loss_and_floor(objective, mesh)(
        placed, *parallel.put(replicated, [student, teacher])
    )
    loss, _ = objective.loss(state, Outputs((), student), Outputs((), teacher), None)
    floor = objective.floor(state, Outputs((), teacher))
    np.testing.assert_allclose(actual, [loss.mean(), floor.mean()], rtol=1e-5)


def test_memories_of_training_images_and_several_teachers_have_no_floor():
    assert objectives.create("rrd", memory="momentum", examples=9, queue_size=4).floor is None
    assert objectives.averaged("rrd", objectives.create("rrd"), (0.5, 0.5)).floor is None


def test_the_floor_includes_the_own_pair_without_a_teacher_projection():
    options = {"temperature_teacher": 0.2, "own_pair": True, "teacher_projection": False}
    objective, state, student, teacher = _create(**options)
    target = teacher.astype(np.float64) / np.linalg.norm(teacher, axis=1, keepdims=True)
    cosines = target @ np.asarray(state.memory.rows, np.float64).T
    shares = scipy.special.softmax(np.c_[np.ones(16), cosines] / 0.2, axis=1)
    floor = objective.floor(state, Outputs((), teacher))
    np.testing.assert_allclose(floor, scipy.stats.entropy(shares, axis=1), rtol=1e-5, atol=2e-6)
    loss, _ = objective.loss(state, Outputs((), student), Outputs((), teacher), None)
    assert (np.asarray(loss) > np.asarray(floor)).all()
