"""Fusion of nodes: merges a node with its producer if no other node uses the producer's result."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from rrd_jax.exports.onnx.graph import BATCH, Graph, Node, Tensor

# (graph, producer, node) -> True if the two were fused. If the producer survives instead of the
# node, the rule marks the node as removed.
_Rule = Callable[[Graph, Node, Node], bool]
_REMOVED = "removed"


def fuse(graph: Graph, *, scales: bool = True) -> None:
    """Fuses nodes until no rule applies.

    Args:
      graph: the graph, changed in place.
      scales: True to fold constant factors, such as batch norm scales, into convolutions.
    """
    rules = dict(_RULES)
    if not scales:
        rules = {pair: rule for pair, rule in rules.items() if rule is not _fuse_scale}
    changed = True
    while changed:
        changed = False
        producers = {id(output): node for node in graph.nodes for output in node.outputs}
        uses = Counter(id(x) for node in graph.nodes for x in node.inputs if x is not None)
        uses.update(map(id, graph.outputs.values()))
        for node in graph.nodes:
            producer = _producer(node, producers, uses)
            rule = producer and rules.get((producer.op, node.op))
            if rule and rule(graph, producer, node):
                changed = True
                for output in node.outputs if node.op == _REMOVED else ():
                    producers[id(output)] = producer
        graph.nodes = [node for node in graph.nodes if node.op != _REMOVED]
        _drop_identities(graph)
        graph.remove_unused()


def _producer(node: Node, producers: dict[int, Node], uses: Counter) -> Node | None:
    """Returns the node whose only result is used by this node alone; None if no node qualifies."""
    for tensor in node.inputs:
        if tensor is not None and tensor.value is None:
            producer = producers.get(id(tensor))
            if producer and uses[id(tensor)] == 1 and len(producer.outputs) == 1:
                return producer
    return None


def _constant(node: Node) -> np.ndarray | None:
    """Returns the constant operand of a binary operator; None if no operand is constant."""
    return next((x.value for x in node.inputs if x is not None and x.value is not None), None)


def _replace_node(producer: Node, node: Node) -> bool:
    """Makes the producer compute the node's outputs, and removes the node."""
    producer.outputs, node.op = node.outputs, _REMOVED
    return True


def _channels(node: Node, rank: int) -> np.ndarray | None:
    """Returns a constant operand with one number or one per channel; None for other operands."""
    value = _constant(node)
    if value is None or value.size == 1:
        return None if value is None else value.reshape(1)
    fits = value.ndim == rank and value.size == value.shape[1]
    return value.reshape(-1) if fits else None


def _features(conv: Node) -> int:
    group = conv.attributes["group"] if conv.op == "ConvTranspose" else 1
    return conv.inputs[1].shape[conv.op == "ConvTranspose"] * group


def _fuse_bias(graph: Graph, conv: Node, node: Node) -> bool:
    """Folds the addition of a constant per channel into the bias of a convolution."""
    value = _channels(node, len(conv.outputs[0].shape))
    if value is None or conv.inputs[1].value is None:
        return False
    if node.op == "Sub":
        if node.inputs[1].value is None:
            return False
        value = -value
    bias = conv.inputs[2].value if len(conv.inputs) > 2 else np.float32(0)
    total = np.broadcast_to(bias + value, (_features(conv),))
    conv.inputs = [*conv.inputs[:2], graph.constant(total)]
    return _replace_node(conv, node)


def _fuse_scale(graph: Graph, conv: Node, node: Node) -> bool:
    """Folds a constant factor per channel into the weights of a convolution."""
    value = _channels(node, len(conv.outputs[0].shape))
    weight = conv.inputs[1].value
    if value is None or weight is None or conv.op == "ConvTranspose":
        return False
    if node.op == "Div":
        if node.inputs[1].value is None:
            return False
        value = 1 / value
    scaled = weight * value.reshape(-1, *(1,) * (weight.ndim - 1))
    biases = [graph.constant(bias.value * value) for bias in conv.inputs[2:]]
    conv.inputs = [conv.inputs[0], graph.constant(scaled), *biases]
    return _replace_node(conv, node)


def _fuse_gemm(graph: Graph, product: Node, node: Node) -> bool:
    """Fuses a matrix product and a bias into a Gemm."""
    weight, value = product.inputs[1], _constant(node)
    if len(product.inputs[0].shape) != 2 or weight.value is None or value is None:
        return False
    columns = weight.shape[1]
    if value.size != columns or value.shape[-1:] != (columns,):
        return False
    bias = graph.constant(value.reshape(columns))
    node.op, node.inputs = "Gemm", [*product.inputs, bias]
    node.attributes, node.scope = {}, product.scope
    return True


def _fuse_clip(graph: Graph, producer: Node, node: Node) -> bool:
    """Fuses a Relu and an upper bound into a Clip."""
    value = _constant(node)
    if value is None or value.size != 1:
        return False
    bounds = [graph.constant(np.float32(0)), graph.constant(value.reshape(()))]
    node.op, node.inputs = "Clip", [producer.inputs[0], *bounds]
    return True


def _fuse_mean(graph: Graph, total: Node, node: Node) -> bool:
    """Replaces a sum that is divided by the number of its terms with a mean."""
    value = _constant(node)
    source, axes = total.inputs[0], total.inputs[1].value
    count = math.prod(source.shape[axis] for axis in axes)
    if value is None or value.size != 1 or node.inputs[-1].value is None:
        return False
    factor = 1 / float(value.reshape(())) if node.op == "Div" else float(value.reshape(()))
    if not math.isclose(factor * count, 1, rel_tol=1e-6):
        return False
    if list(axes) == list(range(2, len(source.shape))) and len(source.shape) == 4:
        # Runtimes compute GlobalAveragePool faster than ReduceMean.
        pooled = Tensor((*source.shape[:2], 1, 1), source.dtype)
        total.op, total.inputs, total.attributes = "GlobalAveragePool", [source], {}
        total.outputs = [pooled]
        node.op, node.attributes = "Reshape", {}
        node.inputs = [pooled, graph.integers(_sizes(node.outputs[0].shape))]
        return True
    node.op, node.inputs = "ReduceMean", [source]
    node.attributes = {"axes": [int(axis) for axis in axes], "keepdims": 0}
    return True


def _sizes(shape: Sequence[int]) -> list[int]:
    """Returns the target shape of a Reshape, with -1 for sizes that depend on the batch."""
    return [-1 if size % BATCH == 0 else size for size in shape]


def _fuse_factors(graph: Graph, producer: Node, node: Node) -> bool:
    """Fuses two constant factors, and removes both if their product is 1, as after pooling."""
    values = [_constant(producer), _constant(node)]
    if any(value is None or value.size != 1 or value.dtype != np.float32 for value in values):
        return False
    if node.op == "Div" and node.inputs[1].value is None:
        return False
    first, second = (float(value.reshape(())) for value in values)
    factor = first / second if node.op == "Div" else first * second
    source = next(x for x in producer.inputs if x.value is None)
    node.op, node.inputs = "Mul", [source, graph.constant(np.float32(factor))]
    if math.isclose(factor, 1, rel_tol=1e-7):
        node.op, node.inputs = "Identity", [source]
    return True


def _fuse_reshapes(graph: Graph, producer: Node, node: Node) -> bool:
    """Fuses two reshapes."""
    node.inputs = [producer.inputs[0], node.inputs[1]]
    return True


def _fuse_transposes(graph: Graph, producer: Node, node: Node) -> bool:
    """Fuses two transpositions."""
    first, second = producer.attributes["perm"], node.attributes["perm"]
    permutation = [first[i] for i in second]
    node.inputs, node.attributes = [producer.inputs[0]], {"perm": permutation}
    if permutation == sorted(permutation):
        node.op, node.attributes = "Identity", {}
    return True


def _fuse_padding(graph: Graph, pad: Node, conv: Node) -> bool:
    """Fuses zero padding into a convolution."""
    rank = len(pad.inputs[0].shape)
    amounts, value = pad.inputs[1].value, pad.inputs[2].value
    low, high = list(amounts[:rank]), list(amounts[rank:])
    if value != 0 or any(low[:2] + high[:2]) or conv.inputs[0] is not pad.outputs[0]:
        return False
    pads = zip(conv.attributes["pads"], low[2:] + high[2:], strict=True)
    conv.attributes = conv.attributes | {"pads": [int(a + b) for a, b in pads]}
    conv.inputs = [pad.inputs[0], *conv.inputs[1:]]
    return True


def _move_factor(graph: Graph, producer: Node, node: Node) -> bool:
    """Moves a constant factor in front of a reshape, where the factor can be fused."""
    value = _constant(node)
    if value is None or value.size != 1 or node.inputs[-1].value is None:
        return False
    source, shape = producer.inputs
    scaled = Tensor(source.shape, source.dtype)
    producer.op, producer.inputs, producer.outputs = node.op, [source, node.inputs[-1]], [scaled]
    node.op, node.inputs = "Reshape", [scaled, shape]
    return True


def _drop_identities(graph: Graph) -> None:
    """Removes Identity nodes, except nodes that connect two graph inputs or outputs."""
    outputs = set(map(id, graph.outputs.values()))
    produced = {id(output) for node in graph.nodes for output in node.outputs}
    for node in [node for node in graph.nodes if node.op == "Identity"]:
        (source,), (result,) = node.inputs, node.outputs
        if id(result) not in outputs:
            old, new = result, source
        elif id(source) in produced and id(source) not in outputs:
            old, new = source, result
        else:
            continue
        graph.nodes.remove(node)
        for other in graph.nodes:
            other.inputs = [new if x is old else x for x in other.inputs]
            other.outputs = [new if x is old else x for x in other.outputs]


_RULES: dict[tuple[str, str], _Rule] = {
    **{(conv, op): _fuse_bias for conv in ("Conv", "ConvTranspose") for op in ("Add", "Sub")},
    **{("Conv", op): _fuse_scale for op in ("Mul", "Div")},
    ("MatMul", "Add"): _fuse_gemm,
    ("Relu", "Min"): _fuse_clip,
    **{("ReduceSum", op): _fuse_mean for op in ("Mul", "Div")},
    **{("Mul", op): _fuse_factors for op in ("Mul", "Div")},
    ("Reshape", "Reshape"): _fuse_reshapes,
    **{("Reshape", op): _move_factor for op in ("Mul", "Div")},
    ("Transpose", "Transpose"): _fuse_transposes,
    ("Pad", "Conv"): _fuse_padding,
}
