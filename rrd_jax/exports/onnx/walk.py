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
from rrd_jax.exports.onnx import elements, linear, places, reductions, scans, views
from rrd_jax.exports.onnx.graph import BATCH, Graph, Tensor, UnsupportedError
from rrd_jax.exports.onnx.views import View

# By name of a primitive of JAX: (graph, operation, *operands) -> a View, or several.
TABLE = {**elements.TABLE, **linear.TABLE, **places.TABLE, **reductions.TABLE}
# The number of images in a program without symbolic sizes; no other size equals it.
_PRIME = 10007
# Parameters of primitives that call another program, which is inlined.
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_PACKAGE = str(pathlib.Path(errors.__file__).parent)
_FOREIGN = ("/site-packages/", "/dist-packages/", "<frozen", "<string>")


@dataclasses.dataclass(frozen=True)
class Operation:
    """An equation of a jaxpr, without its operands.

    Attributes:
      name: of the primitive.
      params: of the primitive, with sizes as plain numbers.
      shapes: of the results.
      dtypes: of the results, as stored.
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
        """The dtype of the first result."""
        return self.dtypes[0]


def build(
    function: Callable[[jax.Array], dict[str, jax.Array]], shape: Sequence[int], dtype: Any
) -> Graph:
    """Builds the graph of a function of images.

    Args:
      function: images -> results by name.
      shape: of an image, [H, W, channels].
      dtype: of images.

    Raises:
      InputError: the function uses a primitive without counterpart, or cannot be traced for an
        unknown number of images.
    """
    program, results, batch = _traced(function, shape, dtype)
    height, width, channels = shape
    graph = Graph(Tensor((BATCH, channels, height, width), np.dtype(dtype)))
    walk = Walk(graph, batch)
    try:
        arrays = walk.program(program, [views.view(graph.images, (0, 3, 1, 2))])
    except UnsupportedError as error:
        raise errors.UnfitError(
            f"the network computes {error}, which format 'onnx' has no counterpart of;"
            " --format=stablehlo takes every network"
        ) from error
    names = jax.tree.structure(results).unflatten(range(len(arrays)))
    for name, i in names.items():
        graph.name_output(name, views.plain(graph, arrays[i]))
    graph.sweep()
    return graph


def _traced(function, shape, dtype):
    """Returns the program, the shapes of its results, and the number of images in its shapes.

    The number is a symbol, or a prime if the code needs a number, for example for `len(images)`.
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
        "format 'onnx' wants a network that takes any number of images, but this one cannot be"
        f" traced with a number that is not known ({errors.printable(lines[0])})"
    ) from reason


class Walk:
    """Converts programs to nodes of a graph.

    Args:
      graph: to add to.
      batch: the number of images in shapes of programs.
    """

    def __init__(self, graph: Graph, batch: Any):
        self._graph = graph
        self._batch = batch
        self._line = ""

    def program(
        self, program: Any, operands: Sequence[View], wanted: Sequence[bool] | None = None
    ) -> list[View | None]:
        """Converts a program.

        Args:
          program: a Jaxpr, closed or without constants.
          operands: its arguments.
          wanted: which of its results are needed; None for all.

        Returns:
          Its results; None for some that are not needed.
        """
        constants = getattr(program, "consts", ())
        program = getattr(program, "jaxpr", program)
        known = dict(zip(program.constvars, map(self._constant, constants), strict=True))
        known |= dict(zip(program.invars, operands, strict=True))

        def read(atom):
            if isinstance(atom, core.Literal):
                return self._constant(np.asarray(atom.val, atom.aval.dtype))
            return known.get(atom)

        for equation, needed in _alive(program, wanted):
            results = self._equation(equation, read, needed)
            known |= dict(zip(equation.outvars, results, strict=True))
        return list(map(read, program.outvars))

    def _equation(self, equation, read, needed):
        scope, line = self._graph.scope, self._line
        self._graph.scope = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
        self._line = _line(equation) or line
        try:
            return self._written(equation, list(map(read, equation.invars)), needed)
        except UnsupportedError as error:
            reason = f" {error}" if str(error) else ""
            place = " ".join(filter(None, (self._graph.scope, self._line)))
            raise errors.UnfitError(
                f"the network uses '{equation.primitive.name}'{reason}{place and ' in '}{place},"
                " which format 'onnx' has no counterpart of; --format=stablehlo takes every network"
            ) from error
        finally:
            self._graph.scope, self._line = scope, line

    def _written(self, equation, operands, needed):
        name, params = equation.primitive.name, equation.params
        if name == "platform_index":  # Selects the branch of other platforms.
            default = [i for i, names in enumerate(params["platforms"]) if names is None]
            return [self._constant(np.int32(default[0] if default else 0))]
        if name == "cond":
            index = operands[0].number
            if index is None:
                raise UnsupportedError("that depends on the images")
            branch = params["branches"][min(max(int(index), 0), len(params["branches"]) - 1)]
            return self.program(branch, operands[1:], needed)
        if name == "dim_as_value":
            raise UnsupportedError("of the number of images")
        if all(operand.value is not None for operand in operands):
            if name in elements.TABLE:
                return [self._of_stored(equation, operands)]
            shapes = [self._plain(var.aval.shape) for var in equation.outvars]
            static = not any(size and size % BATCH == 0 for shape in shapes for size in shape)
            if static and name not in ("broadcast_in_dim", "iota") and not _called(params):
                return self._evaluated(equation, operands)
        if name == "scan":
            return scans.unrolled(self._graph, self.program, params, operands)
        if name in TABLE:
            results = TABLE[name](self._graph, self._operation(equation), *operands)
            return [results] if isinstance(results, View) else list(results)
        if _called(params):
            return self.program(_called(params), operands, needed)
        raise UnsupportedError

    def _operation(self, equation):
        params = {key: self._plain(value) for key, value in equation.params.items()}
        avals = [var.aval for var in equation.outvars]
        shapes = tuple(tuple(map(self._plain, aval.shape)) for aval in avals)
        dtypes = tuple(_stored(aval.dtype) for aval in avals)
        return Operation(equation.primitive.name, params, shapes, dtypes)

    def _plain(self, value):
        """Converts symbolic sizes, also within tuples, to plain numbers."""
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(map(self._plain, value))
        if not export.is_symbolic_dim(value):
            found = self._batch is _PRIME and isinstance(value, int) and not value % _PRIME
            return value // _PRIME * BATCH if found else value
        try:
            if value % self._batch == 0:
                return BATCH * int(value // self._batch)
        except core.InconclusiveDimensionOperation:
            pass
        raise UnsupportedError(f"with a size of {value}")

    def _constant(self, value):
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):  # a key
            return views.view(Tensor(value.shape, value.dtype, value))
        value = np.asarray(value, _stored(value.dtype))
        if self._batch is _PRIME:
            return self._without_images(value)
        return views.constant(self._graph, value)

    def _without_images(self, value):
        """Returns a constant that does not depend on the number of images."""
        if value.size == 1 and float(value.reshape(())) in (_PRIME, np.float32(1 / _PRIME)):
            raise UnsupportedError("with the number of images")
        shape = self._plain(value.shape)
        for axis, size in enumerate(value.shape):
            if size == _PRIME:
                row = value.take([0], axis)
                if (value != row).any():
                    raise UnsupportedError("with a constant for each image")
                value = row
        return views.constant(self._graph, value)._replace(shape=shape)

    def _of_stored(self, equation, operands):
        """Evaluates an elementwise operator on constants that are not broadcast yet."""
        values = [views.arrange(self._graph, a, range(len(a.shape))).value for a in operands]
        rank = max(map(np.ndim, values))
        full = iter(np.broadcast_arrays(*(value for value in values if value.ndim == rank)))
        values = [next(full) if value.ndim == rank else value for value in values]
        (result,) = _bind(equation, values)
        tensor = self._constant(result).tensor
        shape = self._plain(equation.outvars[0].aval.shape)
        return View(tensor, tuple(range(len(shape))), shape)

    def _evaluated(self, equation, operands):
        """Evaluates an equation; returns constants."""
        values = [views.plain(self._graph, operand).value for operand in operands]
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


def _called(params):
    """Returns the program that an equation calls; None for other equations."""
    return next((params[key] for key in _CALLS if key in params), None)


def _stored(dtype):
    """Returns the stored dtype: float32 for floats of any width."""
    if jax.dtypes.issubdtype(dtype, np.floating):
        return np.dtype(np.float32)
    if jax.dtypes.issubdtype(dtype, np.complexfloating):
        raise UnsupportedError("of complex numbers")
    return dtype


def _alive(program, wanted):
    """Returns the equations that results depend on, with which of their results are needed."""
    wanted = [True] * len(program.outvars) if wanted is None else wanted
    pairs = zip(program.outvars, wanted, strict=True)
    needed = {var for var, keep in pairs if keep and not isinstance(var, core.Literal)}
    alive = []
    for equation in reversed(program.eqns):
        parts = [var in needed for var in equation.outvars]
        if any(parts):
            alive.append((equation, parts))
            needed |= {var for var in equation.invars if not isinstance(var, core.Literal)}
    return alive[::-1]


def _line(equation):
    """Returns the line of user code that an equation comes from, in brackets; "" if unknown."""
    for frame in getattr(equation.source_info.traceback, "frames", ()):
        name = frame.file_name
        if not name.startswith(_PACKAGE) and not any(part in name for part in _FOREIGN):
            return f"({name}:{frame.line_num})"
    return ""
