"""Folders as transformers writes them."""

import pathlib
from typing import Any

from rrd_jax import errors
from rrd_jax.weights import transformers_config

PREFIX = "hf:"
# Files of weights, in the order in which they are tried; an index names several.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def weights_of(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the file of weights in a folder with a config.json; None if there is none."""
    if not (folder / "config.json").is_file():
        return None
    return next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)


def check(folder: pathlib.Path) -> None:
    """Raises an InputError for anything but a folder of transformers with a network of ours."""
    if not folder.is_dir():
        problem = (
            "is a file: name the folder that it lies in" if folder.exists() else "does not exist"
        )
        raise errors.InputError(f"{PREFIX}{folder} {problem}")
    check_others(folder)
    content = read_config(folder)
    if content is None:
        raise errors.InputError(
            f"{folder} holds no config.json, so it is no folder of transformers; files of weights"
            f" are named without {PREFIX}"
        )
    if "model_type" not in content:
        part = content.get("_class_name")
        kind = f"it is a part of diffusers ({part})" if part else "transformers did not write it"
        raise errors.InputError(
            f"the config.json in {folder} has no model_type: {kind}; a folder of timm is named"
            f" without {PREFIX}"
        )
    transformers_config.names(content, str(folder))
    if weights_of(folder) is None:
        raise errors.InputError(f"{folder} holds no weights: none of {', '.join(_WEIGHTS)}")


def check_others(folder: pathlib.Path) -> None:
    """Raises an InputError for a folder of an adapter or of diffusers, without weights."""
    if weights_of(folder) is not None:
        return
    if (folder / "adapter_config.json").is_file():
        raise errors.InputError(
            f"{folder} is an adapter (LoRA), which changes other weights: add it to those that it"
            " was made for, with merge_and_unload() of peft, and save these"
        )
    if (folder / "model_index.json").is_file():
        raise errors.InputError(f"{folder} is a pipeline of diffusers, which is not read")


def read_config(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the config.json of a folder; None if there is none that is a dict."""
    try:
        content = errors.read_json(folder / "config.json")
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
