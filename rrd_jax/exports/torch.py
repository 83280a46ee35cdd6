"""Weights as a PyTorch state_dict written by torch.save, with a separate header file."""

import json
import pathlib

from rrd_jax.exports import headers, weight_files
from rrd_jax.exports.interface import Exportable, Format, Options, Runtime
from rrd_jax.run_folder import atomic_write


def _write(exportable: Exportable, path: pathlib.Path, options: Options) -> None:
    import torch

    names = "torch" if options.names == "ours" else options.names
    arrays = weight_files.entries(exportable, names)
    content = weight_files.header(exportable, "torch", names)
    # PyTorch gets a copy, because JAX's arrays are read-only.
    state_dict = {name: torch.tensor(array) for name, array in arrays.items()}
    with weight_files.disk_errors(path):
        torch.save(state_dict, path)
    atomic_write.write_text(headers.sidecar(path), json.dumps(content) + "\n")


def _open(path: pathlib.Path, threads: int) -> Runtime:
    return weight_files.open_file(path, threads)


def _recognizes(path: pathlib.Path) -> bool:
    return weight_files.is_exported(path, safetensors=False)


FORMAT = Format(
    "torch", ".pth", "torch", ("torch",), ("names",), _write, _open, _recognizes, backbones=True
)
