"""Conversion of graphs to ONNX models with headers, and the reader of the headers."""

import hashlib
import json
from collections import Counter
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.exports import headers, interface
from rrd_jax.exports.onnx.graph import BATCH, Graph, Node, Tensor

# Versions from 2022, supported since onnxruntime 1.13 and OpenVINO 2023.
_OPSET, _IR_VERSION = 17, 8
# The largest size of the weights in bytes; a protobuf message holds at most 2 GiB.
_LARGEST = 2**31 - 2**20
_HEADER, _DIGEST = "rrd_jax", "rrd_jax.sha256"
# Names of an operator's constant inputs, by position.
_ROLES = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), ("input", "weight", "bias")),
    "Reshape": ("input", "shape"),
    "Expand": ("input", "shape"),
    "Pad": ("input", "pads", "value"),
    "Slice": ("input", "starts", "ends", "axes", "steps"),
    "Clip": ("input", "min", "max"),
}


def to_model(graph: Graph, header: headers.Header) -> Any:
    """Converts a graph to a ModelProto, and checks the model.

    Args:
      graph: the graph of a network.
      header: the header to store in the file.

    Raises:
      InputError: the model is larger than an ONNX file can be.
    """
    import onnx
    from onnx import helper, numpy_helper

    names = _names(graph)
    constants = {
        id(x): x
        for node in graph.nodes
        for x in node.inputs
        if x is not None and x.value is not None
    }
    size = sum(x.value.nbytes for x in constants.values())
    if size > _LARGEST:
        raise errors.UnfitError(
            f"the weights take {size / 2**30:.1f} GiB, but an ONNX file holds at most 2 GiB; use"
            " --format=stablehlo or --format=safetensors"
        )
    nodes = [
        helper.make_node(
            node.op,
            ["" if x is None else names[id(x)] for x in node.inputs],
            [names[id(x)] for x in node.outputs],
            name=names[id(node)],
            **node.attributes,
        )
        for node in graph.nodes
    ]
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name == "to":
                attribute.CopyFrom(helper.make_attribute("to", _element_type(attribute.s.decode())))
    content = helper.make_graph(
        nodes,
        "network",
        [_value_info("images", graph.images)],
        [_value_info(name, tensor) for name, tensor in graph.outputs.items()],
        [
            numpy_helper.from_array(np.ascontiguousarray(x.value), names[key])
            for key, x in constants.items()
        ],
    )
    model = helper.make_model(
        content,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="rrd_jax",
        producer_version=interface.version_of("rrd_jax").split()[-1],
    )
    properties = _properties(header)
    network = model.graph.SerializeToString(deterministic=True)
    properties[_DIGEST] = _digest(network, properties[_HEADER])
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    return model


def header_of(properties: dict[str, str], content: bytes, location: str) -> headers.Header:
    """Returns the header of a file, and verifies the file's digest.

    Args:
      properties: the file's metadata.
      content: the bytes of the file.
      location: the file's name in error messages.

    Raises:
      InputError: the header is missing, or the file is damaged.
    """
    if not {_HEADER, _DIGEST} <= properties.keys():
        raise errors.InputError(
            f"{location} has no rrd_jax header: it was not written by rrd_jax.export; export the"
            " network again"
        )
    if properties[_DIGEST] != _digest(_graph_of(content), properties[_HEADER]):
        raise errors.InputError(
            f"{location} does not match its digest: it is damaged, or another program has"
            " changed it; export it again"
        )
    return headers.from_json(properties[_HEADER], location)


def _digest(network: bytes, header: str) -> str:
    return hashlib.sha256(network + header.encode()).hexdigest()


def _graph_of(content: bytes) -> bytes:
    """Returns the bytes of the graph, field 7 of the protobuf message."""
    offset = 0
    while offset < len(content):
        key, offset = _varint(content, offset)
        # For fields of wire type 0, this varint is the value rather than the length.
        length, offset = _varint(content, offset)
        if key == (7 << 3 | 2):
            return content[offset : offset + length]
        offset += length if key & 7 == 2 else 0
    return b""


def _varint(content: bytes, offset: int) -> tuple[int, int]:
    """Decodes a varint; returns the value and the offset of the next field."""
    value = shift = 0
    while offset < len(content):
        byte = content[offset]
        value, shift, offset = value | (byte & 127) << shift, shift + 7, offset + 1
        if byte < 128:
            break
    return value, offset


def _properties(header: headers.Header) -> dict[str, str]:
    """Returns the metadata: the header, and entries for other programs."""
    about = header.about
    preprocessing = about.preprocessing
    properties = {
        "class_names": list(about.class_names),
        "image_size": preprocessing.image_size,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }
    texts = {name: json.dumps(value) for name, value in properties.items()}
    return {_HEADER: headers.to_json(header), "model": about.model, **texts}


def _element_type(name: str) -> int:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(name))


def _value_info(name: str, tensor: Tensor) -> Any:
    from onnx import helper

    sizes = ["batch" if size == BATCH else size for size in tensor.shape]
    return helper.make_tensor_value_info(name, _element_type(tensor.dtype.name), sizes)


def _names(graph: Graph) -> dict[int, str]:
    """Returns names such as "ResNet/layer1_0/conv1/Conv.weight", by id of nodes and tensors."""
    names = {id(graph.images): "images"}
    names |= {id(tensor): name for name, tensor in graph.outputs.items()}
    counts = Counter()
    for node in graph.nodes:
        name = "/".join(filter(None, (node.scope, node.op)))
        names[id(node)] = f"{name}_{counts[name]}" if counts[name] else name
        counts[name] += 1
        _name_tensors(node, names)
    return names


def _name_tensors(node: Node, names: dict[int, str]) -> None:
    name = names[id(node)]
    for i, tensor in enumerate(node.outputs):
        names.setdefault(id(tensor), f"{name}:{i}")
    roles = _ROLES.get(node.op, ())
    for i, tensor in enumerate(node.inputs):
        if tensor is not None and tensor.value is not None:
            role = roles[i] if i < len(roles) else f"constant{i}"
            names.setdefault(id(tensor), f"{name}.{role}")
