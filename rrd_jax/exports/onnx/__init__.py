"""ONNX: a network for onnxruntime, OpenVINO, TensorRT, browsers and phones.

A program of JAX, written operator by operator: `walk` reads it, the tables of `elements`, `linear`,
`places` and `reductions` hold ONNX's counterpart of each primitive, `views` keeps images in ONNX's
order of axes, `fuse` joins operators, `model` writes the file and `runtime` reads it.
"""

import pathlib

import numpy as np

from rrd_jax import errors
from rrd_jax.exports import headers, interface

_NAME = "onnx"


def write(exportable: interface.Exportable, path: pathlib.Path, options: interface.Options) -> None:
    """Writes a network whose "images" are [batch, channels, H, W].

    Args:
      exportable: the network; floats of any width are written as float32.
      path: of the file.
      options: fold and embed_preprocessing count.

    Raises:
      InputError: the network uses something that has no counterpart, or is too large for a file.
      DiskError: the file cannot be written.
    """
    from rrd_jax.exports.onnx import fuse, model, walk

    dtype = np.uint8 if options.embed_preprocessing else np.float32
    shape = exportable.about.preprocessing.image_shape
    graph = walk.build(exportable.function(options), shape, np.dtype(dtype))
    fuse.fuse(graph, scales=options.fold)
    header = headers.header_of(exportable, options, _NAME, list(graph.outputs), "NCHW")
    content = model.to_model(graph, header).SerializeToString(deterministic=True)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise errors.DiskError(f"{path} cannot be written: {error.strerror or error}") from error


def open_file(path: pathlib.Path, threads: int = 0) -> interface.Runtime:
    """The file in onnxruntime; see `runtime.Session`."""
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
)
