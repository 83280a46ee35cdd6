"""Primitives that are exported to ONNX: onnxruntime compared with JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rrd_jax import errors
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.exports import headers
from rrd_jax.exports.onnx import fuse, model, walk

pytestmark = pytest.mark.long

onnxruntime = pytest.importorskip("onnxruntime")

_SHAPE = (6, 5, 4)
_WEIGHTS = np.random.default_rng(1).normal(size=4096).astype(np.float32)


@pytest.fixture(autouse=True)
def _allow_rank_promotion():
    with jax.numpy_rank_promotion("allow"):
        yield


def _weights(*shape):
    return _WEIGHTS[: np.prod(shape)].reshape(shape)


def _build_model(functions):
    """Builds the ONNX model of {name: function of images}."""
    graph = walk.build(
        lambda images: {name: function(images) for name, function in functions.items()},
        _SHAPE,
        np.dtype(np.float32),
    )
    fuse.fuse(graph)
    about = ModelInfo("x", 2, preprocessing=Preprocessing(6, 4, (0.5,) * 4, (0.5,) * 4))
    header = headers.Header(about, "onnx", "NCHW", "float32", tuple(graph.outputs))
    return model.to_model(graph, header)


def _compare(functions, references=None, tolerance=2e-6):
    """Compares the results in onnxruntime with JAX; returns the operators of the ONNX model.

    Args:
      functions: {name: function of images}, exported to ONNX.
      references: functions to compare with; None for `functions`.
      tolerance: largest error relative to the largest value, or to 1 if that is larger.
    """
    onnx_model = _build_model(functions)
    session = onnxruntime.InferenceSession(onnx_model.SerializeToString())
    references = references or functions
    compiled = jax.jit(lambda x: {name: function(x) for name, function in references.items()})
    names = [output.name for output in session.get_outputs()]
    for batch in (1, 3):
        images = np.random.default_rng(batch).uniform(-2, 2, (batch, *_SHAPE)).astype(np.float32)
        results = session.run(names, {"images": images.transpose(0, 3, 1, 2)})
        results = dict(zip(names, results, strict=True))
        for name, expected in jax.device_get(compiled(images)).items():
            actual = results[name]
            assert actual.shape == expected.shape, name
            assert actual.dtype == expected.dtype, name
            bound = (
                tolerance * max(np.abs(expected).max(), 1) if expected.dtype == np.float32 else 0
            )
            assert np.abs(actual * 1 - expected * 1).max() <= bound, name
    return [node.op_type for node in onnx_model.graph.node]


def test_elementwise_functions():
    names = "abs sign neg floor ceil exp tanh logistic erf erfc sin cos tan atan sinh cosh asinh"
    functions = {name: getattr(lax, name) for name in names.split()}
    positive = {name: getattr(lax, name) for name in ("log", "log1p", "sqrt", "rsqrt")}
    within = {name: getattr(lax, name) for name in ("asin", "acos", "atanh")}
    functions |= {name: lambda x, f=f: f(jnp.abs(x) + 0.1) for name, f in positive.items()}
    functions |= {name: lambda x, f=f: f(x / 2.1) for name, f in within.items()}
    functions |= {
        "acosh": lambda x: lax.acosh(jnp.abs(x) + 1.1),
        "cbrt": lax.cbrt,
        "expm1": jnp.expm1,
        "exp2": jnp.exp2,
        "square": jnp.square,
        "cube": lambda x: x**3,
        "log2": lambda x: jnp.log2(jnp.abs(x) + 0.1),
        "inverse": lambda x: (x + 3.0) ** -1,
        "power": lambda x: jnp.abs(x) ** 1.7,
        "even": lambda x: jnp.round(x * 4) + jnp.round(2.5),
        "away": lambda x: lax.round(x * 4),
        "half": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32) - x < 1,
        "integer": lambda x: (x * 100).astype(jnp.int32),
    }
    _compare(functions, tolerance=1e-5)


def test_binary_operators():
    other = _weights(*_SHAPE)
    functions = {
        name: lambda x, f=f: f(x, jnp.broadcast_to(other, x.shape))
        for name, f in {
            **{"add": jnp.add, "sub": jnp.subtract, "mul": jnp.multiply, "div": jnp.divide},
            **{"max": jnp.maximum, "min": jnp.minimum, "eq": jnp.equal, "ne": jnp.not_equal},
            **{"lt": jnp.less, "le": jnp.less_equal, "gt": jnp.greater, "ge": jnp.greater_equal},
            "rem": lax.rem,
        }.items()
    }
    functions |= {
        "and": lambda x: (x > 0) & (x < 1),
        "or": lambda x: (x > 1) | (x < -1),
        "xor": lambda x: (x > 1) ^ (x < 0),
        "not": lambda x: ~(x > 0),
        "where": lambda x: jnp.where(x > 0, x, other * x),
        "where of bools": lambda x: jnp.where(x > 0, x > 1, x < -1),
        "clip": lambda x: jnp.clip(x, -1, 0.5),
        "clamp": lambda x: lax.clamp(0 * x + other, x, 0 * x + other + 1),
        "finite": lambda x: jnp.isfinite(1 / jnp.round(x)),
        "relu6": jax.nn.relu6,
        "of both orders": lambda x: (
            x[..., :4, :] + x[:, :4, :].swapaxes(1, 2)[:, :, :4].mean(1, keepdims=True)
        ),
        "integers": lambda x: x.astype(jnp.int32) // 2 * 3 - 1,
    }
    _compare(functions)


def test_reductions():
    functions = {
        "sum": lambda x: x.sum((1, 3)),
        "mean": lambda x: x.mean((1, 2)),
        "mean of channels": lambda x: x.mean(-1, keepdims=True),
        "max": lambda x: x.max(2),
        "min": lambda x: x.min((1, 2, 3)),
        "prod": lambda x: x.prod(3),
        "all": lambda x: (x > -1).all(3),
        "any": lambda x: (x > 1.5).any((1, 3)),
        "argmax": lambda x: x.argmax(3),
        "argmin": lambda x: x.argmin(1),
        "cumsum": lambda x: x.cumsum(2),
        "reversed cumsum": lambda x: lax.cumsum(x, 3, reverse=True),
        "largest": lambda x: lax.top_k(x, 2)[0],
        "positions of the largest": lambda x: lax.top_k(x, 2)[1],
        "std": lambda x: x.std((1, 2)),
        "softmax": jax.nn.softmax,
        "logsumexp": lambda x: jax.nn.logsumexp(x, axis=(1, 2)),
        "sum of a broadcast": lambda x: jnp.broadcast_to(x[:, :1], x.shape).sum(1),
    }
    _compare(functions)


def test_reductions_over_windows():
    def pool(f, start, *, padding="SAME", window=(1, 3, 2, 1), strides=(1, 2, 1, 1), **options):
        return lambda x: lax.reduce_window(x, start, f, window, strides, padding, **options)

    functions = {
        "max": pool(lax.max, -jnp.inf),
        "min": pool(lax.min, jnp.inf),
        "sum": pool(lax.add, 0.0),
        "valid": pool(lax.max, -jnp.inf, padding="VALID"),
        "wide": pool(lax.add, 0.0, padding=((0, 0), (4, 5), (0, 3), (0, 0))),
        "cut": pool(lax.max, -jnp.inf, padding=((0, 0), (-1, 0), (0, -1), (0, 0))),
        "dilated": pool(lax.max, -jnp.inf, window_dilation=(1, 2, 1, 1)),
        "one axis": pool(lax.max, -jnp.inf, window=(1, 1, 2, 1), strides=(1, 1, 2, 1)),
        "channels": pool(lax.add, 0.0, window=(1, 1, 1, 2), strides=(1, 1, 1, 2)),
        "all": pool(lax.add, 0.0, window=(1, 6, 5, 4), strides=(1, 1, 1, 1), padding="VALID"),
        "generic": pool(lambda a, b: jnp.maximum(a, b), -jnp.inf),
        "counts": lambda x: pool(lax.add, 0.0)(x) / pool(lax.add, 0.0)(jnp.ones_like(x)),
    }
    _compare(functions)


def _convolution(
    x, w=None, strides=(1, 1), padding="SAME", numbers=("NHWC", "HWIO", "NHWC"), **options
):
    w = _weights(3, 2, 4, 6) if w is None else w
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=numbers, **options)


def test_convolutions_in_all_layouts():
    kernel = _weights(3, 2, 4, 6)
    conv = _convolution
    first, deep = ("NCHW", "OIHW", "NCHW"), ("NDHWC", "DHWIO", "NDHWC")
    functions = {
        "same": conv,
        "strides": lambda x: conv(x, strides=(2, 1)),
        "uneven": lambda x: conv(x, padding=((2, 0), (0, 3))),
        "dilated": lambda x: conv(x, rhs_dilation=(2, 1)),
        "groups": lambda x: conv(x, kernel[:, :, :2], feature_group_count=2),
        "depthwise": lambda x: conv(x, _weights(3, 2, 1, 8), feature_group_count=4),
        "channels first": lambda x: conv(
            x.transpose(0, 3, 1, 2), _weights(5, 4, 2, 2), numbers=first
        ),
        "odd": lambda x: conv(x.transpose(2, 0, 1, 3), numbers=("WNHC", "HWIO", "CWHN")),
        "one axis": lambda x: conv(x[:, 0], _weights(3, 4, 6), (2,), numbers=("NWC", "WIO", "NWC")),
        "three axes": lambda x: conv(
            x[..., None], _weights(2, 3, 2, 1, 2), (1, 2, 1), numbers=deep
        ),
        "transposed": lambda x: lax.conv_transpose(x, kernel, (2, 2), "SAME"),
        "transposed valid": lambda x: lax.conv_transpose(x, kernel, (3, 2), "VALID"),
        "bias and scale": lambda x: (conv(x) * _weights(6) + _weights(6)) / 2 - _weights(6),
        "padded": lambda x: conv(jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))), padding="VALID"),
        "mapped": jax.vmap(lambda x: conv(x[None])[0]),
        "cut": lambda x: conv(x, padding=((-1, 1), (0, -1))),
    }
    # JAX 0.10.1 returns wrong results for negative padding on a CPU.
    cut = {"cut": lambda x: conv(x[:, 1:, :-1], padding=((0, 1), (0, 0)))}
    _compare(functions, functions | cut)


def test_products_over_all_axes():
    def product(equation, *operands):
        return lambda x: jnp.einsum(equation, x, *operands)

    functions = {
        "dense": product("bhwc,cd->bhwd", _weights(4, 3)),
        "rows": lambda x: x.reshape(x.shape[0], -1) @ _weights(120, 3) + _weights(3),
        "left": product("bhwc,dc->bdhw", _weights(3, 4)),
        "weights first": lambda x: jnp.einsum("dw,bhwc->dbhc", _weights(7, 5), x),
        "two axes": product("bhwc,hcd->bwd", _weights(6, 4, 2)),
        "two columns": product("bhwc,cde->bhwde", _weights(4, 2, 3)),
        "attention": lambda x: jnp.einsum("bqhd,bkhd->bhqk", x, x + 1),
        "values": lambda x: jnp.einsum("bhqk,bkhd->bqhd", jnp.einsum("bqhd,bkhd->bhqk", x, x), x),
        "vectors": lambda x: jnp.einsum("bhwc,bhwc->bh", x, jnp.cos(x)),
        "outer": lambda x: jnp.einsum("bh,bw->bhw", x[:, :, 0, 0], x[:, 0, :, 1]),
        "mapped": jax.vmap(lambda x: _weights(3, 4) @ x.mean((0, 1))),
        "per channel": product("bhwc,cwd->bhcd", _weights(4, 5, 2)),
    }
    _compare(functions, tolerance=5e-6)


def test_reshaping_and_indexing():
    functions = {
        "reshape": lambda x: x.reshape(x.shape[0], 3, 2, -1, 2),
        "shuffle": lambda x: x.reshape(*x.shape[:-1], 2, 2).swapaxes(-1, -2).reshape(x.shape),
        "transpose": lambda x: x.transpose(3, 1, 0, 2),
        "squares": lambda x: x.reshape(-1, 3, 2, 5, 4).swapaxes(2, 3).reshape(-1, 3, 5, 8),
        "new axes": lambda x: x[:, None, :, :, None],
        "repeat": lambda x: jnp.repeat(x, 2, axis=1),
        "tile": lambda x: jnp.tile(x, (1, 2, 1, 3)),
        "broadcast": lambda x: jnp.broadcast_to(x[:, :1, :1], x.shape),
        "concatenate": lambda x: jnp.concatenate([x, x[..., :2], x[..., ::-1]], -1),
        "stack": lambda x: jnp.stack([x, x + 1], 2),
        "slice": lambda x: x[:, 1:5:2, 2:, ::-1],
        "roll": lambda x: jnp.roll(x, 1, 2),
        "flip": lambda x: jnp.flip(x, (1, 2)),
        "dynamic": lambda x: lax.dynamic_slice(x, (0, 2, 9, 1), (x.shape[0], 3, 2, 2)),
        "update": lambda x: lax.dynamic_update_slice(x, x[:, :2, :2] * 2, (0, 1, 2, 0)),
        "pad": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 3), (1, 0)), constant_values=1.5),
        "pad below 0": lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-1, 2, 0), (1, -2, 0), (0, 0, 0))),
        "reflect": lambda x: jnp.pad(x, ((0, 0), (2, 1), (0, 0), (0, 0)), mode="reflect"),
        "split": lambda x: jnp.split(x, 2, -1)[1] + jnp.split(x, 2, -1)[0],
        "take": lambda x: jnp.take(x, np.array([3, 0, 0, 1, 2]), axis=3),
        "take table": lambda x: x[:, np.array([[0, 1], [5, 2]]), :, 1],
        "grid": lambda x: x[:, np.array([0, 3, 1]), np.array([4, 0, 2])],
        "index": lambda x: x[:, ::2, :, -1],
        "iota": lambda x: x * lax.broadcasted_iota(jnp.float32, x.shape, 2),
        "loop": lambda x: lax.scan(lambda c, w: (c * w, c.sum(1)), x, _weights(3))[0],
        "loop's steps": lambda x: lax.scan(
            lambda c, w: (c + w, c.sum(1)), x, x.swapaxes(0, 1)[:, :, None], reverse=True
        )[1],
        "branch": lambda x: lax.cond(x.shape[1] > 3, jnp.sin, jnp.cos, x),
        "platform": lambda x: lax.platform_dependent(x, tpu=jnp.sin, default=jnp.cos),
        "remat": jax.checkpoint(lambda x: jnp.sin(jnp.cos(x))),
        "identity": lambda x: x,
        "constant": lambda x: jnp.broadcast_to(_weights(2), (x.shape[0], 2)),
        # These functions need the batch size as a number.
        "zeros": lambda x: x[:, 0] + np.zeros((len(x), 1, 4), np.float32),
        "ones": lambda x: jnp.concatenate([jnp.ones((len(x), 1, 4)), x[:, 0]], 1),
        "patches": lambda x: x.reshape(len(x) * 6, -1).sum(-1).reshape(len(x), 6),
    }
    _compare(functions)


def test_consecutive_convolutions_need_no_transposition():
    def network(x):
        for i in range(3):
            y = _convolution(x, _weights(3, 3, 4, 4) / 10)
            y = y * _weights(4) + _weights(4) * i
            gate = jax.nn.sigmoid(y.mean((1, 2), keepdims=True))
            x = x + jax.nn.relu6(y * gate)
        return x.mean((1, 2)) @ _weights(4, 2) + 1.5 * _weights(2)

    operators = _compare({"logits": network})
    assert "Transpose" not in operators
    assert operators.count("Conv") == operators.count("Clip") == 3
    assert (operators[-1], operators.count("Mul"), operators.count("Add")) == ("Gemm", 3, 3)


def test_errors_for_unsupported_primitives_name_their_position():
    def network(x):
        with jax.named_scope("Block/order"):
            return {"logits": jnp.sort(x, 1)}

    with pytest.raises(
        errors.InputError, match=r"'sort'.*Block/order \(.*primitives_test.py:\d+\)"
    ):
        walk.build(network, _SHAPE, np.float32)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x - x.mean(0), "'dim_as_value' of the number of images"),
        (lambda x: x * np.arange(len(x))[:, None, None, None], "a constant for each image"),
        (lambda x: x.sum() / len(x), "with the number of images"),
        (lambda x: x[:2], "'gather' with a size of"),
        (lambda x: jnp.take_along_axis(x, x.argmax(3)[..., None], 3), "'gather' at positions that"),
        (lambda x: lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x), "'while'"),
        (lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), "'cond' that depends on the images"),
    ],
)
def test_functions_that_mix_images_are_refused(function, message):
    with pytest.raises(errors.InputError, match=message):
        walk.build(lambda x: {"logits": function(x)}, _SHAPE, np.float32)
