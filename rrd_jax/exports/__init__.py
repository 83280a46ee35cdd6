"""Export formats: a network with its weights as a file for other programs.

Each format is one file, with the reader that verifies exported files. The libraries of a format are
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
    """Returns the format of that name; raises an InputError for an unknown one."""
    errors.lookup("format", name, dict.fromkeys(FORMATS))
    return importlib.import_module(f"rrd_jax.exports.{name}").FORMAT


def of_extension(path: pathlib.Path) -> Format:
    """Returns the format of a file's extension; raises an InputError for an unknown one."""
    known = {form.extension: form for form in reversed([*map(get, FORMATS)]) if form.extension}
    if path.suffix not in known:
        raise errors.InputError(
            f"{path.name} has the extension of no format: use {', '.join(sorted(known))}, or name"
            f" a format, one of {', '.join(FORMATS)}"
        )
    return known[path.suffix]


def recognized(path: pathlib.Path) -> Format | None:
    """Returns the format of an exported file or folder; None for any other path."""
    return next((f for f in map(get, FORMATS) if f.recognizes(path)), None)


def open_file(path: pathlib.Path, threads: int = 0) -> Runtime:
    """Opens an exported file in the library that it is written for.

    Args:
      path: of a file or folder.
      threads: number of threads; 0 for all cores.

    Raises:
      InputError: the file is damaged, or is not of a format that can be run on this platform.
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
