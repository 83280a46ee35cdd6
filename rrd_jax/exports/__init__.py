"""Export formats: files that hold a network and its weights for other programs.

Each format is one module, with a writer and the reader that verifies exported files. The libraries
of a format are imported when the format is used.
"""

import importlib
import pathlib

from rrd_jax import errors
from rrd_jax.exports.backbone import make_backbone
from rrd_jax.exports.interface import Exportable, Format, Options, Outputs, Runtime, require
from rrd_jax.exports.sample_images import Images
from rrd_jax.exports.verification import Comparison, Trial
from rrd_jax.exports.writer import Written, check_push, make_exportable, make_options, write

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


def get_format(name: str) -> Format:
    """Returns the format with a name; raises an InputError for an unknown name."""
    errors.lookup("format", name, dict.fromkeys(FORMATS))
    return importlib.import_module(f"rrd_jax.exports.{name}").FORMAT


def format_for_extension(path: pathlib.Path) -> Format:
    """Returns the format for a file's extension; raises an InputError for an unknown extension."""
    formats = [get_format(name) for name in FORMATS]
    by_extension = {fmt.extension: fmt for fmt in reversed(formats) if fmt.extension}
    if path.suffix not in by_extension:
        raise errors.InputError(
            f"{path.name} has an unknown extension; use one of {', '.join(sorted(by_extension))},"
            f" or name a format, one of {', '.join(FORMATS)}"
        )
    return by_extension[path.suffix]


def detect_format(path: pathlib.Path) -> Format | None:
    """Returns the format of an exported file or folder; None for any other path."""
    return next((fmt for fmt in map(get_format, FORMATS) if fmt.recognizes(path)), None)


def open_file(path: pathlib.Path, threads: int = 0) -> Runtime:
    """Opens an exported file in the library that runs its format.

    Args:
      path: the file or folder.
      threads: number of threads; 0 for all cores.

    Raises:
      InputError: the file is damaged, or this platform cannot run the file's format.
      UnavailableError: the library of the format is not installed.
    """
    fmt = detect_format(path)
    if fmt is None:
        raise errors.InputError(
            f"{path} is not an exported file; formats: {', '.join(FORMATS)}; export it again"
        )
    if fmt.open is None:
        raise errors.InputError(
            f"{path} has format '{fmt.name}', which cannot be run on this platform"
        )
    require(fmt.name, fmt.extra, fmt.modules)
    return fmt.open(path, threads)


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
    "check_push",
    "detect_format",
    "format_for_extension",
    "get_format",
    "make_backbone",
    "make_exportable",
    "make_options",
    "open_file",
    "write",
]
