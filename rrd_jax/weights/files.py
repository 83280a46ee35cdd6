"""Loads a network's weights from a run, a converted folder, an exported file or a PyTorch file."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from rrd_jax import buckets, checkpoints, errors, hub, imports, networks, user_paths
from rrd_jax.data.model_info import ModelInfo, Preprocessing, from_json
from rrd_jax.run_folder import source_code
from rrd_jax.terminal import console
from rrd_jax.weights import (
    bucket_copies,
    entry_search,
    exported,
    file_formats,
    from_torch,
    hub_folder,
    mismatch,
    published,
    sidecar,
    sizes,
    transformers_folder,
)


def split(path: str | pathlib.Path) -> tuple[pathlib.Path, str]:
    """Splits RUN@best, RUN@last, RUN@STEP or FILE@KEY at the last @, and expands ~.

    A repository of the Hugging Face Hub, and a weight file in a bucket, are downloaded to a cache.

    Args:
      path: the user's path, with or without "hf:", or hf-hub:ORG/NAME; a path that exists is not
        split.

    Returns:
      The path, and the part after the last @, "" without one.

    Raises:
      HubError: the repository is not available.
      FieldError: the path is a URL of another scheme, a pipe or a device.
      InputError: the bucket does not exist.
      BucketError: the bucket cannot be reached or accessed.
    """
    if hub.is_name(str(path)):
        return hub_folder.download(str(path)), ""
    checked = str(user_paths.parse(str(path), "the path", bucket=True))
    path = user_paths.path_of(checked.removeprefix(user_paths.PREFIX))
    if buckets.is_bucket(path):
        buckets.check(path)
    home, which = _split_existing(path)
    return bucket_copies.localize(home) if buckets.is_bucket(home) else home, which


def _split_existing(path: pathlib.Path) -> tuple[pathlib.Path, str]:
    base, at, which = str(path).rpartition("@")
    if not at or "/" in which or not base:
        return path, ""
    home = user_paths.path_of(base)
    return (path, "") if path.exists() or not home.exists() else (home, which)


def home_of(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of weights for files about them; None for weights on other machines.

    Args:
      path: see `load`. The folder of a run is its workdir; that of a file contains the file.
    """
    text = str(path)
    if hub.is_name(text) or user_paths.bucket_url(text):
        return None
    home, _ = split(path)
    return home.parent if home.is_file() or home.name == "checkpoints" else home


def load(
    path: pathlib.Path, model: str, *, raw: bool = False, headless: bool = False, lazy: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads the variables and the metadata of a network.

    Args:
      path: the workdir of a run, a folder written by `rrd_jax.convert`, an exported file or folder
        of weights, a PyTorch file, hf:FOLDER for a transformers folder, or hf-hub:ORG/NAME for a
        repository of the Hugging Face Hub. RUN@best, RUN@last and
        RUN@STEP select a checkpoint other than the newest, FILE@KEY selects the weights under a
        key.
      model: name of the network; "" for the network that the path names, see `network_of`.
      raw: whether to load the raw weights of a run that averages its weights.
      headless: whether the classifier of a PyTorch file may be missing; num_classes is then 0.
      lazy: whether arrays are read when they are used, as `networks.Stored` whose `read` raises the
        InputError for values that are not finite.

    Returns:
      {"params", "batch_stats"} as numpy arrays, with "classifier" if an objective classifies
      instead of the network; and the metadata {"model", "num_classes", "image_shape", ...}. The
      image shape of a PyTorch file is [None, None, channels] unless its folder describes the
      preprocessing.

    Raises:
      InputError: the path does not exist, or the weights are damaged, not finite or do not fit the
        network.
    """
    _check_transformers(path)
    path, which = split(path)
    path, model = exported.weights_file(path), networks.canonical(model)
    if not path.is_file():
        _check_folder(path)
        variables, meta = checkpoints.load_student(path, which, raw=raw, lazy=lazy)
        variables = _checked(path, variables)
        _warn_about_code(path, meta)
        return variables, meta
    description = exported.read(path)
    if description and not which:
        variables, meta = _load_exported(path, description, model, lazy=lazy)
        _warn_about_code(path, meta)
        return variables, meta
    model = model or (description.about.model if description else "")
    return _load_file(path, which, model, headless=headless, lazy=lazy)


def _checked(path: pathlib.Path, variables: dict[str, Any]) -> dict[str, Any]:
    """Raises an InputError for weights that are not finite, now or when they are read."""
    networks.check_values(str(path), variables)

    def checked(keys, leaf):
        if not isinstance(leaf, networks.Stored):
            return leaf
        names = [str(getattr(key, "key", getattr(key, "idx", ""))) for key in keys]

        def read():
            array = leaf.read()
            tree = functools.reduce(lambda node, name: {name: node}, reversed(names), array)
            networks.check_values(str(path), tree)
            return array

        return networks.Stored(leaf.shape, leaf.dtype, read)

    return jax.tree_util.tree_map_with_path(checked, variables)


def _warn_about_code(path: pathlib.Path, meta: Mapping[str, Any]) -> None:
    """Warns about a custom network whose code has changed since its training."""
    recorded = meta.get("about", {}).get("training", {}).get("code")
    if recorded and imports.is_path(meta["model"]):
        try:
            imports.load("network", meta["model"])
        except errors.InputError:
            # The caller may use another object as the network.
            return
        current = source_code.digests([meta["model"]])
        source_code.warn_about_changes(f"the weights in {path} were trained", recorded, current)


def preprocessing_of(path: pathlib.Path, model: str = "") -> Preprocessing | None:
    """Returns the preprocessing of a network that its path describes; None if it is missing.

    Args:
      path: see `load`.
      model: name of the network; "" for the network that the path names.

    Raises:
      InputError: the description is damaged.
    """
    home, which = split(path)
    file = exported.weights_file(home)
    if file.is_file():
        description = exported.read(file)
        if description and not which:
            return description.about.preprocessing
        return sidecar.read(file, "" if imports.is_path(model) else model).preprocessing
    home = home if home.name == "checkpoints" else home / "checkpoints"
    about = (checkpoints.read_meta(home) or {}).get("about")
    return from_json(about, str(path)).preprocessing if about else None


def network_of(path: pathlib.Path) -> str:
    """Returns the network that an exported file or the config.json of a file names; "" for none.

    Raises:
      InputError: the description is damaged, or names a network that is not supported.
    """
    if hub.is_name(str(path)):
        return hub_folder.network(str(path))
    _check_transformers(path)
    file = exported.weights_file(split(path)[0])
    if not file.is_file():
        return ""
    description = exported.read(file)
    return description.about.model if description else sidecar.read(file).model


def _check_transformers(path: pathlib.Path) -> None:
    """Raises an InputError unless hf:FOLDER is a transformers folder with a supported network."""
    if str(path).startswith(user_paths.PREFIX):
        transformers_folder.check(split(path)[0])


def _load_exported(
    path: pathlib.Path, description: exported.WeightsInfo, model: str, *, lazy: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    about = description.about
    if model and model != about.model:
        raise errors.InputError(
            f"{path} holds weights of '{about.model}', not of '{model}'; set the model to"
            f" '{about.model}'"
        )
    if description.names == "ours":
        variables = exported.read_native(path, description, lazy=lazy)
    else:
        variables = _from_torch(path, about.model, headless=not about.num_classes, lazy=lazy)
    exported.check(path, variables, description)
    variables = _checked(path, variables)
    meta = {
        "model": about.model,
        "num_classes": about.num_classes,
        "image_shape": list(about.preprocessing.image_shape),
        "classifier": about.classifier,
        "dataset": about.training.get("dataset", ""),
        "about": about.to_json(),
    }
    return variables, meta


def _from_torch(path: pathlib.Path, model: str, *, headless: bool, lazy: bool) -> dict[str, Any]:
    """Reads an exported file with PyTorch's names, which fits its network unless it is damaged."""
    content = file_formats.read(path)
    try:
        return from_torch(model, content, location=str(path), headless=headless, lazy=lazy)
    except errors.InputError as error:
        reason, *_ = str(error).removeprefix(f"{path} ").split("\n")
        raise errors.InputError(
            f"{path} is damaged: it {reason}; export or copy it again"
        ) from None


def _load_file(
    path: pathlib.Path, which: str, model: str, *, headless: bool, lazy: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads a PyTorch file."""
    if imports.is_path(model):
        raise errors.InputError(
            f"{path} is a PyTorch file, which cannot be loaded into the custom network '{model}';"
            " pass the workdir of a run, or pass the variables in Python"
        )
    described = sidecar.read(path, model)
    model = model or described.model
    if not model:
        raise errors.InputError(
            f"{path} does not name a supported network; set the model to one of"
            f" {errors.name_list(networks.MODELS)}"
        )
    content = file_formats.read(path)
    variables = from_torch(
        model, content, location=str(path), key=which, headless=headless, lazy=lazy
    )
    _warn_about_activation(path, model, content)
    num_classes, channels = sizes(model, variables)
    meta = {"model": model, "num_classes": num_classes, "image_shape": [None, None, channels]}
    # The config describes other weights that were in the folder before.
    if described.num_classes not in (None, num_classes):
        return variables, meta
    about = ModelInfo(model, num_classes, {}, described.class_names, described.preprocessing)
    if about.preprocessing and about.preprocessing.channels == channels:
        meta["image_shape"] = list(about.preprocessing.image_shape)
    elif about.preprocessing:
        return variables, meta
    has_content = about.class_names or about.preprocessing
    return variables, meta | ({"about": about.to_json()} if has_content else {})


def _warn_about_activation(path: pathlib.Path, model: str, content: Any) -> None:
    """Warns about timm's entry names if only a config.json could confirm timm's arguments."""
    arguments, timm = published.lookup(model).timm_args, published.renaming(model, "timm")
    if not arguments or not timm or path.with_name("config.json").is_file():
        return
    if any(timm.to_native(entry) != entry for entry in entry_search.flatten(content).arrays):
        text = ", ".join(f"{name}='{value}'" for name, value in arguments.items())
        console.warn(
            f"{path} has entry names of timm's {published.lookup(model).timm}; {model} computes the"
            f" same function only if the network was created with {text}"
        )


def fitting_networks(path: pathlib.Path) -> list[str]:
    """Returns the names of the networks that the entries of a PyTorch file fit.

    Raises:
      InputError: the file cannot be read.
    """
    path, _ = split(path)
    flat = entry_search.flatten(file_formats.read(path))
    return mismatch.fitting_networks(flat)


# Weight files that must be named directly rather than by their folder.
_WEIGHTS = ("*.safetensors", "*.pth", "*.pt", "pytorch_model*.bin")


def _check_folder(path: pathlib.Path) -> None:
    """Raises an InputError for a folder that is not a run, with a hint about its content."""
    if not path.is_dir() or (path / "checkpoints").exists():
        return
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        run = path.parent.parent
        raise errors.InputError(f"{path} is one checkpoint of a run; pass {run}@{path.name}")
    transformers_folder.check_unsupported(path)
    for file in sorted(file for pattern in _WEIGHTS for file in path.glob(pattern)):
        raise errors.InputError(
            f"{path} is a folder with weight files, not a run; pass the file, {file}"
        )
