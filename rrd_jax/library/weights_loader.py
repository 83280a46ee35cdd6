"""Loads networks with their weights from runs, PyTorch files and exported files."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import checkpoints, errors, exports, imports, networks, user_paths
from rrd_jax import config as configs
from rrd_jax import objectives as registry
from rrd_jax.data import class_names_file, label_checks, normalization
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.data.source import describe_small_crop
from rrd_jax.jobs import run_info
from rrd_jax.library import heads
from rrd_jax.library.loaded_network import Loaded
from rrd_jax.library.predictor import Predictor
from rrd_jax.library.quiet import quietly
from rrd_jax.objectives import Objective
from rrd_jax.run_folder import workdir
from rrd_jax.settings import kinds
from rrd_jax.terminal import console
from rrd_jax.training import recipe
from rrd_jax.training.choices import NetworkChoice
from rrd_jax.weights import files


@quietly
def load(
    path: str | pathlib.Path,
    *,
    network: Any = None,
    num_classes: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    image_size: int | None = None,
    resize: int | None = None,
    background: str | None = None,
    class_names: Sequence[str] | str | pathlib.Path | None = None,
    raw: bool = False,
    head: str = "",
    class_vectors: str | pathlib.Path = "",
    class_vectors_scale: float = 100.0,
) -> Loaded | Predictor:
    """Loads a network with its weights.

    Args:
      path: the workdir of a run, a folder written by `rrd_jax.convert`, a PyTorch file, hf:FOLDER
        for a folder of transformers, hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION for a repository
        of the Hugging Face Hub, or a file written by `rrd_jax.export`. The newest checkpoint is
        loaded; RUN@best, RUN@last and RUN@STEP select another one. FILE@KEY selects the weights
        under a key of a file.
      network: a name, an import path or an object; None for the name stored with the weights.
        Required for PyTorch files, and for runs of a network that was passed as an object.
      num_classes: C; None for the number in the weights.
      mean: mean per channel, in [0, 1] units; None for the run's.
      std: standard deviation per channel, in the same units; None for the run's.
      image_size: height and width of the network's input; None for the run's.
      resize: shorter side of images before the center crop; None for the run's, in proportion to
        image_size, or to pad or scale images to image_size.
      background: color behind transparent pixels of images, as for data.background; None for the
        run's, or white.
      class_names: the class names in the order of labels, or a file as for data.class_names; None
        for those of the run.
      raw: whether to load the raw weights of a run that averages its weights.
      head: the objective of a run whose head is applied to embeddings, such as "rrd", or "rrd[0]"
        for one of several teachers. Such embeddings have length 1, except for smooth L1 and UNIC's
        distance. With several heads, such as "embed[0],embed[1]", the embeddings are those of the
        network, and exported files return the vectors of each head as well, as `embed_0`. "" for
        the embeddings of the network.
      class_vectors: a file with a vector for each class, as for teacher.class_vectors. Logits are
        the scaled cosines between embeddings, after the head, and these vectors. "" for the
        classifier of the network.
      class_vectors_scale: factor of the cosines.

    Returns:
      The network; for an exported file a Predictor, which cannot be trained or distilled from.

    Raises:
      InputError: the weights are missing, damaged or for another network.
      UnavailableError: the library of an exported file is not installed.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> split = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 4
      >>> workdir = rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16).workdir
      warning: only 32 test images: ...
      >>> network = rrd_jax.load(workdir)
      >>> network(np.zeros((2, 8, 8, 1), np.uint8)).embedding.shape
      (2, 64)
      >>> network.predict(np.zeros((2, 20, 10, 3), np.uint8)).probabilities.shape
      (2, 4)
    """
    path = _as_path(path)
    folder, _ = files.split(path)
    options = {
        "mean": mean,
        "std": std,
        "image_size": image_size,
        "resize": resize,
        "background": background,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if network is None and _is_exported(folder) and not files.network_of(path):
        words = {"raw": raw, "head": head, "class_vectors": class_vectors}
        if options or any(words.values()):
            names = [*options, *(name for name, value in words.items() if value)]
            raise errors.InputError(
                f"{folder} is an exported file, which contains its preprocessing; omit"
                f" {', '.join(names)}"
            )
        runtime = exports.open_file(folder)
        network = Predictor(runtime, runtime.about, runtime.runtime)
    else:
        network = _load_weights(path, network, options, raw=raw)
        if head:
            network = heads.with_head(network, path, read_run_fields(folder), head)
        if class_vectors and "," in head:
            raise errors.InputError(
                f"class_vectors need one head, but head is '{head}'; name the head of the network"
                " of these vectors"
            )
        if class_vectors:
            file = user_paths.parse(class_vectors, "class_vectors")
            network = heads.with_class_vectors(network, file, class_vectors_scale)
    about = network.about
    if num_classes not in (None, about.num_classes):
        raise errors.InputError(
            f"num_classes is {num_classes!r}, but the weights in {folder} are for"
            f" {about.num_classes} classes; omit num_classes"
        )
    if class_names is None:
        return network
    about = dataclasses.replace(about, class_names=_names(class_names, about.num_classes))
    return dataclasses.replace(network, about=about)


def read_run_fields(folder: pathlib.Path) -> dict[str, Any] | None:
    """Reads the config in a run folder; None for a folder without a config of rrd_jax."""
    fields = workdir.read_fields(_home(folder))
    return fields if fields and "student" in fields else None


def read_model_info(folder: pathlib.Path) -> ModelInfo | None:
    """Reads the description of a network from the newest checkpoint of a run; None without one."""
    home = _home(folder)
    meta = checkpoints.read_meta(home / "checkpoints")
    return meta and run_info.describe_checkpoint(meta, workdir.read_fields(home), home)


def _is_exported(path: pathlib.Path) -> bool:
    is_run = path.name == "checkpoints" or (path / "checkpoints").exists()
    return not is_run and path.exists() and exports.detect_format(path) is not None


def _load_weights(
    path: pathlib.Path, network: Any, options: Mapping[str, Any], *, raw: bool
) -> Loaded:
    folder, _ = files.split(path)
    model = networks.canonical(network) if isinstance(network, str) else ""
    if folder.is_file() and not model and not files.network_of(path):
        raise errors.InputError(
            f"the weights in {folder} do not name their network; set `network` (on the command line"
            f" --network=NAME) to one of {errors.name_list(networks.MODELS)}"
        )
    variables, meta = files.load(path, model, raw=raw, headless=True)
    fields = read_run_fields(folder)
    choice, terms = _choice(meta, fields, network)
    about = run_info.describe_checkpoint(meta, fields, _home(folder))
    defaults = fields["data"] if fields else {}
    if not fields and about.preprocessing:
        defaults = {"mean": about.preprocessing.mean, "std": about.preprocessing.std}
    shape = tuple(meta["image_shape"])
    mean, std = (
        _per_channel(name, options.get(name, defaults.get(name)), shape[-1])
        for name in ("mean", "std")
    )
    network = choice.create(meta["num_classes"])
    preprocessing = _preprocessing(about, shape, {**options, "mean": mean, "std": std})
    about = dataclasses.replace(about, preprocessing=preprocessing)
    sizes = [options.get("image_size", size) for size in shape[:2]]
    if None not in sizes:
        variables = networks.fit_positions(
            variables, network, (*sizes, shape[-1]), choice.positions
        )
        networks.check_weights(str(folder), variables, network, (*sizes, shape[-1]))
        networks.check_independence(network, choice.model, (*sizes, shape[-1]), variables)
    return Loaded(
        network=network,
        variables=jax.tree.map(jnp.asarray, variables),
        name=choice.model,
        num_classes=meta["num_classes"],
        image_shape=None if None in shape else shape,
        mean=mean,
        std=std,
        terms=terms,
        about=about,
        source=configs.source_of(fields) if fields and fields["data"]["name"] else None,
    )


def _preprocessing(
    about: ModelInfo, shape: Sequence[int | None], options: Mapping[str, Any]
) -> Preprocessing | None:
    """Returns the preprocessing with a user's options; None if size, mean or std are unknown."""
    sizes = {name: options[name] for name in ("image_size", "resize") if name in options}
    errors.check_counts(**sizes)
    changes = {name: value for name, value in options.items() if value is not None}
    if problem := kinds.Color().problem("background", changes.get("background", kinds.NO_COLOR)):
        raise errors.InputError(problem)
    if about.preprocessing:
        stored = about.preprocessing
        size = changes.get("image_size", stored.image_size)
        if stored.resize and "resize" not in options and size != stored.image_size:
            changes["resize"] = size * stored.resize // stored.image_size
        result = dataclasses.replace(stored, **changes)
    else:
        changes = {"image_size": shape[0], "channels": shape[-1], **changes}
        if changes["image_size"] is None or not {"mean", "std"} <= set(changes):
            return None
        result = Preprocessing(**changes)
    if result.resize and result.resize < result.image_size:
        raise errors.InputError(
            f"resize is {result.resize}, but must be at least image_size, {result.image_size},"
            " because images are cropped after resizing"
        )
    if "resize" in sizes and (text := describe_small_crop(result.image_size, sizes["resize"])):
        console.warn(f"resize is {result.resize}, and image_size {result.image_size}: {text}")
    return result


def _names(class_names: Any, num_classes: int) -> tuple[str, ...]:
    """Returns the class names; raises an InputError if they are invalid."""
    if isinstance(class_names, str | os.PathLike):
        path = user_paths.parse(class_names, "class_names")
        names = class_names_file.read(path, num_classes, "class_names")
    elif isinstance(class_names, Mapping):
        try:
            names = class_names_file.in_order(class_names)
        except ValueError as error:
            raise errors.InputError(f"class_names is a dict, but {error}") from error
    elif isinstance(class_names, Iterable) and not isinstance(class_names, Set | bytes):
        names = tuple(map(str, class_names))
    else:
        raise errors.InputError(
            f"class_names is {errors.printable(repr(class_names))}, but must be a list of names, a"
            " dict of names by label, or the path of a file"
        )
    for text in label_checks.check_names(names, num_classes, "class_names"):
        console.warn(text)
    return names


def _as_path(path: Any) -> pathlib.Path:
    if not isinstance(path, str | os.PathLike) or not str(path):
        value = repr(path) if isinstance(path, str) else f"of type {type(path).__name__}"
        raise errors.InputError(
            f"path is {value}, but must be the workdir of a run, a folder of rrd_jax.convert or"
            " rrd_jax.export, or a PyTorch file"
        )
    return user_paths.parse(path, "path", bucket=True, repository=True)


def _per_channel(name: str, values: Any, channels: int) -> tuple[float, ...] | None:
    """Returns one number per channel, or None; raises an InputError for other values."""
    if values is None:
        return None
    normalization.check(**{name: values}, channels=channels)
    return tuple(map(float, values))


def _home(folder: pathlib.Path) -> pathlib.Path:
    """Returns the workdir of a run; `folder` may be the folder of its checkpoints."""
    return folder.parent if folder.name == "checkpoints" else folder


def _choice(
    meta: dict[str, Any], fields: dict[str, Any] | None, network: Any
) -> tuple[NetworkChoice, Mapping[str, Objective] | None]:
    """Returns the network of weights, and the run's objectives if one replaces the classifier."""
    model = networks.canonical(network) if isinstance(network, str) else meta["model"]
    custom = recipe.CustomObjects()
    if network is not None and not isinstance(network, str):
        custom = recipe.CustomObjects(networks={model: networks.adapt(network, model)})
    is_available = model in custom.networks or model in networks.MODELS or imports.is_path(model)
    if not is_available and isinstance(network, str):
        # This call raises the error for an unknown name.
        networks.factory(model)
    if not is_available:
        raise errors.InputError(
            f"the weights are for the custom network '{model}'; pass the object as network="
        )
    if not fields or fields["student"]["model"] != model:
        options = (meta.get("about") or {}).get("options", {}) if model == meta["model"] else {}
        choice = NetworkChoice(
            model, jnp.float32, options=options, network=custom.networks.get(model)
        )
        name = meta.get("classifier")
        return choice, {name: registry.create(name)} if name else None
    training = configs.training_of(fields, custom)
    if not meta.get("classifier"):
        return training.network, None
    return training.network, training.create_objectives(examples=training.batch_size)
