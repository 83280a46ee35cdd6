"""Elementwise operators."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rrd_jax.exports.onnx.graph import Graph, UnsupportedError
from rrd_jax.exports.onnx.lazy_arrays import LazyArray, add_op

_OPERATORS = {
    **{"abs": "Abs", "sign": "Sign", "neg": "Neg", "floor": "Floor", "ceil": "Ceil"},
    **{"exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "logistic": "Sigmoid"},
    **{"erf": "Erf", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos"},
    **{"atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh"},
    **{"atanh": "Atanh", "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"},
    **{"pow": "Pow", "min": "Min"},
}
_LOGICAL = {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}
_COMPARISONS = {
    **{"eq": "Equal", "lt": "Less", "le": "LessOrEqual"},
    **{"gt": "Greater", "ge": "GreaterOrEqual"},
}


def _operator(name: str, graph: Graph, op: Any, *operands: LazyArray) -> LazyArray:
    return add_op(graph, name, *operands, dtype=op.dtype)


def _logical(name: str, graph: Graph, op: Any, *operands: LazyArray) -> LazyArray:
    if operands[0].dtype != bool:
        raise UnsupportedError("on the bits of integers")
    return add_op(graph, name, *operands)


def _comparison(name: str, graph: Graph, op: Any, *operands: LazyArray) -> LazyArray:
    return add_op(graph, name, *map(partial(_comparable, graph), operands), dtype=bool)


def _comparable(graph: Graph, x: LazyArray) -> LazyArray:
    """Casts small integers and bools to int32, which every runtime can compare and select."""
    return cast(graph, x, np.int32) if x.dtype.itemsize < 4 else x


def _max(graph: Graph, op: Any, *operands: LazyArray) -> LazyArray:
    for x, other in (operands, operands[::-1]):
        if other.scalar == 0 and x.dtype == np.float32:
            return add_op(graph, "Relu", x)
    return add_op(graph, "Max", *operands)


def _clamp(graph: Graph, op: Any, low: LazyArray, x: LazyArray, high: LazyArray) -> LazyArray:
    if low.scalar is not None and high.scalar is not None:
        return add_op(graph, "Clip", x, low.scalar, high.scalar)
    return add_op(graph, "Min", add_op(graph, "Max", x, low), high)


def _select(graph: Graph, op: Any, which: LazyArray, *cases: LazyArray) -> LazyArray:
    if len(cases) == 1:
        return cases[0]
    if len(cases) > 2:
        raise UnsupportedError("with more than two cases")
    which = cast(graph, which, bool)
    low, high = (_comparable(graph, case) for case in cases)
    return cast(graph, add_op(graph, "Where", which, high, low, dtype=low.dtype), op.dtype)


def cast(graph: Graph, x: LazyArray, dtype: Any) -> LazyArray:
    """Casts an array."""
    dtype = np.dtype(dtype)
    if x.dtype == dtype:
        return x
    if x.value is not None:
        return x._replace(tensor=graph.constant(x.value.astype(dtype)))
    return add_op(graph, "Cast", x, dtype=dtype, to=dtype.name)


def _integer_pow(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    power = op.params["y"]
    if power == 2:
        return add_op(graph, "Mul", x, x)
    return add_op(graph, "Reciprocal", x) if power == -1 else add_op(graph, "Pow", x, power)


def _round(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    # Method 1 rounds half to even, as ONNX does.
    if int(op.params["rounding_method"]) == 1:
        return add_op(graph, "Round", x)
    up = add_op(graph, "Floor", add_op(graph, "Add", add_op(graph, "Abs", x), 0.5))
    return add_op(graph, "Mul", add_op(graph, "Sign", x), up)


def _one_minus(graph: Graph, x: LazyArray) -> LazyArray:
    return add_op(graph, "Add", add_op(graph, "Neg", x), 1.0)


def _cbrt(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    root = add_op(graph, "Pow", add_op(graph, "Abs", x), 1 / 3)
    return add_op(graph, "Mul", add_op(graph, "Sign", x), root)


def _is_finite(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    nan, infinite = (add_op(graph, name, x, dtype=bool) for name in ("IsNaN", "IsInf"))
    return add_op(graph, "Not", add_op(graph, "Or", nan, infinite))


def _unchanged(graph: Graph, op: Any, x: LazyArray) -> LazyArray:
    return x


TABLE: dict[str, Callable[..., LazyArray]] = {
    **{name: partial(_operator, op) for name, op in _OPERATORS.items()},
    **{name: partial(_logical, op) for name, op in _LOGICAL.items()},
    **{name: partial(_comparison, op) for name, op in _COMPARISONS.items()},
    **dict.fromkeys(
        ("copy", "copy_p", "name", "stop_gradient", "reduce_precision", "sharding_constraint"),
        _unchanged,
    ),
    "ne": lambda graph, op, *xs: add_op(graph, "Not", _comparison("Equal", graph, op, *xs)),
    "max": _max,
    "clamp": _clamp,
    "select_n": _select,
    "convert_element_type": lambda graph, op, x: cast(graph, x, op.dtype),
    "square": lambda graph, op, x: add_op(graph, "Mul", x, x),
    "integer_pow": _integer_pow,
    "exp2": lambda graph, op, x: add_op(graph, "Exp", add_op(graph, "Mul", x, np.log(2))),
    "log2": lambda graph, op, x: add_op(graph, "Mul", add_op(graph, "Log", x), 1 / np.log(2)),
    "one_minus_square": lambda graph, op, x: _one_minus(graph, add_op(graph, "Mul", x, x)),
    "log1p": lambda graph, op, x: add_op(graph, "Log", add_op(graph, "Add", x, 1.0)),
    "expm1": lambda graph, op, x: add_op(graph, "Sub", add_op(graph, "Exp", x), 1.0),
    "rsqrt": lambda graph, op, x: add_op(graph, "Reciprocal", add_op(graph, "Sqrt", x)),
    "cbrt": _cbrt,
    "erfc": lambda graph, op, x: _one_minus(graph, add_op(graph, "Erf", x)),
    "rem": lambda graph, op, x, y: add_op(graph, "Mod", x, y, fmod=1),
    "round": _round,
    "is_finite": _is_finite,
}
