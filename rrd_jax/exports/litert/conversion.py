"""Conversion of StableHLO to TFLite, for any batch size at the speed of a fixed batch size.

For a symbolic batch size, litert-converter computes shapes at run time and does not fuse ReLUs into
convolutions, which is 2 to 40 times slower. A network is therefore converted for two fixed batch
sizes, and the dimensions in which the results differ are made dynamic.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax.export
import numpy as np

from rrd_jax import errors
from rrd_jax.exports import lowering
from rrd_jax.exports.interface import Exportable, Options
from rrd_jax.exports.library_output import reason

# The platform of `lax.platform_dependent` whose branch does not split grouped convolutions, because
# XNNPACK computes grouped convolutions efficiently.
_PLATFORM = ("tpu",)
_BATCHES = (5, 7)
# The value of a dynamic size in a shape operand.
_DYNAMIC = -1
# Shape operands: operation and operand index.
_SHAPES = {("tfl.reshape", 1), ("tfl.slice", 2)}


class _StaticBatchError(Exception):
    """The batch size cannot be made dynamic."""


def convert(exportable: Exportable, options: Options) -> tuple[bytes, tuple[str, ...]]:
    """Converts the network to a TFLite graph with the input `images` and the outputs of `Outputs`.

    The graph takes any number of images, unless the first dimension of its input is 1.

    Returns:
      The graph, and the names of the outputs in order.

    Raises:
      InputError: the network uses an operation that TFLite lacks.
    """
    from litert_converter import converter_api_ext as api
    from litert_converter.mlir import ir

    exported = [lowering.lower(exportable, options, _PLATFORM, batch) for batch in _BATCHES]
    outputs = lowering.outputs_of(exported[0])
    with ir.Context() as context, ir.Location.unknown():
        api.prepare_mlir_context(context)
        try:
            module, twin = (_translate(lowered, outputs) for lowered in exported)
            try:
                _make_batch_dynamic(ir, module.operation, twin.operation)
            except _StaticBatchError:
                return _convert_symbolic(exportable, options, outputs), outputs
            return _graph(module), outputs
        except ValueError as error:
            raise unfit_error(exportable, reason(error)) from error


def _convert_symbolic(exportable: Exportable, options: Options, outputs: Sequence[str]) -> bytes:
    """Converts for a symbolic batch size or, if the conversion fails, for a single image."""
    batches = (*jax.export.symbolic_shape("batch"), 1)
    for batch in batches:
        try:
            exported = lowering.lower(exportable, options, _PLATFORM, batch)
            return _graph(_translate(exported, outputs))
        # InputError is a subclass of ValueError.
        except ValueError:
            if batch == 1:
                raise
    raise AssertionError(batches)


def unfit_error(exportable: Exportable, why: str) -> errors.UnfitError:
    """Returns the error for a network that LiteRT cannot run."""
    return errors.UnfitError(
        f"network '{exportable.about.model}' cannot be written as TFLite: {why}; use"
        " --format=stablehlo"
    )


def _translate(exported: jax.export.Exported, outputs: Sequence[str]) -> Any:
    """Converts a StableHLO module to TFLite's operations."""
    from litert_converter import converter_api_ext as api
    from litert_converter.mlir import ir, passmanager

    module = ir.Module.parse(exported.mlir_module())
    for operation in list(_operations(module.operation)):
        if operation.name == "stablehlo.reduce_window":
            _move_padding(ir, operation)
    api.set_signature(module.operation, "serving_default", ["images"], list(outputs))
    api.run_convert_to_tfl_passes(module, passmanager.PassManager(), api.ConvertToTFLConfig())
    for operation in list(_operations(module.operation)):
        if operation.name == "tfl.broadcast_to":
            _replace_broadcast(ir, operation)
    return module


def _move_padding(ir: Any, pooling: Any) -> None:
    """Moves a pooling's padding to a separate operation.

    TFLite's average pooling excludes padding from the average.
    """
    if "padding" not in pooling.attributes or len(pooling.operands) != 2:
        return
    images, start = pooling.operands
    kind, padding = ir.RankedTensorType(images.type), pooling.attributes["padding"]
    widths = np.array(ir.DenseElementsAttr(padding))
    # The size of a symbolic batch is negative.
    sizes = np.array(kind.shape)
    if not widths.any() or widths[sizes < 0].any():
        return
    shape = (sizes + widths.sum(1)).tolist()
    edges = {"edge_padding_low": widths[:, 0], "edge_padding_high": widths[:, 1]}
    padded = ir.Operation.create(
        "stablehlo.pad",
        results=[ir.RankedTensorType.get(shape, kind.element_type)],
        operands=[images, start],
        attributes={
            name: ir.DenseI64ArrayAttr.get([int(w) for w in values])
            for name, values in {**edges, "interior_padding": 0 * widths[:, 0]}.items()
        },
        ip=ir.InsertionPoint(pooling),
    )
    pooling.operands[0] = padded.results[0]
    pooling.attributes["padding"] = ir.DenseElementsAttr.get(0 * widths)


def _replace_broadcast(ir: Any, broadcast: Any) -> None:
    """Replaces a broadcast, whose shape operand would contain the batch size, by a tile."""
    value, target = broadcast.operands[0], ir.RankedTensorType(broadcast.results[0].type)
    sizes = [np.array(kind.shape) for kind in (ir.RankedTensorType(value.type), target)]
    if len(sizes[0]) != len(sizes[1]) or min(*sizes[0], *sizes[1], 1) < 1:
        return
    times = ir.DenseElementsAttr.get((sizes[1] // sizes[0]).astype(np.int32))
    point = ir.InsertionPoint(broadcast)
    constant = ir.Operation.create(
        "arith.constant", results=[times.type], attributes={"value": times}, ip=point
    )
    operands = [value, constant.results[0]]
    tile = ir.Operation.create("tfl.tile", results=[target], operands=operands, ip=point)
    broadcast.results[0].replace_all_uses_with(tile.results[0])
    shape = broadcast.operands[1]
    broadcast.erase()
    if not list(shape.uses) and shape.owner.name == "arith.constant":
        shape.owner.erase()


def _graph(module: Any) -> bytes:
    """Serializes a module; raises a ValueError that names unsupported operations."""
    from litert_converter import converter_api_ext as api

    # The serialization changes the module, so the names are collected first.
    names = {operation.name for operation in _operations(module.operation)}
    try:
        return api.export_flatbuffer_to_bytes(module.operation)
    except ValueError as error:
        unsupported = sorted(name for name in names if name.startswith(("stablehlo.", "chlo.")))
        if not unsupported:
            raise
        raise ValueError(f"TFLite has no operation for {', '.join(unsupported)}") from error


def _make_batch_dynamic(ir: Any, module: Any, other: Any) -> None:
    """Makes the fixed batch size of a module dynamic.

    Args:
      ir: the module with MLIR's Python bindings.
      module: the operation to change.
      other: the operation of the same network for another batch size.

    Raises:
      _StaticBatchError: the modules differ in more than the batch size in shapes.
    """
    pairs = [list(_operations(operation)) for operation in (module, other)]
    if [operation.name for operation in pairs[0]] != [operation.name for operation in pairs[1]]:
        raise _StaticBatchError
    for operation, twin in zip(*pairs, strict=True):
        for name in _attribute_names(operation):
            if operation.name != "func.func" or name != "function_type":
                _make_attribute_dynamic(ir, operation, twin, name)
        values = [*operation.results, *_arguments(operation)]
        for value, copy in zip(values, [*twin.results, *_arguments(twin)], strict=True):
            value.set_type(_dynamic_type(ir, value.type, copy.type))
    for operation in pairs[0]:
        if operation.name == "func.func":
            block = operation.regions[0].blocks[0]
            results = list(block.operations)[-1].operands
            types = [[value.type for value in values] for values in (block.arguments, results)]
            signature = ir.FunctionType.get(*types)
            operation.attributes["function_type"] = ir.TypeAttr.get(signature)


def _make_attribute_dynamic(ir: Any, operation: Any, twin: Any, name: str) -> None:
    """Makes the batch size dynamic in a constant shape."""
    value, copy = operation.attributes[name], twin.attributes[name]
    if value == copy:
        return
    uses = {(use.owner.name, use.operand_number) for r in operation.results for use in r.uses}
    if not uses or not uses <= _SHAPES or value.type != copy.type:
        raise _StaticBatchError
    numbers, others = (np.array(ir.DenseElementsAttr(a)) for a in (value, copy))
    differ = numbers != others
    # In a reshape, -1 is the inferred dimension; in a slice, the remaining size.
    if differ.sum() != 1 or (numbers[differ] * _BATCHES[1] != others[differ] * _BATCHES[0]).any():
        raise _StaticBatchError
    sizes = np.where(differ, _DYNAMIC, numbers).astype(numbers.dtype)
    operation.attributes[name] = ir.DenseElementsAttr.get(sizes)


def _dynamic_type(ir: Any, kind: Any, other: Any) -> Any:
    if kind == other:
        return kind
    kind, other = ir.RankedTensorType(kind), ir.RankedTensorType(other)
    if len(kind.shape) != len(other.shape):
        raise _StaticBatchError
    shape = []
    for size, copy in zip(kind.shape, other.shape, strict=True):
        if size != copy and size * _BATCHES[1] != copy * _BATCHES[0]:
            raise _StaticBatchError
        shape.append(size if size == copy else ir.ShapedType.get_dynamic_size())
    return ir.RankedTensorType.get(shape, kind.element_type)


def _operations(operation: Any) -> Iterator[Any]:
    """Yields the nested operations of all levels, in order."""
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from _operations(inner.operation)


def _arguments(operation: Any) -> list[Any]:
    return [value for r in operation.regions for block in r.blocks for value in block.arguments]


def _attribute_names(operation: Any) -> list[str]:
    return [name if isinstance(name, str) else name.name for name in operation.attributes]
