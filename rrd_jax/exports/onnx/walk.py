"""Conversion of a JAX function to a graph, equation by equation."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export
from jax.extend import core

from rrd_jax import errors
from rrd_jax.exports.onnx import elementwise, lazy_arrays, linear, reductions, scans, shape_ops
from rrd_jax.exports.onnx.graph import BATCH, Graph, Tensor, UnsupportedError
from rrd_jax.exports.onnx.lazy_arrays import LazyArray

# Converters by name of a JAX primitive: (graph, operation, *operands) -> one or several LazyArrays.
TABLE = {**elementwise.TABLE, **linear.TABLE, **shape_ops.TABLE, **reductions.TABLE}
# The number of images in a program without symbolic sizes; no other size equals this prime.
_PRIME = 10007
# Parameters that hold the program of a calling primitive, which is inlined.
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_PACKAGE = str(pathlib.Path(errors.__file__).parent)
_FOREIGN = ("/site-packages/", "/dist-packages/", "<frozen", "<string>")


@dataclasses.dataclass(frozen=True)
class Operation:
    """An equation of a jaxpr, without its operands.

    Attributes:
      name: name of the primitive.
      params: parameters of the primitive, with concrete sizes.
      shapes: shapes of the results.
      dtypes: stored element types of the results.
    """

    name: str
    params: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return self.shapes[0]

    @property
    def dtype(self) -> np.dtype:
        """The element type of the first result."""
        return self.dtypes[0]


def build(
    function: Callable[[jax.Array], dict[str, jax.Array]], shape: Sequence[int], dtype: Any
) -> Graph:
    """Builds the graph of a function of images.

    Args:
      function: images -> results by name.
      shape: shape of an image, [H, W, channels].
      dtype: element type of the images.

    Raises:
      InputError: the function uses a primitive that ONNX lacks, or cannot be traced for an unknown
        number of images.
    """
    program, results, batch = _trace(function, shape, dtype)
    height, width, channels = shape
    graph = Graph(Tensor((BATCH, channels, height, width), np.dtype(dtype)))
    walk = Walk(graph, batch)
    try:
        arrays = walk.convert(program, [lazy_arrays.from_tensor(graph.images, (0, 3, 1, 2))])
    except UnsupportedError as error:
        raise errors.UnfitError(
            f"the network computes {error}, which ONNX does not support; use --format=stablehlo"
        ) from error
    names = jax.tree.structure(results).unflatten(range(len(arrays)))
    for name, i in names.items():
        graph.add_output(name, lazy_arrays.materialize(graph, arrays[i]))
    graph.remove_unused()
    return graph


def _trace(function, shape, dtype):
    """Returns the program, the shapes of its results, and the batch size in its shapes.

    The batch size is symbolic, or a prime if the code requires a number, for example for
    `len(images)`.
    """
    (symbol,) = export.symbolic_shape("batch")
    reason = None
    for batch in (symbol, _PRIME):
        images = jax.ShapeDtypeStruct((batch, *shape), dtype)
        try:
            program, results = jax.make_jaxpr(function, return_shape=True)(images)
        except (TypeError, core.InconclusiveDimensionOperation, errors.InputError) as error:
            reason = reason or error
        else:
            return program, results, batch
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    raise errors.UnfitError(
        "the network cannot be traced for an unknown number of images, as format 'onnx' requires"
        f" ({errors.printable(lines[0])}); use --format=stablehlo"
    ) from reason


class Walk:
    """Converts programs to nodes of a graph.

    Args:
      graph: the graph to add to.
      batch: the batch size in the shapes of programs, symbolic or `_PRIME`.
    """

    def __init__(self, graph: Graph, batch: Any):
        self._graph = graph
        self._batch = batch
        self._line = ""

    def convert(
        self, program: Any, operands: Sequence[LazyArray], needed: Sequence[bool] | None = None
    ) -> list[LazyArray | None]:
        """Converts a program.

        Args:
          program: a Jaxpr, closed or without constants.
          operands: arguments of the program.
          needed: for each result, True if it is needed; None if all results are needed.

        Returns:
          The results of the program; a result that is not needed may be None.
        """
        constants = getattr(program, "consts", ())
        program = getattr(program, "jaxpr", program)
        values = dict(zip(program.constvars, map(self._constant, constants), strict=True))
        values |= dict(zip(program.invars, operands, strict=True))

        def read(atom):
            if isinstance(atom, core.Literal):
                return self._constant(np.asarray(atom.val, atom.aval.dtype))
            return values.get(atom)

        for equation, outputs_needed in _needed_equations(program, needed):
            results = self._convert_in_scope(equation, read, outputs_needed)
            values |= dict(zip(equation.outvars, results, strict=True))
        return list(map(read, program.outvars))

    def _convert_in_scope(self, equation, read, needed):
        scope, line = self._graph.scope, self._line
        self._graph.scope = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
        self._line = _source_line(equation) or line
        try:
            return self._convert_equation(equation, list(map(read, equation.invars)), needed)
        except UnsupportedError as error:
            reason = f" {error}" if str(error) else ""
            location = " ".join(filter(None, (self._graph.scope, self._line)))
            raise errors.UnfitError(
                f"the network uses '{equation.primitive.name}'{reason}{location and ' in '}"
                f"{location}, which ONNX does not support; use --format=stablehlo"
            ) from error
        finally:
            self._graph.scope, self._line = scope, line

    def _convert_equation(self, equation, operands, needed):
        name, params = equation.primitive.name, equation.params
        # The graph contains the default branch, for platforms that have no branch.
        if name == "platform_index":
            default = [i for i, names in enumerate(params["platforms"]) if names is None]
            return [self._constant(np.int32(default[0] if default else 0))]
        if name == "cond":
            index = operands[0].scalar
            if index is None:
                raise UnsupportedError("that depends on the images")
            branch = params["branches"][min(max(int(index), 0), len(params["branches"]) - 1)]
            return self.convert(branch, operands[1:], needed)
        if name == "dim_as_value":
            raise UnsupportedError("of the number of images")
        if all(operand.value is not None for operand in operands):
            if name in elementwise.TABLE:
                return [self._evaluate_elementwise(equation, operands)]
            shapes = [self._concrete(var.aval.shape) for var in equation.outvars]
            static = not any(size and size % BATCH == 0 for shape in shapes for size in shape)
            if static and name not in ("broadcast_in_dim", "iota") and not _called_program(params):
                return self._evaluate(equation, operands)
        if name == "scan":
            return scans.unroll(self._graph, self.convert, params, operands)
        if name in TABLE:
            results = TABLE[name](self._graph, self._operation(equation), *operands)
            return [results] if isinstance(results, LazyArray) else list(results)
        if _called_program(params):
            return self.convert(_called_program(params), operands, needed)
        raise UnsupportedError

    def _operation(self, equation):
        params = {key: self._concrete(value) for key, value in equation.params.items()}
        avals = [var.aval for var in equation.outvars]
        shapes = tuple(tuple(map(self._concrete, aval.shape)) for aval in avals)
        dtypes = tuple(_stored_dtype(aval.dtype) for aval in avals)
        return Operation(equation.primitive.name, params, shapes, dtypes)

    def _concrete(self, value):
        """Converts symbolic sizes, also within tuples, to numbers."""
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(map(self._concrete, value))
        if not export.is_symbolic_dim(value):
            is_multiple = self._batch is _PRIME and isinstance(value, int) and not value % _PRIME
            return value // _PRIME * BATCH if is_multiple else value
        try:
            if value % self._batch == 0:
                return BATCH * int(value // self._batch)
        except core.InconclusiveDimensionOperation:
            pass
        raise UnsupportedError(f"with a size of {value}")

    def _constant(self, value):
        # Keys of random number generators have an extended dtype, which NumPy does not support.
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
            return lazy_arrays.from_tensor(Tensor(value.shape, value.dtype, value))
        value = np.asarray(value, _stored_dtype(value.dtype))
        if self._batch is _PRIME:
            return self._constant_without_batch(value)
        return lazy_arrays.constant(self._graph, value)

    def _constant_without_batch(self, value):
        """Returns a constant of any batch size; raises an UnsupportedError for other constants."""
        if value.size == 1 and float(value.reshape(())) in (_PRIME, np.float32(1 / _PRIME)):
            raise UnsupportedError("with the number of images")
        shape = self._concrete(value.shape)
        for axis, size in enumerate(value.shape):
            if size == _PRIME:
                row = value.take([0], axis)
                if (value != row).any():
                    raise UnsupportedError("with a constant for each image")
                value = row
        return lazy_arrays.constant(self._graph, value)._replace(shape=shape)

    def _evaluate_elementwise(self, equation, operands):
        """Evaluates an elementwise operator on the stored values of constants."""
        values = [
            lazy_arrays.tensor_in_order(self._graph, a, range(len(a.shape))).value for a in operands
        ]
        rank = max(map(np.ndim, values))
        full = iter(np.broadcast_arrays(*(value for value in values if value.ndim == rank)))
        values = [next(full) if value.ndim == rank else value for value in values]
        (result,) = _bind(equation, values)
        tensor = self._constant(result).tensor
        shape = self._concrete(equation.outvars[0].aval.shape)
        return LazyArray(tensor, tuple(range(len(shape))), shape)

    def _evaluate(self, equation, operands):
        """Evaluates an equation with constant operands."""
        values = [lazy_arrays.materialize(self._graph, operand).value for operand in operands]
        return list(map(self._constant, _bind(equation, values)))


def _bind(equation, values):
    """Evaluates an equation in JAX."""
    values = [
        value if isinstance(value, jax.Array) else value.astype(atom.aval.dtype)
        for atom, value in zip(equation.invars, values, strict=True)
    ]
    params = equation.primitive.get_bind_params(equation.params)
    results = equation.primitive.bind(*values, **params)
    return results if equation.primitive.multiple_results else [results]


def _called_program(params):
    """Returns the program that an equation calls; None if the equation calls no program."""
    return next((params[key] for key in _CALLS if key in params), None)


def _stored_dtype(dtype):
    """Returns the stored element type: float32 for floats of any width."""
    if jax.dtypes.issubdtype(dtype, np.floating):
        return np.dtype(np.float32)
    if jax.dtypes.issubdtype(dtype, np.complexfloating):
        raise UnsupportedError("of complex numbers")
    return dtype


def _needed_equations(program, needed):
    """Returns the equations that needed results depend on.

    Args:
      program: a Jaxpr.
      needed: for each result of the program, True if it is needed; None if all are needed.

    Returns:
      Pairs of an equation and, for each of its results, True if the result is needed.
    """
    needed = [True] * len(program.outvars) if needed is None else needed
    pairs = zip(program.outvars, needed, strict=True)
    variables = {var for var, keep in pairs if keep and not isinstance(var, core.Literal)}
    equations = []
    for equation in reversed(program.eqns):
        outputs_needed = [var in variables for var in equation.outvars]
        if any(outputs_needed):
            equations.append((equation, outputs_needed))
            variables |= {var for var in equation.invars if not isinstance(var, core.Literal)}
    return equations[::-1]


def _source_line(equation):
    """Returns the line of user code that an equation comes from, in brackets; "" if unknown."""
    for frame in getattr(equation.source_info.traceback, "frames", ()):
        name = frame.file_name
        if not name.startswith(_PACKAGE) and not any(part in name for part in _FOREIGN):
            return f"({name}:{frame.line_num})"
    return ""
