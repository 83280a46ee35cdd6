import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import passes
from rrd_jax import errors, objectives, parallel, relational_loss
from rrd_jax.objectives.parts import direct

_EXACT, _THREE = (functools.partial(passes.product, 6, 6), functools.partial(passes.product, 6, 3))
_ALL_THREE = functools.partial(passes.product, 3, 3)
_CLOSE = {"similarity": 2e-6, "loss, relative": 1e-5, "gradient": 1e-5, "of the projection": 1e-5}


@pytest.fixture(scope="module")
def given():
    """Features, kernel, teacher and memory, float32; a row of the memory is near each teacher."""
    rng = np.random.default_rng(0)
    features, kernel = rng.standard_normal((16, 32)), rng.standard_normal((32, 128)) / 6
    memory = passes.unit(rng.standard_normal((700, 128)))
    teacher = passes.unit(memory[:16] + 0.05 * rng.standard_normal((16, 128)))
    return tuple(a.astype(np.float32) for a in (features, kernel, teacher, memory))


# Of RRD's two forms, and as sharp as both at once.
@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.04, 0.1), (0.1, 0.02), (0.02, 0.02)])
def test_what_a_tpu_computes_is_within_a_hundred_thousandth_of_float64(given, temperatures):
    named = dict(zip(passes.ERRORS, passes.compare(given, temperatures, _THREE), strict=True))
    assert all(named[name] <= bound for name, bound in _CLOSE.items()), named


def test_three_passes_for_similarities_would_not_be(given):
    errors = [passes.compare(given, (0.02, 0.02), p)[0] for p in (_EXACT, _THREE, _ALL_THREE)]
    assert errors[0] == errors[1]
    assert errors[2] > 5 * errors[1]


@pytest.mark.parametrize(("count", "lower", "upper"), [(3, 3e-7, 2e-5), (6, 0, 3e-7)])
def test_products_in_passes_lose_what_the_passes_leave_out(count, lower, upper):
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.uniform(1, 2, shape), jnp.float32) for shape in ((50, 1), (1, 50)))
    for part in passes._parts(a):
        np.testing.assert_array_equal(part, part.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(sum(reversed(passes._parts(a))), a)
    product = passes.product(count, 3, "bd,dk->bk", a, b, jax.lax.Precision.HIGHEST)
    exact = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    assert lower < np.abs(product / exact - 1).max() < upper


def _values(precision, own, mesh, *arrays):
    def total(student, teacher, memory):
        losses = relational_loss(
            *(student, teacher, memory),
            temperature_student=0.04,
            temperature_teacher=0.1,
            own=own,
            precision=precision,
        )
        return jnp.sum(losses), losses

    compare = jax.value_and_grad(total, has_aux=True)
    (_, losses), gradient = jax.jit(parallel.with_mesh(mesh, compare))(*arrays)
    return losses, gradient


# The devices divide the rows, the images alone, neither.
@pytest.mark.parametrize(("batch", "size"), [(16, 160), (16, 161), (10, 161)])
@pytest.mark.parametrize("is_own", [False, True])
def test_the_direct_form_on_eight_devices_is_the_walk_on_one(batch, size, is_own):
    rng = np.random.default_rng(0)
    arrays = [
        jnp.asarray(passes.unit(rng.standard_normal((n, 24))), jnp.float32)
        for n in (batch, batch, size)
    ]
    own = arrays[1] if is_own else None
    one, eight = parallel.make_mesh(jax.devices()[:1]), parallel.make_mesh()
    wanted = _values("highest", own, one, *arrays)
    found = _values("high", own, eight, *parallel.put(parallel.replicated(eight), arrays))
    for leaf, leaf_wanted in zip(found, wanted, strict=True):
        bound = 3e-6 * np.abs(leaf_wanted).max()
        np.testing.assert_allclose(leaf, leaf_wanted, rtol=0, atol=bound)


def test_a_value_without_a_gradient_takes_one_product(given):
    student, teacher, memory = given[2], given[2], given[3]

    def products(gradient):
        losses = functools.partial(direct.losses, gradient=gradient)
        return str(jax.make_jaxpr(losses)(student, teacher, None, memory)).count("dot_general")

    assert (products(False), products(True)) == (1, 2)


@pytest.mark.parametrize("precision", ["higher", None, 3])
def test_an_unknown_precision_is_refused(precision):
    with pytest.raises(errors.InputError, match="precision"):
        objectives.create("rrd", precision=precision)
