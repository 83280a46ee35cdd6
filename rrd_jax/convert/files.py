"""Reads a network's weights from a run, a converted folder or a PyTorch file."""

import argparse
import pathlib
import re
from typing import Any

import numpy as np
import safetensors.numpy

from rrd_jax import checkpoints, convert, errors, imports

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
# The keys under which training scripts keep the state dict within what they save.
_STATE_DICT_KEYS = ("model", "state_dict")


def load(path: pathlib.Path, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables of a network, and what is known of it.

    Args:
      path: the workdir of a run, a folder written by `rrd_jax.convert`, or a PyTorch file.
      model: the name of the network, which a PyTorch file does not say.

    Returns:
      {"params", "batch_stats"} as numpy arrays, and {"model", "num_classes", "image_shape", ...};
      of a file's image shape only the channels are known.

    Raises:
      InputError: nothing is there, it is damaged, or it does not fit the network.
    """
    if path.is_file():
        if imports.is_path(model):
            raise errors.InputError(
                f"{path} is a PyTorch file, which fits networks of rrd_jax.networks only, not"
                f" '{model}': name the workdir of a run of it, or pass its variables in Python"
            )
        variables = convert.from_torch(model, read_state_dict(path))
        num_classes, channels = convert.sizes(model, variables)
        shape = [None, None, channels]
        return variables, {"model": model, "num_classes": num_classes, "image_shape": shape}
    return checkpoints.load_student(path)


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The state dict in a PyTorch file, without `module.` in front of its entries.

    Nothing in the file is executed: .safetensors holds no code, and anything else is unpickled
    with `weights_only`.

    Args:
      path: a .safetensors file, or one written by `torch.save` in the new or the legacy format:
        a state dict, or a dict that holds one under `model` or `state_dict`.

    Raises:
      InputError: the file cannot be read, or holds no state dict.
    """
    if path.suffix == ".safetensors":
        state_dict = _read_safetensors(path)
    elif path.suffix in _TORCH_SUFFIXES:
        state_dict = _state_dict_in(path, _read_torch(path))
    else:
        known = ", ".join((".safetensors", *_TORCH_SUFFIXES))
        raise errors.InputError(f"{path} is no PyTorch file by its name; known: {known}")
    return {entry.removeprefix("module."): value for entry, value in state_dict.items()}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # of the library, or of numpy for types that it lacks
        raise _unreadable(path, error) from error


def _read_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError:
        raise errors.InputError(
            f"{path} needs PyTorch to be read: pip install 'rrd_jax[torch]', or save it as"
            " .safetensors, which does not"
        ) from None
    try:
        with torch.serialization.safe_globals(_harmless_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and tensor errors of many kinds
        if barred := re.search(r"GLOBAL (\S+)|got <class '(\S+)'>", str(error)):
            raise errors.InputError(
                f"{path} holds more than tensors ({barred[1] or barred[2]}), which is not executed;"
                " write the weights alone with torch.save(network.state_dict(), FILE)"
            ) from error
        raise _unreadable(path, error) from error


def _harmless_types() -> list[Any]:
    """What training scripts keep beside the weights, and no code can hide in."""
    scalar = np.float32(0).__reduce__()[0]
    codes = np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"
    return [
        argparse.Namespace,
        np.dtype,
        *{type(np.dtype(code)) for code in codes},
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]


def _state_dict_in(path: pathlib.Path, content: Any) -> dict[str, Any]:
    """The state dict in what a training script saved."""
    entries = content
    if isinstance(content, dict):
        entries = next((content[key] for key in _STATE_DICT_KEYS if key in content), content)
    tensors = isinstance(entries, dict) and all(
        hasattr(value, "shape") for value in entries.values()
    )
    if not entries or not tensors:
        keys = map(str, content) if isinstance(content, dict) else [type(content).__name__]
        raise errors.InputError(
            f"{path} holds no state dict, neither as it is nor under"
            f" {' or '.join(map(repr, _STATE_DICT_KEYS))}; it holds: {', '.join(keys) or 'nothing'}"
        )
    return entries


def _unreadable(path: pathlib.Path, error: Exception) -> errors.InputError:
    reason = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
    return errors.InputError(f"{path} cannot be read ({reason}); it is damaged or no PyTorch file")
