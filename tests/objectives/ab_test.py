import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState, ab
from rrd_jax.objectives.parts import adapters
from tests import golden
from tests.objectives import batches, golden_maps


def test_ab_with_connectors_equals_the_golden_file():
    file = golden.load("ab_connector")
    student, teacher = golden_maps.maps(file, "s"), golden_maps.maps(file, "t")
    objective = objectives.create("ab")
    teacher_outputs = golden_maps.outputs(teacher)
    initial = jax.eval_shape(
        objective.init, jax.random.key(0), golden_maps.outputs(student), teacher_outputs
    )
    frozen, names, layers = {}, {}, {}
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if s.shape == t.shape:
            frozen[f"tap{i}"] = {}
            continue
        module = f"connector.connectors.{i}"
        layers[i] = adapters.regressor(s.shape, t.shape, slope=1.0)
        names[i] = golden_maps.layer_names(layers[i], [f"{module}.conv"], [f"{module}.bn"])
        frozen[f"tap{i}"] = golden_maps.read_params(file, layers[i], names[i])
    assert list(names) == [0, 2]
    assert jax.tree.map(jnp.shape, initial.frozen) == jax.tree.map(jnp.shape, frozen)

    def loss(frozen, student):
        state = ObjectiveState(frozen=frozen)
        return objective.stage.loss(
            state, golden_maps.outputs(student), teacher_outputs, batches.NO_BATCH
        )[0]

    value, (frozen_gradient, student_gradient) = golden_maps.jit_value_and_grad(loss)(
        frozen, student
    )
    golden_maps.check_close(value, file["out/loss"])
    gradients = golden_maps.torch_map_gradients(student_gradient)
    for i in names:
        gradients |= golden_maps.torch_gradients(frozen_gradient[f"tap{i}"], layers[i], names[i])
        golden_maps.check_running_statistics(
            file, layers[i], frozen[f"tap{i}"], names[i], student[i]
        )
    golden_maps.check_gradients(file, gradients)


def test_ab_requires_the_margin_on_the_teachers_side():
    teacher = jnp.asarray([2.0, 2.0, -2.0, -2.0]).reshape(4, 1, 1, 1)
    student = jnp.asarray([1.5, 0.5, -1.5, -0.5]).reshape(4, 1, 1, 1)
    actual = ab.ab_loss([student], [teacher])
    np.testing.assert_allclose(actual, 3e-3 * np.array([0, 0.25, 0, 0.25]), rtol=1e-6)


def test_the_stage_loss_without_connectors_equals_the_golden_file():
    def outputs(maps):
        return golden_maps.outputs([0 * x for x in maps], preactivations=maps)

    golden_maps.check_golden_stage(objectives.create("ab"), golden.load("ab"), outputs)


@pytest.mark.parametrize("option", ["margin", "epochs"])
def test_options_of_zero_are_refused(option):
    with pytest.raises(errors.InputError, match=f"{option} is 0"):
        objectives.create("ab", **{option: 0})
