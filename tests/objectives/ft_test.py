import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState, ft
from rrd_jax.objectives.parts import adapters
from tests import golden
from tests.objectives import batches, golden_maps


@pytest.mark.parametrize(("name", "order"), [("ft", 1), ("ft_p2", 2)])
def test_the_ft_criterion_equals_the_golden_file(name, order):
    file = golden.load(name)
    teacher = golden_maps.nhwc(file["in/f_t"])

    def loss(params, student):
        return ft.ft_loss(student, teacher, order=order)

    value, (_, gradient) = golden_maps.jit_value_and_grad(loss)(
        (), golden_maps.nhwc(file["in/f_s"])
    )
    golden_maps.check_close(value, file["out/loss"])
    golden_maps.check_gradients(file, {"in/f_s": np.transpose(gradient, (0, 3, 1, 2))})


def _paraphraser(file):
    layer = adapters.Layer(0, bias=True, norm=False)
    encoder, decoder = [layer] * 3, [layer._replace(transposed=True)] * 3
    modules = {
        part: [f"paraphraser.{part}.{position}" for position in (0, 3, 6)]
        for part in ("encoder", "decoder")
    }
    layers = {"encoder": encoder, "decoder": decoder}
    names = {part: golden_maps.layer_names(layers[part], modules[part], None) for part in layers}
    params = {part: golden_maps.read_params(file, layers[part], names[part]) for part in layers}
    return params, layers, names


def test_ft_with_translator_and_paraphraser_equals_the_golden_file():
    file = golden.load("ft_full")
    student, teacher = golden_maps.nhwc(file["in/f_s"]), golden_maps.nhwc(file["in/f_t"])
    frozen, _, _ = _paraphraser(file)
    layers = ft._encoder(8, 6, norm=True)
    names = golden_maps.sequential_names(layers, "translator.encoder")
    params = golden_maps.read_params(file, layers, names)
    objective = objectives.create("ft")
    teacher = golden_maps.outputs([teacher])
    initial = jax.eval_shape(
        objective.init, jax.random.key(0), golden_maps.outputs([student]), teacher
    )
    state = ObjectiveState(params, frozen)
    assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, state)

    def loss(params, x):
        trained = state._replace(params=params)
        return objective.loss(trained, golden_maps.outputs([x]), teacher, batches.NO_BATCH)[0]

    golden_maps.check_adapter_loss(file, loss, params, layers, names, student)
    golden_maps.check_running_statistics(file, layers, params, names, student)
    factor, _ = jax.jit(ft.paraphrase)(frozen, teacher.maps[-1])
    golden_maps.check_close(factor, golden.to_nhwc(file["out/factor_t"]))


def test_the_ft_stage_equals_the_golden_file():
    file = golden.load("ft_paraphraser_init")
    frozen, layers, names = _paraphraser(file)
    teacher = golden_maps.nhwc(file["in/f_t"])
    objective = objectives.create("ft")

    def loss(frozen, x):
        outputs = golden_maps.outputs([x])
        return objective.stage.loss(
            ObjectiveState(frozen=frozen), outputs, outputs, batches.NO_BATCH
        )[0]

    value, (frozen_gradient, teacher_gradient) = golden_maps.jit_value_and_grad(loss)(
        frozen, teacher
    )
    golden_maps.check_close(value, file["out/loss"])
    # The objective treats the teacher as a constant.
    np.testing.assert_array_equal(teacher_gradient, 0)
    gradients = {}
    for part in layers:
        gradients |= golden_maps.torch_gradients(frozen_gradient[part], layers[part], names[part])
    listed = {k: v for k, v in file.items() if k != "grad/in/f_t"}
    golden_maps.check_gradients(listed, gradients)
    _, reconstruction = jax.jit(ft.paraphrase)(frozen, teacher)
    golden_maps.check_close(reconstruction, golden.to_nhwc(file["out/rec"]))
    assert (objective.stage.student, objective.stage.learning_rate) == (False, 0.01)


def test_ft_has_no_loss_for_equal_factors_and_a_finite_gradient_there():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 4, 5)), jnp.float32)
    loss = jax.jit(jax.value_and_grad(lambda s, t: jnp.sum(ft.ft_loss(s, t))))
    for factor in (x, 0 * x):
        value, gradient = loss(factor, factor)
        assert value == 0
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("option", "value"), [("rate", 1.5), ("order", 3)])
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(errors.InputError, match=f"{option} is {value}"):
        objectives.create("ft", **{option: value})
