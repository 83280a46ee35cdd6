"""Reads a network's weights from a run, a converted folder, an exported or a PyTorch file."""

import pathlib
from typing import Any

from rrd_jax import checkpoints, errors, imports, networks
from rrd_jax.data.model_info import ModelInfo, Preprocessing, from_json
from rrd_jax.terminal import console
from rrd_jax.weights import (
    entry_search,
    exported,
    file_formats,
    from_torch,
    mismatch,
    published,
    sidecar,
    sizes,
    transformers_folder,
)


def split(path: pathlib.Path) -> tuple[pathlib.Path, str]:
    """A path and what is chosen of it: RUN@best, RUN@last, RUN@STEP, FILE@KEY.

    Args:
      path: as a user gives it, with or without "hf:"; one that is there as it is counts as a path
        alone.

    Returns:
      The path, and what stands behind its last @, "" for nothing.
    """
    path = pathlib.Path(str(path).removeprefix(transformers_folder.PREFIX))
    base, at, which = str(path).rpartition("@")
    if not at or "/" in which or not base or path.exists() or not pathlib.Path(base).exists():
        return path, ""
    return pathlib.Path(base), which


def load(
    path: pathlib.Path, model: str, *, raw: bool = False, headless: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables of a network, and what is known of it.

    Args:
      path: the workdir of a run, a folder written by `rrd_jax.convert`, an exported file or folder
        of weights, a PyTorch file, or hf:FOLDER, a folder of transformers; with @best, @last or
        @STEP behind a run, that checkpoint in place of the newest; with @KEY behind a file, the
        weights under that key.
      model: the name of the network; "" for what the path says itself, see `network_of`.
      raw: of a run that averages its weights, whether these themselves are wanted.
      headless: whether the classifier may be missing in a PyTorch file; there are 0 classes then.

    Returns:
      {"params", "batch_stats"} as numpy arrays, and under "classifier" what classifies in the
      network's place; and {"model", "num_classes", "image_shape", ...}; of a PyTorch file's image
      shape only the channels are known, unless its folder says more.

    Raises:
      InputError: nothing is there, it is damaged, not finite, or does not fit the network.
    """
    _check_hub(path)
    path, which = split(path)
    path, model = exported.weights_of(path), networks.canonical(model)
    if not path.is_file():
        _check_folder(path)
        variables, meta = checkpoints.load_student(path, which, raw=raw)
        networks.check_values(str(path), variables)
        return variables, meta
    description = exported.read(path)
    if description and not which:
        return _load_exported(path, description, model)
    model = model or (description.about.model if description else "")
    return _load_file(path, which, model, headless=headless)


def preprocessing_of(path: pathlib.Path, model: str = "") -> Preprocessing | None:
    """How images become what the network of a path sees, where it says so itself.

    Args:
      path: as `load` has it.
      model: the name of the network; "" for what the path says.

    Raises:
      InputError: what it says is damaged.
    """
    home, which = split(path)
    file = exported.weights_of(home)
    if file.is_file():
        description = exported.read(file)
        if description and not which:
            return description.about.preprocessing
        return sidecar.read(file, "" if imports.is_path(model) else model).preprocessing
    home = home if home.name == "checkpoints" else home / "checkpoints"
    about = (checkpoints.read_meta(home) or {}).get("about")
    return from_json(about, str(path)).preprocessing if about else None


def network_of(path: pathlib.Path) -> str:
    """The network that an exported file, or a config.json beside a file, names; "" for none.

    Raises:
      InputError: what it says is damaged, or no network here.
    """
    _check_hub(path)
    file = exported.weights_of(split(path)[0])
    if not file.is_file():
        return ""
    description = exported.read(file)
    return description.about.model if description else sidecar.read(file).model


def _check_hub(path: pathlib.Path) -> None:
    """Raises an InputError for hf:FOLDER that is no folder of transformers with one of ours."""
    if str(path).startswith(transformers_folder.PREFIX):
        transformers_folder.check(split(path)[0])


def _load_exported(
    path: pathlib.Path, description: exported.WeightsInfo, model: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    about = description.about
    if model and model != about.model:
        raise errors.InputError(
            f"the weights in {path} are of '{about.model}', as it says itself, not of '{model}'"
        )
    if description.names == "ours":
        variables = exported.read_ours(path, description)
    else:
        variables = _from_torch(path, about.model, headless=not about.num_classes)
    exported.check(path, variables, description)
    networks.check_values(str(path), variables)
    meta = {
        "model": about.model,
        "num_classes": about.num_classes,
        "image_shape": list(about.preprocessing.image_shape),
        "classifier": about.classifier,
        "dataset": about.training.get("dataset", ""),
        "about": about.to_json(),
    }
    return variables, meta


def _from_torch(path: pathlib.Path, model: str, *, headless: bool) -> dict[str, Any]:
    """Of an exported file, which fits its network unless it is damaged."""
    content = file_formats.read(path)
    try:
        return from_torch(model, content, where=str(path), headless=headless)
    except errors.InputError as error:
        reason, *_ = str(error).removeprefix(f"{path} ").split("\n")
        raise errors.InputError(
            f"{path} is damaged, it {reason}: export or copy it again"
        ) from None


def _load_file(
    path: pathlib.Path, which: str, model: str, *, headless: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a PyTorch file."""
    if imports.is_path(model):
        raise errors.InputError(
            f"{path} is a PyTorch file, which fits networks of rrd_jax.networks only, not"
            f" '{model}': name the workdir of a run of it, or pass its variables in Python"
        )
    known = sidecar.read(path, model)
    model = model or known.model
    if not model:
        raise errors.InputError(
            f"{path} does not say which network its weights are of, or it is none here: name one"
            f" of {errors.name_list(networks.MODELS)}"
        )
    content = file_formats.read(path)
    variables = from_torch(model, content, where=str(path), key=which, headless=headless)
    _warn_of_activation(path, model, content)
    num_classes, channels = sizes(model, variables)
    meta = {"model": model, "num_classes": num_classes, "image_shape": [None, None, channels]}
    if known.num_classes not in (None, num_classes):
        return variables, meta  # of other weights that lay there
    about = ModelInfo(model, num_classes, {}, known.class_names, known.preprocessing)
    if about.preprocessing and about.preprocessing.channels == channels:
        meta["image_shape"] = list(about.preprocessing.image_shape)
    elif about.preprocessing:
        return variables, meta
    known_at_all = about.class_names or about.preprocessing
    return variables, meta | ({"about": about.to_json()} if known_at_all else {})


def _warn_of_activation(path: pathlib.Path, model: str, content: Any) -> None:
    """Warns of timm's names of a network that computes the same only as config.json would say."""
    arguments, timm = published.of(model).timm_args, published.renaming(model, "timm")
    if not arguments or not timm or path.with_name("config.json").is_file():
        return
    if any(timm.to_ours(entry) != entry for entry in entry_search.flatten(content).arrays):
        text = ", ".join(f"{name}='{value}'" for name, value in arguments.items())
        console.warn(
            f"{path} has timm's names of {published.of(model).timm}, and nothing says that it was"
            f" made with {text}, as {model} is: without that, it computes something else"
        )


def fitting(path: pathlib.Path) -> list[str]:
    """The networks whose weights a PyTorch file holds.

    Raises:
      InputError: it cannot be read.
    """
    path, _ = split(path)
    flat = entry_search.flatten(file_formats.read(path))
    return mismatch.fitting_networks(flat)


# Files of weights that are named themselves, and not their folder.
_WEIGHTS = ("*.safetensors", "*.pth", "*.pt", "pytorch_model*.bin")


def _check_folder(path: pathlib.Path) -> None:
    """Raises an InputError for a folder of something else than a run."""
    if not path.is_dir() or (path / "checkpoints").exists():
        return
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        run = path.parent.parent
        raise errors.InputError(f"{path} is one checkpoint of a run: write {run}@{path.name}")
    transformers_folder.check_others(path)
    for file in sorted(file for pattern in _WEIGHTS for file in path.glob(pattern)):
        raise errors.InputError(
            f"{path} is a folder with weights, no checkpoint of a run: name the file, {file}"
        )
