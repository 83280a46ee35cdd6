"""The forms of a convolution on a CPU: values and gradients compared with the plain convolution."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import functional, networks
from rrd_jax.cpu import compiling, convolutions
from tests import golden
from tests.networks import modern

_KINDS = [
    *((name, 32) for name in modern.KINDS if name in networks.CIFAR),
    *((name, 224) for name in [*modern.KINDS, *modern.SMALLEST] if name in networks.IMAGENET),
]


def _evaluate(x, kernel, gradient, *, stride, padding):
    def run(x, kernel):
        return functional.convolve(x, kernel, stride=stride, padding=padding)

    value, pull = jax.vjp(run, x, kernel)
    return value, *pull(gradient)


def _arrays(shape, kernel, stride, padding, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    run = functools.partial(functional.convolve, stride=stride, padding=padding)
    x = jax.random.normal(keys[0], shape, dtype)
    weights = jax.random.normal(keys[1], kernel) / np.prod(kernel[:3]) ** 0.5
    weights = weights.astype(dtype)
    result = jax.eval_shape(run, x, weights)
    return x, weights, jax.random.normal(keys[2], result.shape, dtype)


def _check(shape, kernel, stride, padding, bound=1e-6, onednn_bound=1e-6):
    arrays = _arrays(shape, kernel, stride, padding)
    run = functools.partial(_evaluate, stride=stride, padding=padding)
    plain = convolutions.plain(run)
    expected = jax.jit(plain, compiler_options=compiling.options())(*arrays)
    actual = jax.jit(convolutions.fast(run), compiler_options=compiling.options())(*arrays)
    _compare(actual, expected, bound, shape, kernel, stride)
    actual = compiling.OnednnJit(run, cores=2)(*arrays)
    _compare(actual, expected, onednn_bound, shape, kernel, stride, "oneDNN")


def _compare(actual, expected, bound, *context):
    for a, b, name in zip(actual, expected, ("value", "images", "kernel"), strict=True):
        assert golden.relative(a, b) < bound, (name, *context)


# Some shapes of each form, including odd sizes.
_CASES = (
    ("pixel", (2, 6, 5, 12), (1, 1, 12, 8), 1, 0),
    ("pixel", (3, 7, 6, 8), (1, 1, 8, 20), 2, 0),
    ("small map", (70, 2, 2, 16), (3, 3, 16, 24), 1, 1),
    ("small map", (3, 1, 2, 12), (3, 3, 12, 8), 2, 1),
    ("few places", (4, 3, 3, 64), (3, 3, 64, 32), 1, 1),
    ("few places", (2, 5, 7, 64), (3, 3, 64, 16), 2, 1),
    ("few places", (2, 4, 4, 64), (2, 3, 64, 16), 1, 0),
    ("few channels", (2, 6, 8, 3), (3, 3, 3, 16), 1, 1),
    ("few channels", (1, 32, 32, 1), (3, 3, 1, 8), 1, 1),
    ("default", (4, 9, 10, 16), (3, 3, 16, 24), 1, 1),
    ("strided", (4, 9, 10, 16), (3, 3, 16, 24), 2, 1),
    ("strided", (2, 17, 16, 3), (7, 7, 3, 8), 2, 3),
    ("default", (2, 9, 9, 16), (2, 4, 16, 8), 1, 0),
    ("depthwise", (8, 6, 5, 12), (5, 5, 1, 12), 1, 2),
    ("depthwise", (3, 7, 8, 12), (5, 5, 1, 12), 2, 2),
    ("depthwise", (12, 3, 3, 8), (7, 7, 1, 8), 1, 3),
    ("depthwise", (4, 9, 8, 8), (4, 2, 1, 8), 1, 0),
    ("depthwise, strided", (4, 9, 8, 12), (3, 3, 1, 12), 2, 1),
    ("depthwise, strided", (16, 7, 7, 12), (3, 3, 1, 12), 3, 1),
    ("groups", (4, 6, 5, 12), (3, 3, 4, 12), 1, 1),
    ("groups", (4, 7, 6, 12), (3, 3, 4, 24), 2, 1),
    ("groups", (4, 6, 5, 12), (3, 3, 1, 24), 1, 1),
)


def _mark_long_after_first(cases):
    """Returns cases as test parameters; all but the first of each form are marked as long."""
    firsts = {case[0]: case for case in reversed(cases)}.values()
    return [c if c in firsts else pytest.param(*c, marks=pytest.mark.long) for c in cases]


@pytest.mark.parametrize(
    ("form", "shape", "kernel", "stride", "pad"), _mark_long_after_first(_CASES)
)
def test_every_form_equals_the_plain_convolution(form, shape, kernel, stride, pad):
    case = convolutions.Case(*shape, kernel[:2], kernel[3], stride, (pad, pad))
    case = case._replace(groups=shape[3] // kernel[2])
    assert convolutions.choose(case).name == form
    _check(shape, kernel, stride, (pad, pad))


def _shapes(name, side, batch):
    """Returns the convolutions of a network as a set of (images, kernel, stride, padding)."""
    network, shapes = networks.create(name, 10), set()
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    init = functools.partial(network.init_with_output, jax.random.key(0), train=False)
    for equation in _equations(jax.make_jaxpr(convolutions.plain(init))(images).jaxpr):
        params = equation.params
        if equation.primitive.name == "conv_general_dilated":
            x, kernel = (atom.aval.shape for atom in equation.invars)
            shapes.add((x, kernel, params["window_strides"][0], params["padding"]))
    return shapes


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                part = getattr(part, "jaxpr", part)
                if hasattr(part, "eqns"):
                    yield from _equations(part)


# Largest number of shapes per form, evenly spaced from small to large.
_MAX_SHAPES = 4


@pytest.mark.long
def test_convolutions_of_all_kinds_of_networks_equal_the_plain_convolutions():
    by_form = collections.defaultdict(list)
    for shape in sorted(set().union(*(_shapes(name, side, 2) for name, side in _KINDS))):
        x, kernel, stride, padding = shape
        case = convolutions.Case(*x, kernel[:2], kernel[3], stride, (padding[0][0], padding[1][0]))
        by_form[convolutions.choose(case._replace(groups=x[3] // kernel[2])).name].append(shape)
    assert len(by_form) >= 8
    for shapes in by_form.values():
        for x, kernel, stride, padding in shapes[:: -(-len(shapes) // _MAX_SHAPES)]:
            # Both sides are rounded: sums of 512 or more products differ by a little over 1e-6, and
            # oneDNN accumulates 4,608 products sequentially, as in PyTorch.
            pads = tuple(pad for pad, _ in padding)
            _check(x, kernel, stride, pads, bound=2e-6, onednn_bound=3e-6)


# Forms for bfloat16 are first tested in float32, whose higher precision reveals errors.
@pytest.mark.parametrize(
    ("form", "shape", "kernel", "stride", "pad"),
    [
        ("half", (4, 9, 10, 16), (3, 3, 16, 24), 1, 1),
        ("half", (4, 9, 12, 16), (3, 3, 16, 24), 2, 1),
        ("half", (2, 17, 16, 3), (7, 7, 3, 8), 2, 3),
        ("half", (2, 9, 9, 16), (2, 4, 16, 8), 1, 0),
        ("half", (2, 9, 9, 8), (3, 3, 8, 8), 3, 2),
        ("few places", (2, 5, 8, 64), (3, 3, 64, 16), 1, 1),
        ("half, many channels", (2, 7, 8, 128), (3, 3, 128, 16), 1, 1),
        ("half, many channels", (2, 7, 8, 32), (3, 3, 32, 16), 2, 1),
    ],
)
@pytest.mark.long
def test_every_form_for_bfloat16_equals_the_plain_convolution(form, shape, kernel, stride, pad):
    case = convolutions.Case(
        *shape, kernel[:2], kernel[3], stride, (pad, pad), half=True, onednn=True
    )
    chosen = convolutions.choose(case)
    assert chosen.name == form
    x, weights, gradient = _arrays(shape, kernel, stride, (pad, pad))
    spec = convolutions.Spec(stride, (pad, pad))
    _, image_gradient, kernel_gradient = _evaluate(
        x, weights, gradient, stride=stride, padding=(pad, pad)
    )
    actual = chosen.image_gradient(spec, x, weights, gradient)
    assert golden.relative(actual, image_gradient) < 1e-6
    if chosen.kernel_gradient:
        actual = chosen.kernel_gradient(spec, x, weights, gradient)
        assert golden.relative(actual, kernel_gradient) < 1e-6
    arrays = _arrays(shape, kernel, stride, (pad, pad), jnp.bfloat16)
    run = functools.partial(_evaluate, stride=stride, padding=(pad, pad))
    for a, b in zip(compiling.OnednnJit(run)(*arrays), jax.jit(run)(*arrays), strict=True):
        assert a.dtype == jnp.bfloat16
        assert golden.relative(a, b) < 0.01


@pytest.mark.parametrize("shape", [(2, 3, 3, 64), (2, 4, 4, 3), (2, 6, 6, 8)])
def test_forms_support_vmap_second_derivatives_and_bfloat16(shape):
    features = 16
    x, kernel, _ = _arrays(shape, (3, 3, shape[-1], features), 1, (1, 1))

    def loss(kernel, x):
        y = functional.convolve(x, kernel, stride=1, padding=(1, 1))
        return jnp.sum(jnp.sin(y))

    def second(x, kernel):
        slope = jax.grad(lambda kernel: jnp.sum(jax.grad(loss)(kernel, x) ** 2))(kernel)
        per_image = jax.vmap(jax.grad(loss), (None, 0))(kernel, jnp.stack([x, 2 * x]))
        return slope, per_image

    expected, actual = (jax.jit(run)(x, kernel) for run in (second, convolutions.fast(second)))
    for a, b in zip(actual, expected, strict=True):
        assert golden.relative(a, b) < 1e-5
    arrays = _arrays(shape, (3, 3, shape[-1], features), 1, (1, 1), jnp.bfloat16)
    run = functools.partial(_evaluate, stride=1, padding=(1, 1))
    for a, b in zip(*(jax.jit(f)(*arrays) for f in (convolutions.fast(run), run)), strict=True):
        assert a.dtype == jnp.bfloat16
        assert golden.relative(a, b) < 0.02


def test_the_plain_convolution_is_the_default():
    arrays = _arrays((2, 3, 3, 64), (3, 3, 64, 16), 1, (1, 1))
    run = functools.partial(_evaluate, stride=1, padding=(1, 1))
    text = str(jax.make_jaxpr(run)(*arrays))
    assert text.count("conv_general_dilated[") == 3
    assert "barrier" not in text
    fast = convolutions.fast(run)
    assert "conv_general_dilated[" not in str(jax.make_jaxpr(fast)(*arrays))
    nested = convolutions.fast(convolutions.plain(run))
    assert str(jax.make_jaxpr(nested)(*arrays)) == text
    assert str(jax.make_jaxpr(run)(*arrays)) == text


def test_grouped_convolutions_use_their_forms_unless_disabled():
    arrays = _arrays((2, 6, 6, 8), (3, 3, 1, 8), 1, (1, 1))
    run = functools.partial(_evaluate, stride=1, padding=(1, 1))
    assert "platform_index" in str(jax.make_jaxpr(run)(*arrays))
    plain = str(jax.make_jaxpr(convolutions.plain(run))(*arrays))
    assert plain.count("conv_general_dilated[") == 3
    assert "platform_index" not in plain


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_programs_for_accelerators_contain_only_plain_convolutions(platform):
    arrays = _arrays((2, 3, 3, 64), (3, 3, 64, 16), 1, (1, 1))
    run = jax.jit(functools.partial(_evaluate, stride=1, padding=(1, 1)))
    text = run.trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    for word in ("barrier", "dot_general", "case"):
        assert word not in text
