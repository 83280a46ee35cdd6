"""ONNX: a network for onnxruntime, OpenVINO, TensorRT, browsers and phones.

The conversion reads a jaxpr equation by equation (`walk`). The tables in `elementwise`, `linear`,
`shape_ops` and `reductions` map JAX's primitives to ONNX operators, `scans` unrolls loops,
`lazy_arrays` keeps images in ONNX's order of axes, `fuse` merges operators, `model` writes the file
and `runtime` reads the file.
"""

import pathlib

import numpy as np

from rrd_jax import errors
from rrd_jax.exports import headers, interface

_NAME = "onnx"


def write(exportable: interface.Exportable, path: pathlib.Path, options: interface.Options) -> None:
    """Writes a network with the input "images", [batch, channels, H, W].

    Feature maps of a backbone have this order of axes too.

    Args:
      exportable: the network; floats of any width are written as float32.
      path: the file to write.
      options: `fold` and `embed_preprocessing`; all other options are ignored.

    Raises:
      InputError: ONNX lacks a primitive of the network, or the network is too large for a file.
      DiskError: the file cannot be written.
    """
    from rrd_jax.exports.onnx import fuse, model, walk

    dtype = np.uint8 if options.embed_preprocessing else np.float32
    shape = exportable.about.preprocessing.image_shape
    compute = exportable.function(options)

    def channels_first(images):
        outputs = compute(images)
        return {k: x.transpose(0, 3, 1, 2) if x.ndim == 4 else x for k, x in outputs.items()}

    graph = walk.build(channels_first, shape, np.dtype(dtype))
    fuse.fuse(graph, scales=options.fold)
    header = headers.header_of(exportable, options, _NAME, list(graph.outputs), "NCHW")
    content = model.to_model(graph, header).SerializeToString(deterministic=True)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise errors.DiskError(
            f"{path} cannot be written ({error.strerror or error}); free disk space or write"
            " elsewhere"
        ) from error


def open_file(path: pathlib.Path, threads: int = 0) -> interface.Runtime:
    """Opens the file in onnxruntime; see `runtime.Session`."""
    from rrd_jax.exports.onnx import runtime

    return runtime.Session(path, threads)


def recognizes(path: pathlib.Path) -> bool:
    """Returns True for an ONNX file, by its name or its first bytes (IR version, producer)."""
    if not path.is_file():
        return False
    if path.suffix == ".onnx":
        return True
    try:
        with path.open("rb") as file:
            start = file.read(3)
    except OSError:
        return False
    return len(start) == 3 and start[0] == 0x08 and 3 <= start[1] < 32 and start[2] == 0x12


FORMAT = interface.Format(
    name=_NAME,
    extension=".onnx",
    extra="onnx",
    modules=("onnx", "onnxruntime"),
    options=("fold", "embed_preprocessing"),
    write=write,
    open=open_file,
    recognizes=recognizes,
    backbones=True,
)
