"""Networks with their weights, read from wherever they are kept."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import checkpoints, errors, exports, imports, networks
from rrd_jax import config as configs
from rrd_jax import objectives as registry
from rrd_jax.data import class_names_file
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.jobs import card
from rrd_jax.library import heads
from rrd_jax.library.loaded import Loaded
from rrd_jax.library.predicting import Predictor
from rrd_jax.library.quiet import quietly
from rrd_jax.objectives import Objective
from rrd_jax.run_folder import workdir
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
    class_names: Sequence[str] | str | pathlib.Path | None = None,
    raw: bool = False,
    head: str = "",
) -> Loaded | Predictor:
    """A network with its weights, to be called on images, or asked what they show.

    Args:
      path: the workdir of a run, a folder that `rrd_jax.convert` wrote, a PyTorch file, hf:FOLDER,
        a folder of transformers, or what `rrd_jax.export` wrote, as weights or for another program.
        RUN@best, RUN@last and RUN@STEP are other checkpoints than the newest, FILE@KEY the weights
        under a key of the file.
      network: its name, import path or object. None for the name that the folder keeps; a PyTorch
        file keeps none, and neither does a run whose network was made in Python.
      num_classes: C; None for what the weights say.
      mean: of each channel, in [0, 1] units; None for what the run knows.
      std: likewise.
      image_size: height and width that it sees; None for what the run knows.
      resize: the short side that images are scaled to before their centre is cut out; None for what
        the run knows, or to pad or scale them to image_size.
      class_names: in the order of labels, or a file of them as data.class_names has it; None for
        what the run knows.
      raw: of a run that averages its weights, whether these themselves are wanted.
      head: of a run, the objective whose head is kept, such as "rrd", of several teachers "rrd[0]":
        embeddings are then what that objective compared, of length 1 but for smooth L1; "" for
        those of the network alone.

    Returns:
      The network; a Predictor, which can be asked but not trained or distilled from, of a file that
      was exported.

    Raises:
      InputError: nothing is there, it is damaged, or of another network.
      UnavailableError: the library that an exported file is for is not installed.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> split = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 4
      >>> workdir = rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16).workdir
      warning: 32 test images: ...
      >>> network = rrd_jax.load(workdir)
      >>> network(np.zeros((2, 8, 8, 1), np.uint8)).embedding.shape
      (2, 64)
      >>> network.predict(np.zeros((2, 20, 10, 3), np.uint8)).probabilities.shape
      (2, 4)
    """
    whole = _path(path)
    folder, _ = files.split(whole)
    given = {"mean": mean, "std": std, "image_size": image_size, "resize": resize}
    given = {name: value for name, value in given.items() if value is not None}
    if network is None and _is_exported(folder) and not files.network_of(whole):
        network = _of_exported(
            folder, [*given, *(["raw"] if raw else []), *(["head"] if head else [])]
        )
    else:
        network = _of_weights(whole, network, given, raw=raw)
        network = heads.keep(network, whole, fields_of(folder), head) if head else network
    about = network.about
    if num_classes not in (None, about.num_classes):
        raise errors.InputError(
            f"num_classes is {num_classes!r}, but the weights in {folder} are for"
            f" {about.num_classes} classes"
        )
    if class_names is None:
        return network
    named = dataclasses.replace(about, class_names=_names(class_names, about.num_classes))
    return dataclasses.replace(network, about=named)


def fields_of(folder: pathlib.Path) -> dict[str, Any] | None:
    """The config that a run's folder keeps; None where there is none, or one of model hubs."""
    fields = workdir.read_fields(_home(folder))
    return fields if fields and "student" in fields else None


def about_of(folder: pathlib.Path) -> ModelInfo | None:
    """What the newest checkpoint of a run says of its network; None where there is none."""
    home = _home(folder)
    meta = checkpoints.read_meta(home / "checkpoints")
    return meta and card.of_checkpoint(meta, workdir.read_fields(home), home)


def _is_exported(path: pathlib.Path) -> bool:
    is_run = path.name == "checkpoints" or (path / "checkpoints").exists()
    return not is_run and path.exists() and exports.recognized(path) is not None


def _of_exported(path: pathlib.Path, given: Collection[str]) -> Predictor:
    if given:
        raise errors.InputError(
            f"{path} was exported, and says itself what images it takes: leave out"
            f" {', '.join(given)}"
        )
    runtime = exports.open_file(path)
    return Predictor(runtime, runtime.about, runtime.runtime)


def _of_weights(
    whole: pathlib.Path, network: Any, given: Mapping[str, Any], *, raw: bool
) -> Loaded:
    folder, _ = files.split(whole)
    model = networks.canonical(network) if isinstance(network, str) else ""
    if folder.is_file() and not model and not files.network_of(whole):
        raise errors.InputError(
            f"{folder} does not say which network its weights are of: pass network=NAME, one of"
            f" {errors.listed(networks.MODELS)}"
        )
    variables, meta = files.load(whole, model, raw=raw, headless=True)
    fields = fields_of(folder)
    choice, terms = _choice(meta, fields, network)
    about = card.of_checkpoint(meta, fields, _home(folder))
    known = fields["data"] if fields else {}
    if not fields and about.preprocessing:
        known = {"mean": about.preprocessing.mean, "std": about.preprocessing.std}
    shape = tuple(meta["image_shape"])
    moments = {
        name: _per_channel(name, given.get(name, known.get(name)), shape[-1])
        for name in ("mean", "std")
    }
    made = choice.create(meta["num_classes"])
    about = dataclasses.replace(about, preprocessing=_seen(about, shape, {**given, **moments}))
    sizes = [given.get("image_size", size) for size in shape[:2]]
    if None not in sizes:
        variables = networks.fit_positions(variables, made, (*sizes, shape[-1]))
        networks.check_weights(str(folder), variables, made, (*sizes, shape[-1]))
    return Loaded(
        made,
        jax.tree.map(jnp.asarray, variables),
        choice.model,
        meta["num_classes"],
        None if None in shape else shape,
        **moments,
        terms=terms,
        about=about,
        source=configs.source_of(fields) if fields and fields["data"]["name"] else None,
    )


def _seen(
    about: ModelInfo, shape: Sequence[int | None], given: Mapping[str, Any]
) -> Preprocessing | None:
    """How images become what the network sees; None where too little is known of that."""
    errors.check_counts(**{k: given[k] for k in ("image_size", "resize") if k in given})
    fields = {name: value for name, value in given.items() if value is not None}
    if about.preprocessing:
        wanted = dataclasses.replace(about.preprocessing, **fields)
    else:
        fields = {"image_size": shape[0], "channels": shape[-1], **fields}
        if fields["image_size"] is None or not {"mean", "std"} <= set(fields):
            return None
        wanted = Preprocessing(**fields)
    if wanted.resize and wanted.resize < wanted.image_size:
        raise errors.InputError(
            f"resize is {wanted.resize}, less than image_size {wanted.image_size}, which is cut out"
            " of it"
        )
    return wanted


def _names(given: Any, num_classes: int) -> tuple[str, ...]:
    """Names of classes, of which there must be as many as classes."""
    if isinstance(given, str | os.PathLike):
        return class_names_file.read(pathlib.Path(given), num_classes, "class_names")
    listed = tuple(map(str, given))
    if len(listed) != num_classes:
        raise errors.InputError(
            f"class_names has {len(listed)} names, but the network has {num_classes} classes"
        )
    return listed


def _path(path: Any) -> pathlib.Path:
    if not isinstance(path, str | os.PathLike) or not str(path):
        shown = repr(path) if isinstance(path, str) else f"a {type(path).__name__}"
        raise errors.InputError(
            f"{shown} is no path; wanted is the workdir of a run, a folder that rrd_jax.convert"
            " or rrd_jax.export wrote, or a PyTorch file"
        )
    return pathlib.Path(path)


def _per_channel(name: str, values: Any, channels: int) -> tuple[float, ...] | None:
    """A number for each channel, or None; raises an InputError for anything else."""
    if values is None:
        return None
    numeric = isinstance(values, list | tuple) and all(isinstance(v, Real) for v in values)
    lowest = 0 if name == "std" else -math.inf
    if not numeric or len(values) != channels or not all(lowest < v < math.inf for v in values):
        raise errors.InputError(
            f"{name} is {values!r}, but must be {channels} numbers, one for each channel of images"
            + (", above 0" if name == "std" else "")
        )
    return tuple(map(float, values))


def _home(folder: pathlib.Path) -> pathlib.Path:
    """The workdir of a run, which may be named by its `checkpoints`."""
    return folder.parent if folder.name == "checkpoints" else folder


def _choice(
    meta: dict[str, Any], fields: dict[str, Any] | None, network: Any
) -> tuple[NetworkChoice, Mapping[str, Objective] | None]:
    """The network that weights are of, and the objectives of a run if one classifies."""
    model = networks.canonical(network) if isinstance(network, str) else meta["model"]
    made = recipe.Made()
    if network is not None and not isinstance(network, str):
        made = recipe.Made(networks={model: networks.adapt(network, model)})
    known = model in made.networks or model in networks.MODELS or imports.is_path(model)
    if not known and isinstance(network, str):
        networks.factory(model)  # which raises
    if not known:
        raise errors.InputError(
            f"the weights are of '{model}', which was made in Python: pass network=, the same"
        )
    if not fields or fields["student"]["model"] != model:
        options = (meta.get("about") or {}).get("options", {}) if model == meta["model"] else {}
        made_here = made.networks.get(model)
        choice = NetworkChoice(model, jnp.float32, options=options, network=made_here)
        name = meta.get("classifier")
        return choice, {name: registry.create(name)} if name else None
    training = configs.training_of(fields, made)
    if not meta.get("classifier"):
        return training.network, None
    return training.network, training.create_objectives(examples=training.batch_size)
