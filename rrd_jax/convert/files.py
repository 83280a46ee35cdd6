"""Reads a network's weights from a run, a converted folder or a PyTorch file."""

import pathlib
from typing import Any

from rrd_jax import checkpoints, convert, errors, imports, networks
from rrd_jax.convert import differences, reading, wrappers


def split(path: pathlib.Path) -> tuple[pathlib.Path, str]:
    """A path and what is chosen of it: RUN@best, RUN@last, RUN@STEP, FILE@KEY.

    Args:
      path: as a user gives it; one that is there as it is counts as a path alone.

    Returns:
      The path, and what stands behind its last @, "" for nothing.
    """
    base, at, which = str(path).rpartition("@")
    if not at or "/" in which or not base or path.exists() or not pathlib.Path(base).exists():
        return path, ""
    return pathlib.Path(base), which


def load(
    path: pathlib.Path, model: str, *, raw: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables of a network, and what is known of it.

    Args:
      path: the workdir of a run, a folder written by `rrd_jax.convert`, or a PyTorch file; with
        @best, @last or @STEP behind a run, that checkpoint in place of the newest; with @KEY
        behind a file, the weights under that key.
      model: the name of the network, which a PyTorch file does not say.
      raw: of a run that averages its weights, whether these themselves are wanted.

    Returns:
      {"params", "batch_stats"} as numpy arrays, and {"model", "num_classes", "image_shape", ...};
      of a file's image shape only the channels are known.

    Raises:
      InputError: nothing is there, it is damaged, not finite, or does not fit the network.
    """
    path, which = split(path)
    if not path.is_file():
        _check_folder(path)
        variables, meta = checkpoints.load_student(path, which, raw=raw)
        networks.check_values(str(path), variables)
        return variables, meta
    if imports.is_path(model):
        raise errors.InputError(
            f"{path} is a PyTorch file, which fits networks of rrd_jax.networks only, not"
            f" '{model}': name the workdir of a run of it, or pass its variables in Python"
        )
    _check_hugging_face(path)
    variables = convert.from_torch(model, reading.read(path), where=str(path), key=which)
    num_classes, channels = convert.sizes(model, variables)
    shape = [None, None, channels]
    return variables, {"model": model, "num_classes": num_classes, "image_shape": shape}


def fitting(path: pathlib.Path) -> list[str]:
    """The networks whose weights a PyTorch file holds.

    Raises:
      InputError: it cannot be read.
    """
    path, _ = split(path)
    flat = wrappers.flatten(reading.read(path))
    return differences.fitting_networks(flat)


def _check_hugging_face(path: pathlib.Path) -> None:
    """Raises an InputError for a ResNet of Hugging Face's that computes something else than ours.

    Its entries do not tell; the config.json beside them does.
    """
    try:
        fields = errors.read_json(path.parent / "config.json")
        if fields["model_type"] != "resnet":
            return
    except (KeyError, OSError, TypeError, ValueError):
        return
    usual = {"downsample_in_bottleneck": False, "downsample_in_first_stage": False}
    for name, value in (usual | {"hidden_act": "relu"}).items():
        if fields.get(name, value) != value:
            raise errors.InputError(
                f"{path} is of a ResNet with {name}={fields[name]}, as its config.json says, which"
                f" is no network here: those here have {name}={value}"
            )


# What a folder of something else holds.
_FOLDERS = [
    ("saved_model.pb", "a model of TensorFlow"),
    ("*.index", "a checkpoint of TensorFlow"),
    ("*.safetensors", "a folder with weights"),
    ("*.pth", "a folder with weights"),
    ("*.pt", "a folder with weights"),
    ("pytorch_model*.bin", "a folder with weights"),
]


def _check_folder(path: pathlib.Path) -> None:
    """Raises an InputError for a folder that is a program's other than this one."""
    if not path.is_dir() or (path / "checkpoints").exists():
        return
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        run = path.parent.parent
        raise errors.InputError(f"{path} is one checkpoint of a run: write {run}@{path.name}")
    for pattern, what in _FOLDERS:
        for file in sorted(path.glob(pattern)):
            way_out = f": name the file, {file}" if "weights" in what else ", which is not read"
            raise errors.InputError(f"{path} is {what}, no checkpoint of a run{way_out}")
