import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import relations
from tests import golden


@pytest.mark.parametrize("name", ["sp", "imagenet_sp"])
def test_sp_golden_on_maps_in_our_layout(name):
    file = golden.load(name)
    student, teacher = (jnp.asarray(golden.to_nhwc(file[f"in/{x}"])) for x in ("s0", "t0"))
    objective = objectives.create("sp")

    def loss(student):
        outputs = (Outputs(jnp.zeros(()), jnp.zeros(()), (x,)) for x in (student, teacher))
        return jnp.mean(objective.loss(objectives.ObjectiveState(), *outputs, {})[0])

    value, gradient = jax.jit(jax.value_and_grad(loss))(student)
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, golden.to_nhwc(file["grad/in/s0"])) < 1e-5


def test_sp_does_not_depend_on_the_order_of_axes_and_pixels():
    rng = np.random.default_rng(0)
    student, teacher = (jnp.asarray(rng.standard_normal((5, 3, 4, c))) for c in (6, 7))
    found = relations.sp_loss(jnp.moveaxis(student, -1, 1), teacher[:, ::-1])
    np.testing.assert_allclose(found, relations.sp_loss(student, teacher), rtol=1e-5)


def test_sp_asks_for_maps():
    outputs = Outputs(jnp.zeros((3, 2)), jnp.zeros((3, 4)))
    with pytest.raises(errors.InputError, match="the student has no maps"):
        objectives.create("sp").loss(objectives.ObjectiveState(), outputs, outputs, {})


@pytest.mark.parametrize("name", ["rkd", "pkt"])
def test_rkd_and_pkt_golden(name):
    file = golden.load(name)
    loss = {"rkd": relations.rkd_loss, "pkt": relations.pkt_loss}[name]
    value, gradient = jax.jit(
        jax.value_and_grad(lambda student: jnp.mean(loss(student, file["in/f_t"])))
    )(file["in/f_s"])
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, file["grad/in/f_s"]) < 1e-5


def test_cc_golden_with_gradients_into_both_layers():
    file = golden.load("cc")
    objective = objectives.create("cc", dim=12)
    params = {
        "student": golden.linear(file, "embed_s.linear"),
        "teacher": golden.linear(file, "embed_t.linear"),
    }

    def loss(params, student):
        outputs = (Outputs(jnp.zeros(()), x) for x in (student, file["in/f_t"]))
        return objective.loss(objectives.ObjectiveState(params), *outputs, {})[0]

    value, (layers, features) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        params, file["in/f_s"]
    )
    assert golden.relative(value, file["out/loss"]) < 1e-5
    assert golden.relative(features, file["grad/in/f_s"]) < 1e-5
    golden.check_linear(layers["student"], file, "grad/param/embed_s.linear")
    golden.check_linear(layers["teacher"], file, "grad/param/embed_t.linear")


def test_cc_needs_neighbours():
    with pytest.raises(errors.InputError, match="a batch of 1 is too small"):
        relations.cc_loss(jnp.ones((1, 3)), jnp.ones((1, 3)))


def test_ckd_compares_the_differences_of_all_pairs():
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 7, 5)) + np.array([0, 3])[:, None, None]
    pairs = (student[:, None] - student) - (teacher[:, None] - teacher)
    wanted = (pairs**2).mean((0, 1)).sum() / 5
    found = relations.ckd_loss(jnp.asarray(student), jnp.asarray(teacher))
    np.testing.assert_allclose(jnp.mean(found), wanted, rtol=1e-5)
    shifted = relations.ckd_loss(jnp.asarray(teacher + 2), jnp.asarray(teacher))
    np.testing.assert_allclose(shifted, 0, atol=1e-10)


def _rkd64(student, teacher, distance, angle):
    def relate(x):
        size = len(x)
        d = np.array([[np.linalg.norm(x[i] - x[j]) for j in range(size)] for i in range(size)])
        angles = np.zeros((size, size, size))
        for i in range(size):
            for j in range(size):
                for k in range(size):
                    if i != j and i != k:
                        angles[i, j, k] = (x[j] - x[i]) @ (x[k] - x[i]) / (d[i, j] * d[i, k])
        return d / d[d > 0].mean(), angles

    def smooth_l1(x):
        return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5).mean()

    (d_s, a_s), (d_t, a_t) = relate(student), relate(teacher)
    return distance * smooth_l1(d_s - d_t) + angle * smooth_l1(a_s - a_t)


@pytest.mark.parametrize(("batch", "scale"), [(3, 1.0), (6, 1e-3), (9, 1e3)])
def test_rkd_equals_float64_at_any_scale(batch, scale):
    rng = np.random.default_rng(batch)
    student, teacher = scale * rng.standard_normal((batch, 4)), rng.standard_normal((batch, 3))
    found = relations.rkd_loss(jnp.asarray(student), jnp.asarray(teacher), distance=2.0, angle=3.0)
    np.testing.assert_allclose(jnp.mean(found), _rkd64(student, teacher, 2, 3), rtol=1e-5)


def test_shapes_and_weights_that_do_not_fit_are_refused():
    with pytest.raises(errors.InputError, match="batches of one size"):
        relations.pkt_loss(jnp.ones((3, 2)), jnp.ones((4, 2)))
    with pytest.raises(errors.InputError, match=r"\(3, 2\) and teacher \(3, 4\)"):
        relations.ckd_loss(jnp.ones((3, 2)), jnp.ones((3, 4)))
    with pytest.raises(errors.InputError, match="angle is -1"):
        objectives.create("rkd", angle=-1)
