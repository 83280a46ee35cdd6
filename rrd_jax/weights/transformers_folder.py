"""Model folders of transformers."""

import pathlib

from rrd_jax import errors, user_paths
from rrd_jax.weights import transformers_config

# Weight files in order of preference; an index names several files.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def weights_file(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the weight file in a folder with a config.json; None without such a file."""
    if not (folder / "config.json").is_file():
        return None
    return next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)


def check(folder: pathlib.Path) -> None:
    """Raises an InputError unless a folder is a transformers folder with a supported network."""
    if not folder.is_dir():
        problem = "is a file; name its folder" if folder.exists() else "does not exist"
        raise errors.InputError(f"{user_paths.PREFIX}{folder} {problem}")
    check_unsupported(folder)
    content = user_paths.read_object(folder / "config.json")
    if content is None:
        raise errors.InputError(
            f"{folder} holds no config.json, so it is not a transformers folder; pass a weight file"
            f" without {user_paths.PREFIX}"
        )
    if "model_type" not in content:
        part = content.get("_class_name")
        kind = f"it is a part of diffusers ({part})" if part else "it is not from transformers"
        raise errors.InputError(
            f"the config.json in {folder} has no model_type: {kind}; pass a timm folder without"
            f" {user_paths.PREFIX}"
        )
    transformers_config.names(content, str(folder))
    if weights_file(folder) is None:
        raise errors.InputError(f"{folder} holds no weights; add one of {', '.join(_WEIGHTS)}")


def check_unsupported(folder: pathlib.Path) -> None:
    """Raises an InputError for a folder of an adapter or a diffusers pipeline without weights."""
    if weights_file(folder) is not None:
        return
    if (folder / "adapter_config.json").is_file():
        raise errors.InputError(
            f"{folder} is a LoRA adapter, which needs the weights of its base model; merge them"
            " with merge_and_unload() of peft and save the result"
        )
    if (folder / "model_index.json").is_file():
        raise errors.InputError(
            f"{folder} is a diffusers pipeline, which is not supported; use an image classifier or"
            " encoder"
        )
