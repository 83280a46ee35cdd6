"""The ways out: a network with its weights as a file that other programs read.

One file a format, with the reader that tries what was written. A library that a format needs is
imported when it is used.
"""

import importlib
import pathlib

from rrd_jax import errors
from rrd_jax.exports.interface import Exportable, Format, Options, Outputs, Runtime, require
from rrd_jax.exports.sample_images import Images
from rrd_jax.exports.verification import Comparison, Trial
from rrd_jax.exports.writer import Written, exportable, options_of, write

FORMATS = (
    "safetensors",
    "torch",
    "hub",
    "stablehlo",
    "onnx",
    "litert",
    "openvino",
    "coreml",
)


def get(name: str) -> Format:
    """The format of that name; raises an InputError for an unknown one."""
    errors.lookup("format", name, dict.fromkeys(FORMATS))
    return importlib.import_module(f"rrd_jax.exports.{name}").FORMAT


def of_extension(path: pathlib.Path) -> Format:
    """The format that a file's name says; raises an InputError for another name."""
    known = {form.extension: form for form in reversed([*map(get, FORMATS)]) if form.extension}
    if path.suffix not in known:
        raise errors.InputError(
            f"{path.name} does not say its format: end it in {', '.join(sorted(known))}, or name"
            f" one of {', '.join(FORMATS)}"
        )
    return known[path.suffix]


def recognized(path: pathlib.Path) -> Format | None:
    """The format of an exported file or folder; None for anything else."""
    return next((f for f in map(get, FORMATS) if f.recognizes(path)), None)


def open_file(path: pathlib.Path, threads: int = 0) -> Runtime:
    """An exported file, in the library that it is for.

    Args:
      path: of a file, or a folder.
      threads: that it may use; 0 for as many as there are cores.

    Raises:
      InputError: it is of no format, damaged, or of one that cannot be run here.
      UnavailableError: its library is not installed.
    """
    form = recognized(path)
    if form is None:
        raise errors.InputError(f"{path} is of none of the formats {', '.join(FORMATS)}")
    if form.open is None:
        raise errors.InputError(f"{path} is of format '{form.name}', which cannot be run here")
    require(form.name, form.extra, form.modules)
    return form.open(path, threads)


__all__ = [
    "FORMATS",
    "Comparison",
    "Exportable",
    "Format",
    "Images",
    "Options",
    "Outputs",
    "Runtime",
    "Trial",
    "Written",
    "exportable",
    "get",
    "of_extension",
    "open_file",
    "options_of",
    "recognized",
    "write",
]
