import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState, adapters, features
from tests import golden
from tests.objectives import adapted

_LABELS = {"label": jnp.zeros(4, jnp.int32)}


@pytest.mark.parametrize("name", ["at", "imagenet_at", "nst"])
def test_golden_losses_over_taps(name):
    file = golden.load(name)
    student, teacher = adapted.maps(file, "s"), adapted.maps(file, "t")
    objective = objectives.create(name.removeprefix("imagenet_"))

    def loss(params, student):
        state = ObjectiveState(params)
        own, other = adapted.outputs(student), adapted.outputs(teacher)
        return objective.loss(state, own, other, _LABELS)[0]

    value, (_, gradients) = adapted.jitted(loss)((), student)
    adapted.check(value, file["out/loss"])
    adapted.check_gradients(file, adapted.torch_maps(gradients))


@pytest.mark.parametrize("name", ["down", "same", "up", "valid"])
def test_golden_fitnet(name):
    _check_fitnet(golden.load(f"fitnet_{name}"))


def test_golden_fitnet_with_a_pooled_teacher():
    _check_fitnet(golden.load("imagenet_fitnet_pool"))


def _check_fitnet(file):
    student, teacher = adapted.nhwc(file["in/f_s"]), adapted.nhwc(file["in/f_t"])
    layers = adapters.regressor(student.shape, teacher.shape)
    names = adapted.layer_names(layers, ["reg.conv"], ["reg.bn"])
    params = adapted.read(file, layers, names)
    objective = objectives.create("fitnet", tap=1)

    def loss(params, student):
        own, other = adapted.outputs([student]), adapted.outputs([teacher])
        return objective.loss(ObjectiveState(params), own, other, _LABELS)[0]

    value, (of_params, of_student) = adapted.jitted(loss)(params, student)
    adapted.check(value, file["out/loss"])
    gradients = adapted.torch_names(of_params, layers, names)
    gradients["in/f_s"] = np.transpose(of_student, (0, 3, 1, 2))
    adapted.check_gradients(file, gradients)
    adapted.check(adapters.apply(layers, params, student), golden.to_nhwc(file["out/reg_out"]))
    adapted.check_running(file, layers, params, names, student)
    fresh = objective.init(
        jax.random.key(0), adapted.outputs([student]), adapted.outputs([teacher])
    )
    assert jax.tree.map(jnp.shape, fresh.params) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("name", ["vid", "imagenet_vid"])
def test_golden_vid(name):
    file = golden.load(name)
    student, teacher = adapted.maps(file, "s"), adapted.maps(file, "t")
    objective = objectives.create("vid")
    own, other = adapted.outputs(student), adapted.outputs(teacher)
    fresh = objective.init(jax.random.key(0), own, other)
    plain = [adapters.Layer(0, norm=False)] * 3
    params, names = {}, {}
    for i in range(len(student)):
        names[i] = adapted.layer_names(plain, [f"vid{i}.regressor.{j}" for j in (0, 2, 4)], None)
        scale = jnp.asarray(file[f"param/vid{i}.log_scale"])
        params[f"tap{i}"] = {"mean": adapted.read(file, plain, names[i]), "scale": scale}
    assert jax.tree.map(jnp.shape, fresh.params) == jax.tree.map(jnp.shape, params)

    def loss(params, student):
        own = adapted.outputs(student)
        return objective.loss(ObjectiveState(params), own, other, _LABELS)[0]

    value, (of_params, of_student) = adapted.jitted(loss)(params, student)
    adapted.check(value, file["out/loss"])
    gradients = adapted.torch_maps(of_student)
    for i in range(len(student)):
        tap = of_params[f"tap{i}"]
        gradients |= adapted.torch_names(tap["mean"], plain, names[i])
        gradients[f"param/vid{i}.log_scale"] = tap["scale"]
    adapted.check_gradients(file, gradients)


def test_vid_starts_with_the_variance_it_is_given():
    objective = objectives.create("vid", variance=0.3)
    outputs = adapted.outputs([jnp.ones((2, 4, 4, 3))])
    state = objective.init(jax.random.key(0), outputs, outputs)
    variance = jax.nn.softplus(state.params["tap0"]["scale"]) + 1e-5
    np.testing.assert_allclose(variance, 0.3, rtol=1e-6)


def _normal(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def test_at_and_nst_equal_float64_at_other_sizes_and_powers():
    student, teacher = _normal(3, (5, 9, 7, 4), (5, 6, 7, 8))
    pooled = np.einsum("ih,bhwc->biwc", adapters.averages(9, 6), np.asarray(student, np.float64))
    other = np.asarray(teacher, np.float64)

    def unit(x, axis):
        return x / np.linalg.norm(x, axis=axis, keepdims=True)

    def attention(x):
        return unit((abs(x) ** 3).mean(-1).reshape(5, -1), 1)

    found = features.at_loss([student], [teacher], power=3)
    wanted = ((attention(pooled) - attention(other)) ** 2).mean(1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)

    a, b = (unit(x.reshape(5, 42, -1), 1) for x in (pooled, other))
    wanted = ((np.einsum("bpc,bpd->bcd", b, b) ** 2).mean((1, 2))
              + (np.einsum("bpc,bpd->bcd", a, a) ** 2).mean((1, 2))
              - 2 * (np.einsum("bpc,bpd->bcd", a, b) ** 2).mean((1, 2)))  # fmt: skip
    np.testing.assert_allclose(features.nst_loss([student], [teacher]), wanted, rtol=1e-4)


@pytest.mark.parametrize("loss", [features.at_loss, features.nst_loss])
def test_equal_maps_have_no_loss_and_scale_says_nothing(loss):
    (x,) = _normal(0, (3, 4, 4, 5))
    np.testing.assert_allclose(loss([x], [x]), 0, atol=1e-6)
    np.testing.assert_allclose(loss([7 * x], [x]), 0, atol=1e-6)


@pytest.mark.parametrize("name", ["fitnet", "at", "vid", "nst"])
def test_options_out_of_range_are_named(name):
    bad = {"fitnet": {"tap": -1}, "at": {"power": 0.5}, "vid": {"variance": 1e-6}}
    option = bad.get(name, {"power": 2})
    with pytest.raises(errors.InputError, match=next(iter(option))):
        objectives.create(name, **option)


def test_fitnet_refuses_a_tap_that_is_not_there():
    outputs = adapted.outputs([jnp.ones((2, 4, 4, 3))])
    with pytest.raises(errors.InputError, match="tap is 2, but the networks share only 2 taps"):
        objectives.create("fitnet").init(jax.random.key(0), outputs, outputs)
