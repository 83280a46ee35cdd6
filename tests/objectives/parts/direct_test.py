import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rrd_jax import errors, parallel
from rrd_jax.evaluation import rows
from rrd_jax.objectives.parts import direct, relations
from rrd_jax.objectives.rrd import relational_loss
from tests.objectives.parts import bfloat16_passes as passes

_THREE = functools.partial(passes.product, 6, 3)
_ALL_THREE = functools.partial(passes.product, 3, 3)
_CLOSE = {"similarity": 2e-6, "loss, relative": 1e-5, "gradient": 1e-5, "of the projection": 1e-5}


@pytest.fixture(scope="module")
def arrays():
    """Features, kernel, teacher and memory, float32; the memory has a row close to each teacher."""
    rng = np.random.default_rng(0)
    features, kernel = rng.standard_normal((16, 32)), rng.standard_normal((32, 128)) / 6
    memory = rows.unit(rng.standard_normal((700, 128)))
    teacher = rows.unit(memory[:16] + 0.05 * rng.standard_normal((16, 128)))
    return tuple(a.astype(np.float32) for a in (features, kernel, teacher, memory))


@pytest.mark.parametrize("has_maximum", [False, True])
@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.1, 0.1), (0.04, 0.1)])
def test_the_values_of_a_tpu_are_within_1e_5_of_float64(arrays, temperatures, has_maximum):
    actual = passes.compare(arrays, temperatures, _THREE, has_maximum=has_maximum)
    values = dict(zip(passes.ERRORS, actual, strict=True))
    assert all(values[name] <= bound for name, bound in _CLOSE.items()), values


def test_three_passes_for_similarities_are_less_exact_than_six(arrays):
    six, three = (passes.compare(arrays, (0.02, 0.02), p)[0] for p in (_THREE, _ALL_THREE))
    assert three > 5 * six


@pytest.mark.parametrize(("count", "lower", "upper"), [(3, 3e-7, 2**-15), (6, 0, 3e-7)])
def test_the_error_of_a_product_is_that_of_the_omitted_passes(count, lower, upper):
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.uniform(1, 2, shape), jnp.float32) for shape in ((50, 1), (1, 50)))
    for part in passes._parts(a):
        np.testing.assert_array_equal(part, part.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(sum(reversed(passes._parts(a))), a)
    product = passes.product(count, 3, "bd,dk->bk", a, b, jax.lax.Precision.HIGHEST)
    exact = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    assert lower < np.abs(product / exact - 1).max() < upper


# The bound on similarities is unknown, or 1 for rows of length 1.
@pytest.mark.parametrize("reach", [None, 1.0])
@pytest.mark.parametrize("has_extra_rows", [False, True])
def test_the_direct_form_on_eight_devices_equals_the_chunked_form_on_one(has_extra_rows, reach):
    rng = np.random.default_rng(0)
    *arrays, extra_rows = (
        jnp.asarray(rows.unit(rng.standard_normal((n, 24))), jnp.float32) for n in (10, 10, 160, 10)
    )
    extra_rows = extra_rows if has_extra_rows else None

    def total(student):
        losses = relations.cross_entropy(student, *arrays[1:], extra_rows)
        return jnp.sum(losses), losses

    direction, losses = jax.jit(jax.grad(total, has_aux=True))(arrays[0])
    mesh, replicated = parallel.make_mesh(), PartitionSpec()
    form = functools.partial(direct.losses, gradient=True, axes=mesh.axis_names, reach=reach)
    specs = (replicated, replicated, replicated, parallel.split(mesh).spec)
    eight = jax.shard_map(form, mesh=mesh, in_specs=specs, out_specs=replicated)
    single = functools.partial(direct.losses, gradient=True, reach=reach)
    for actual in (jax.jit(f)(*arrays[:2], extra_rows, arrays[2]) for f in (single, eight)):
        np.testing.assert_allclose(actual[0], losses, rtol=1e-6)
        np.testing.assert_allclose(actual[1], direction, atol=2e-6 * np.abs(direction).max())


def _unit(rng, *shape):
    return rows.unit(rng.standard_normal(shape))


def _cases():
    """Returns unit students, teachers and rows whose relations are difficult for float32."""
    rng, axes = np.random.default_rng(0), np.eye(16)
    near = 0.8 * axes[:6] + 0.6 * axes[6:12]
    return {
        "among others": (_unit(rng, 6, 16), _unit(rng, 6, 16), _unit(rng, 500, 16)),
        "nearly no loss": (rows.unit(axes[:6] + 1e-3), axes[:6], np.vstack([axes[:6], near])),
        "all opposite": (axes[:1], axes[:1], -np.vstack([axes[:1], rows.unit(axes[:1] + 0.1)])),
        "a row": (axes[:1], axes[1:2], axes[:1]),
    }


# The lowest temperature at which RRD needs no maximum for unit rows, and higher ones.
@pytest.mark.parametrize("temperatures", [(1 / 66, 1 / 66), (0.02, 0.02), (0.1, 0.02), (0.04, 0.1)])
@pytest.mark.parametrize("case", _cases())
def test_similarities_of_unit_rows_need_no_maximum(case, temperatures):
    student, teacher, memory = (a.astype(np.float32) for a in _cases()[case])
    queries = student / temperatures[0], teacher / temperatures[1]
    form = functools.partial(direct.losses, gradient=True, reach=1 / temperatures[0])
    losses, direction = form(*queries, None, memory)
    logits = [q.astype(np.float64) @ memory.astype(np.float64).T for q in queries]
    logs = [x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits]
    shares = [np.exp(x) for x in logs]
    # The rounding error of a similarity, as in the form with a maximum.
    error = 2e-7 / min(temperatures)
    expected = -(shares[1] * logs[0]).sum(-1)
    np.testing.assert_allclose(losses, expected, rtol=error, atol=1e-7 / temperatures[0])
    np.testing.assert_allclose(direction, (shares[0] - shares[1]) @ memory, rtol=0, atol=error)


def test_a_value_without_a_gradient_takes_one_product(arrays):
    student, teacher, memory = arrays[2], arrays[2], arrays[3]

    def products(gradient):
        losses = functools.partial(direct.losses, gradient=gradient)
        return str(jax.make_jaxpr(losses)(student, teacher, None, memory)).count("dot_general")

    assert (products(False), products(True)) == (1, 2)


@pytest.mark.parametrize("longest", [0, -1.0, float("nan"), "1"])
def test_an_invalid_bound_is_refused(arrays, longest):
    temperatures = {"temperature_student": 0.1, "temperature_teacher": 0.1}
    with pytest.raises(errors.InputError, match="longest"):
        relational_loss(arrays[2], arrays[2], arrays[3], **temperatures, longest=longest)


def test_traced_temperatures_use_full_float32():
    student, teacher, memory = (
        jax.random.normal(jax.random.key(i), (count, 8)) for i, count in enumerate((4, 4, 32))
    )

    def losses(cold):
        temperatures = {"temperature_student": cold, "temperature_teacher": 2 * cold}
        return relational_loss(student, teacher, memory, **temperatures)

    np.testing.assert_allclose(jax.jit(losses)(0.5), losses(0.5), rtol=1e-6)
