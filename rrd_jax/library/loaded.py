"""Networks with their weights: read, called on images, evaluated."""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import card, data, errors, imports, networks, parallel, predictions, recipe, workdir
from rrd_jax import config as configs
from rrd_jax import objectives as registry
from rrd_jax.about import About
from rrd_jax.choices import NetworkChoice
from rrd_jax.convert import files
from rrd_jax.data import augment
from rrd_jax.data.source import Source
from rrd_jax.library.quiet import quietly
from rrd_jax.networks import Network, Outputs
from rrd_jax.objectives import Objective, ObjectiveState
from rrd_jax.run import Result


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A network with its weights.

    Attributes:
      network: its functions.
      variables: its weights {"params", "batch_stats"}, and under "classifier" the state of an
        objective that classifies in its place.
      name: what a config calls it.
      num_classes: C.
      image_shape: (H, W, channels) that it was trained on; None where that is not known.
      mean: of each channel, in [0, 1] units; None where that is not known.
      std: likewise.
      terms: the objectives it was trained with, if one of them classifies in its place.
      about: class names, how images become what it sees, and where it comes from.
    """

    network: Network
    variables: dict[str, Any] = dataclasses.field(repr=False)
    name: str
    num_classes: int
    image_shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    terms: Mapping[str, Objective] | None = None
    about: About | None = dataclasses.field(default=None, repr=False)

    def __call__(self, images: Any) -> Outputs:
        """What it computes from images [B, H, W, channels].

        Args:
          images: uint8, as stored, or floats that are normalised already.

        Raises:
          InputError: uint8 images, where it is not known how they are normalised; or no images that
            the network takes.
        """
        images = self._checked(images)
        if images.dtype == jnp.uint8:
            images = self.normalize(images)
        return self._apply(self.variables, images)

    def _checked(self, images: Any) -> jax.Array:
        try:
            array = jnp.asarray(images)
        except (TypeError, ValueError) as error:
            raise errors.InputError(
                f"images are of type {type(images).__name__}, but must be an array"
            ) from error
        channels = self.image_shape[-1] if self.image_shape else None
        fits = array.ndim == 4 and channels in (None, array.shape[-1])
        if not fits or not (array.dtype == jnp.uint8 or jnp.issubdtype(array.dtype, jnp.floating)):
            raise errors.InputError(
                f"images are {array.dtype} of shape {array.shape}, but '{self.name}' takes uint8,"
                f" or floats that are normalised, [B, H, W, {channels or 'channels'}]"
            )
        return array

    @property
    def normalize(self) -> Callable[[jax.Array], jax.Array]:
        """What makes uint8 images what the network sees.

        Raises:
          InputError: mean and std are not known.
        """
        if self.mean is None or self.std is None:
            raise errors.InputError(
                f"it is not known how images for '{self.name}' are normalised: pass floats, or give"
                " mean and std to rrd_jax.load"
            )
        return augment.make_normalize(self.mean, self.std)

    @functools.cached_property
    def _apply(self) -> Callable[[Any, jax.Array], Outputs]:
        classifier = registry.classifier(dict(self.terms or {}))

        def apply(variables, images):
            bare = {name: variables[name] for name in ("params", "batch_stats")}
            outputs = self.network.apply(bare, images, train=False)
            if not classifier:
                return outputs
            state = ObjectiveState(**variables["classifier"])
            return outputs._replace(logits=self.terms[classifier].predict(state, outputs))

        return jax.jit(apply)


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A finished job.

    Attributes:
      network: the student, or the network that was trained alone.
      results: of every run of the job, the network's last.
      workdir: where its checkpoints and figures are.
      dataset: what it was trained and tested on, if that was given; None for the config's.
    """

    network: Loaded
    results: list[Result]
    workdir: pathlib.Path
    dataset: data.Dataset | None = dataclasses.field(default=None, repr=False)

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures of the network: `top1`, `best_top1`, `agreement` in per cent, and others."""
        return self.results[-1]._asdict()

    @property
    def variables(self) -> dict[str, Any]:
        """The weights of the network."""
        return self.network.variables


@quietly
def load(
    path: str | pathlib.Path,
    *,
    network: Any = None,
    num_classes: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    raw: bool = False,
) -> Loaded:
    """A network with its weights, to be called on images.

    Args:
      path: the workdir of a run, a folder that `rrd_jax.convert` wrote, an exported file or folder
        of weights, or a PyTorch file. RUN@best, RUN@last and RUN@STEP are other checkpoints than
        the newest, FILE@KEY the weights under a key of the file.
      network: its name, import path or object. None for the name that the path keeps; a PyTorch
        file alone keeps none, and neither does a run whose network was made in Python.
      num_classes: C; None for what the weights say.
      mean: of each channel, in [0, 1] units; None for what the run knows.
      std: likewise.
      raw: of a run that averages its weights, whether these themselves are wanted.

    Raises:
      InputError: nothing is there, it is damaged, or of another network.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> split = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 4
      >>> workdir = rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16).workdir
      warning: 32 test images: ...
      >>> network = rrd_jax.load(workdir)
      >>> network(np.zeros((2, 8, 8, 1), np.uint8)).embedding.shape
      (2, 64)
    """
    whole = _path(path)
    folder, _ = files.split(whole)
    given = network if isinstance(network, str) else ""
    if folder.is_file() and not given and not files.network_of(whole):
        raise errors.InputError(
            f"{folder} does not say which network its weights are of: pass network=NAME, one of"
            f" {', '.join(networks.MODELS)}"
        )
    variables, meta = files.load(whole, given, raw=raw)
    fields = _fields_of(folder)
    choice, terms = _choice(meta, fields, network)
    about = card.of_checkpoint(meta, fields, _home(folder))
    known = fields["data"] if fields else {"mean": None, "std": None}
    if not fields and about.preprocessing:
        known = {"mean": about.preprocessing.mean, "std": about.preprocessing.std}
    moments = {"mean": mean or known["mean"], "std": std or known["std"]}
    shape = tuple(meta["image_shape"])
    for name, values in moments.items():
        moments[name] = _per_channel(name, values, shape[-1])
    if num_classes not in (None, meta["num_classes"]):
        raise errors.InputError(
            f"num_classes is {num_classes!r}, but the weights in {folder} are for"
            f" {meta['num_classes']} classes"
        )
    made = choice.create(meta["num_classes"])
    if about.preprocessing and (mean or std):
        about = dataclasses.replace(
            about, preprocessing=dataclasses.replace(about.preprocessing, **moments)
        )
    if None not in shape:
        networks.check_weights(str(folder), variables, made, shape)
    return Loaded(
        made,
        jax.tree.map(jnp.asarray, variables),
        choice.model,
        meta["num_classes"],
        None if None in shape else shape,
        **moments,
        terms=terms,
        about=about,
    )


def _path(path: Any) -> pathlib.Path:
    if not isinstance(path, str | os.PathLike) or not str(path):
        shown = repr(path) if isinstance(path, str) else f"a {type(path).__name__}"
        raise errors.InputError(
            f"{shown} is no path; wanted is the workdir of a run, a folder that rrd_jax.convert"
            " wrote, or a PyTorch file"
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


@quietly
def evaluate(
    network: Loaded | Trained | str | pathlib.Path,
    test: Any = None,
    *,
    batch_size: int = 500,
    source: Source | None = None,
) -> dict[str, float]:
    """Test figures of a network: `top1` and `top5` in per cent, `loss` in nats.

    Args:
      network: of `load`, `distill` or `train_teacher`; or a path, as `load` has it.
      test: as `distill`'s; None for the test split of the run whose workdir `network` is.
      batch_size: images at once, over all devices.
      source: how images that are not of the network's size are read; None to pad or scale them.

    Raises:
      InputError: there are no test images, or they do not fit the network.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> split = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 4
      >>> trained = rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16)
      warning: 32 test images: ...
      >>> sorted(rrd_jax.evaluate(trained, test=split))
      ['loss', 'top1', 'top5']
    """
    errors.check_counts(batch_size=batch_size)
    if source is not None and not isinstance(source, Source):
        raise errors.InputError(f"source is {source!r}, but must be a rrd_jax.data.Source")
    trained = network if isinstance(network, Trained) else None
    loaded = trained.network if trained else network
    loaded = loaded if isinstance(loaded, Loaded) else load(loaded)
    if test is not None:
        source = source or Source(image_size=_size(loaded))
        dataset = data.from_sources(test, test, source, num_classes=loaded.num_classes)
    elif trained and trained.dataset:
        dataset = trained.dataset
    else:
        kept = trained.workdir if trained else network
        folder = None if kept is loaded else files.split(pathlib.Path(kept))[0]
        dataset = _dataset_of(folder and _fields_of(folder))
    if loaded.num_classes != dataset.num_classes:
        raise errors.InputError(
            f"'{loaded.name}' has {loaded.num_classes} classes, but the test images have"
            f" {dataset.num_classes}"
        )
    channels = dataset.image_shape[-1]
    if loaded.image_shape and loaded.image_shape[-1] != channels:
        raise errors.InputError(
            f"'{loaded.name}' takes images of {loaded.image_shape[-1]} channels, but the test"
            f" images have {channels}"
        )
    mesh = parallel.make_mesh()
    predict = predictions.compile_predict(loaded.network, loaded.normalize, mesh, loaded.terms)
    variables = parallel.put(parallel.replicated(mesh), loaded.variables)
    tested = predictions.collect(predict, variables, dataset.test, batch_size, mesh)
    return predictions.figures(tested)


def _size(loaded: Loaded) -> int:
    if loaded.image_shape is None:
        raise errors.InputError(
            f"it is not known which size of images '{loaded.name}' takes: pass"
            " source=rrd_jax.data.Source(image_size=...)"
        )
    return loaded.image_shape[0]


def _dataset_of(fields: dict[str, Any] | None) -> data.Dataset:
    if not fields or not fields["data"]["name"]:
        raise errors.InputError("there is nothing to evaluate on: pass test=(images, labels)")
    return data.load(configs.source_of(fields))


def _fields_of(folder: pathlib.Path) -> dict[str, Any] | None:
    """The config that a run's folder keeps; None where there is none, or one of model hubs."""
    fields = workdir.read_fields(_home(folder))
    return fields if fields and "student" in fields else None


def _home(folder: pathlib.Path) -> pathlib.Path:
    """The workdir of a run, which may be named by its `checkpoints`."""
    return folder.parent if folder.name == "checkpoints" else folder


def _choice(
    meta: dict[str, Any], fields: dict[str, Any] | None, network: Any
) -> tuple[NetworkChoice, Mapping[str, Objective] | None]:
    """The network that weights are of, and the objectives of a run if one classifies."""
    model = network if isinstance(network, str) else meta["model"]
    made = recipe.Made()
    if network is not None and not isinstance(network, str):
        made = recipe.Made(networks={model: networks.adapt(network, model)})
    known = model in made.networks or model in networks.MODELS or imports.is_path(model)
    if not known and isinstance(network, str):
        errors.lookup("model", model, networks.MODELS)
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
