"""Elementwise operators."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rrd_jax.exports.onnx.graph import Graph, UnsupportedError
from rrd_jax.exports.onnx.views import View, combine

_SAME = {
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


def _same(name: str, graph: Graph, op: Any, *operands: View) -> View:
    return combine(graph, name, *operands, dtype=op.dtype)


def _logical(name: str, graph: Graph, op: Any, *operands: View) -> View:
    if operands[0].dtype != bool:
        raise UnsupportedError("on the bits of numbers")
    return combine(graph, name, *operands)


def _comparison(name: str, graph: Graph, op: Any, *operands: View) -> View:
    return combine(graph, name, *map(partial(_comparable, graph), operands), dtype=bool)


def _comparable(graph: Graph, x: View) -> View:
    """Casts small integers and bools to int32, which comparisons and Where support everywhere."""
    return cast(graph, x, np.int32) if x.dtype.itemsize < 4 else x


def _max(graph: Graph, op: Any, *operands: View) -> View:
    for x, other in (operands, operands[::-1]):
        if other.number == 0 and x.dtype == np.float32:
            return combine(graph, "Relu", x)
    return combine(graph, "Max", *operands)


def _clamp(graph: Graph, op: Any, low: View, x: View, high: View) -> View:
    if low.number is not None and high.number is not None:
        return combine(graph, "Clip", x, low.number, high.number)
    return combine(graph, "Min", combine(graph, "Max", x, low), high)


def _select(graph: Graph, op: Any, which: View, *cases: View) -> View:
    if len(cases) == 1:
        return cases[0]
    if len(cases) > 2:
        raise UnsupportedError("with more than two cases")
    which = cast(graph, which, bool)
    low, high = (_comparable(graph, case) for case in cases)
    return cast(graph, combine(graph, "Where", which, high, low, dtype=low.dtype), op.dtype)


def cast(graph: Graph, x: View, dtype: Any) -> View:
    """Casts an array."""
    dtype = np.dtype(dtype)
    if x.dtype == dtype:
        return x
    if x.value is not None:
        return x._replace(tensor=graph.constant(x.value.astype(dtype)))
    return combine(graph, "Cast", x, dtype=dtype, to=dtype.name)


def _integer_pow(graph: Graph, op: Any, x: View) -> View:
    power = op.params["y"]
    if power == 2:
        return combine(graph, "Mul", x, x)
    return combine(graph, "Reciprocal", x) if power == -1 else combine(graph, "Pow", x, power)


def _round(graph: Graph, op: Any, x: View) -> View:
    if int(op.params["rounding_method"]) == 1:  # to the nearest even
        return combine(graph, "Round", x)
    up = combine(graph, "Floor", combine(graph, "Add", combine(graph, "Abs", x), 0.5))
    return combine(graph, "Mul", combine(graph, "Sign", x), up)


def _one_minus(graph: Graph, x: View) -> View:
    return combine(graph, "Add", combine(graph, "Neg", x), 1.0)


def _cbrt(graph: Graph, op: Any, x: View) -> View:
    root = combine(graph, "Pow", combine(graph, "Abs", x), 1 / 3)
    return combine(graph, "Mul", combine(graph, "Sign", x), root)


def _is_finite(graph: Graph, op: Any, x: View) -> View:
    nan, infinite = (combine(graph, name, x, dtype=bool) for name in ("IsNaN", "IsInf"))
    return combine(graph, "Not", combine(graph, "Or", nan, infinite))


def _unchanged(graph: Graph, op: Any, x: View) -> View:
    return x


TABLE: dict[str, Callable[..., View]] = {
    **{name: partial(_same, same) for name, same in _SAME.items()},
    **{name: partial(_logical, same) for name, same in _LOGICAL.items()},
    **{name: partial(_comparison, same) for name, same in _COMPARISONS.items()},
    **dict.fromkeys(
        ("copy", "copy_p", "name", "stop_gradient", "reduce_precision", "sharding_constraint"),
        _unchanged,
    ),
    "ne": lambda graph, op, *xs: combine(graph, "Not", _comparison("Equal", graph, op, *xs)),
    "max": _max,
    "clamp": _clamp,
    "select_n": _select,
    "convert_element_type": lambda graph, op, x: cast(graph, x, op.dtype),
    "square": lambda graph, op, x: combine(graph, "Mul", x, x),
    "integer_pow": _integer_pow,
    "exp2": lambda graph, op, x: combine(graph, "Exp", combine(graph, "Mul", x, np.log(2))),
    "log2": lambda graph, op, x: combine(graph, "Mul", combine(graph, "Log", x), 1 / np.log(2)),
    "one_minus_square": lambda graph, op, x: _one_minus(graph, combine(graph, "Mul", x, x)),
    "log1p": lambda graph, op, x: combine(graph, "Log", combine(graph, "Add", x, 1.0)),
    "expm1": lambda graph, op, x: combine(graph, "Sub", combine(graph, "Exp", x), 1.0),
    "rsqrt": lambda graph, op, x: combine(graph, "Reciprocal", combine(graph, "Sqrt", x)),
    "cbrt": _cbrt,
    "erfc": lambda graph, op, x: _one_minus(graph, combine(graph, "Erf", x)),
    "rem": lambda graph, op, x, y: combine(graph, "Mod", x, y, fmod=1),
    "round": _round,
    "is_finite": _is_finite,
}
