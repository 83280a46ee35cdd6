import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState, ft
from rrd_jax.objectives.parts import adapters
from tests import golden
from tests.objectives import adapted, batches


@pytest.mark.parametrize(("name", "order"), [("ft", 1), ("ft_p2", 2)])
def test_golden_ft_criterion(name, order):
    file = golden.load(name)
    teacher = adapted.nhwc(file["in/f_t"])

    def loss(params, student):
        return ft.ft_loss(student, teacher, order=order)

    value, (_, gradient) = adapted.jitted(loss)((), adapted.nhwc(file["in/f_s"]))
    adapted.check(value, file["out/loss"])
    adapted.check_gradients(file, {"in/f_s": np.transpose(gradient, (0, 3, 1, 2))})


def _paraphraser(file):
    layer = adapters.Layer(0, bias=True, norm=False)
    encoder, decoder = [layer] * 3, [layer._replace(transposed=True)] * 3
    modules = {
        part: [f"paraphraser.{part}.{position}" for position in (0, 3, 6)]
        for part in ("encoder", "decoder")
    }
    layers = {"encoder": encoder, "decoder": decoder}
    names = {part: adapted.layer_names(layers[part], modules[part], None) for part in layers}
    params = {part: adapted.read(file, layers[part], names[part]) for part in layers}
    return params, layers, names


def test_golden_ft_with_translator_and_paraphraser():
    file = golden.load("ft_full")
    student, teacher = adapted.nhwc(file["in/f_s"]), adapted.nhwc(file["in/f_t"])
    frozen, _, _ = _paraphraser(file)
    layers = ft._encoder(8, 6, norm=True)
    names = adapted.sequential(layers, "translator.encoder")
    params = adapted.read(file, layers, names)
    objective = objectives.create("ft")
    teacher = adapted.outputs([teacher])
    fresh = jax.eval_shape(objective.init, jax.random.key(0), adapted.outputs([student]), teacher)
    state = ObjectiveState(params, frozen)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, state)

    def loss(params, x):
        own = state._replace(params=params)
        return objective.loss(own, adapted.outputs([x]), teacher, batches.NO_BATCH)[0]

    value, (of_params, of_student) = adapted.jitted(loss)(params, student)
    adapted.check(value, file["out/loss"])
    gradients = adapted.torch_names(of_params, layers, names)
    gradients["in/f_s"] = np.transpose(of_student, (0, 3, 1, 2))
    adapted.check_gradients(file, gradients)
    adapted.check_running(file, layers, params, names, student)
    factor, _ = jax.jit(ft.paraphrase)(frozen, teacher.maps[-1])
    adapted.check(factor, golden.to_nhwc(file["out/factor_t"]))


def test_golden_ft_stage():
    file = golden.load("ft_paraphraser_init")
    frozen, layers, names = _paraphraser(file)
    teacher = adapted.nhwc(file["in/f_t"])
    objective = objectives.create("ft")

    def loss(frozen, x):
        outputs = adapted.outputs([x])
        return objective.stage.loss(
            ObjectiveState(frozen=frozen), outputs, outputs, batches.NO_BATCH
        )[0]

    value, (of_frozen, of_teacher) = adapted.jitted(loss)(frozen, teacher)
    adapted.check(value, file["out/loss"])
    np.testing.assert_array_equal(of_teacher, 0)  # the teacher is constant
    gradients = {}
    for part in layers:
        gradients |= adapted.torch_names(of_frozen[part], layers[part], names[part])
    own = {k: v for k, v in file.items() if k != "grad/in/f_t"}
    adapted.check_gradients(own, gradients)
    _, made = jax.jit(ft.paraphrase)(frozen, teacher)
    adapted.check(made, golden.to_nhwc(file["out/rec"]))
    assert (objective.stage.student, objective.stage.learning_rate) == (False, 0.01)


def test_ft_has_no_loss_for_equal_factors_and_a_finite_gradient_there():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 4, 5)), jnp.float32)
    loss = jax.jit(jax.value_and_grad(lambda s, t: jnp.sum(ft.ft_loss(s, t))))
    for factor in (x, 0 * x):
        value, gradient = loss(factor, factor)
        assert value == 0
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("option", "value"), [("rate", 1.5), ("order", 3)])
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(errors.InputError, match=f"{option} is {value}"):
        objectives.create("ft", **{option: value})
