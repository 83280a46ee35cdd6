"""Weights as .safetensors with a header, by rrd_jax's or PyTorch's names.

rrd_jax's names are paths such as params/conv1/kernel, for arrays in JAX's layouts ([H, W, I, O] for
a convolution).
"""

import json
import pathlib

from rrd_jax.exports import weight_files
from rrd_jax.exports.interface import Exportable, Format, Options, Runtime
from rrd_jax.weights import exported


def _write(exportable: Exportable, path: pathlib.Path, options: Options) -> None:
    import safetensors.numpy

    arrays = weight_files.entries(exportable, options.names)
    content = weight_files.header(exportable, "safetensors", options.names)
    # Hugging Face's libraries require the framework, which determines the array layouts.
    metadata = {exported.KEY: json.dumps(content)}
    metadata |= {} if options.names == "ours" else {"format": "pt"}
    with weight_files.disk_errors(path):
        safetensors.numpy.save_file(arrays, path, metadata)


def _open(path: pathlib.Path, threads: int) -> Runtime:
    return weight_files.open_file(path, threads)


def _recognizes(path: pathlib.Path) -> bool:
    return weight_files.is_exported(path, safetensors=True)


FORMAT = Format(
    "safetensors",
    ".safetensors",
    "",
    ("safetensors",),
    ("names",),
    _write,
    _open,
    _recognizes,
    backbones=True,
)
