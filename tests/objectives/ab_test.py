import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState, ab
from rrd_jax.objectives.parts import adapters
from tests import golden
from tests.objectives import adapted, batches


def test_golden_ab_with_connectors():
    file = golden.load("ab_connector")
    student, teacher = adapted.maps(file, "s"), adapted.maps(file, "t")
    objective = objectives.create("ab")
    teacher_outputs = adapted.outputs(teacher)
    fresh = jax.eval_shape(
        objective.init, jax.random.key(0), adapted.outputs(student), teacher_outputs
    )
    frozen, names, layers = {}, {}, {}
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if s.shape == t.shape:
            frozen[f"tap{i}"] = {}
            continue
        own = f"connector.connectors.{i}"
        layers[i] = adapters.regressor(s.shape, t.shape, slope=1.0)
        names[i] = adapted.layer_names(layers[i], [f"{own}.conv"], [f"{own}.bn"])
        frozen[f"tap{i}"] = adapted.read(file, layers[i], names[i])
    assert list(names) == [0, 2]
    assert jax.tree.map(jnp.shape, fresh.frozen) == jax.tree.map(jnp.shape, frozen)

    def loss(frozen, student):
        state = ObjectiveState(frozen=frozen)
        return objective.stage.loss(
            state, adapted.outputs(student), teacher_outputs, batches.NO_BATCH
        )[0]

    value, (of_frozen, of_student) = adapted.jitted(loss)(frozen, student)
    adapted.check(value, file["out/loss"])
    gradients = adapted.torch_maps(of_student)
    for i in names:
        gradients |= adapted.torch_names(of_frozen[f"tap{i}"], layers[i], names[i])
        adapted.check_running(file, layers[i], frozen[f"tap{i}"], names[i], student[i])
    adapted.check_gradients(file, gradients)


def test_ab_asks_for_the_margin_on_the_teachers_side():
    teacher = jnp.asarray([2.0, 2.0, -2.0, -2.0]).reshape(4, 1, 1, 1)
    student = jnp.asarray([1.5, 0.5, -1.5, -0.5]).reshape(4, 1, 1, 1)
    found = ab.ab_loss([student], [teacher])
    np.testing.assert_allclose(found, 3e-3 * np.array([0, 0.25, 0, 0.25]), rtol=1e-6)


def test_golden_stage_loss_without_connectors():
    def outputs(maps):
        return adapted.outputs([0 * x for x in maps], preactivations=maps)

    adapted.check_only_before(objectives.create("ab"), golden.load("ab"), outputs)


@pytest.mark.parametrize("option", ["margin", "epochs"])
def test_options_of_zero_are_named(option):
    with pytest.raises(errors.InputError, match=f"{option} is 0"):
        objectives.create("ab", **{option: 0})
