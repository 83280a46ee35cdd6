"""What programs call: training, loading and evaluation of networks, by name or made in Python."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rrd_jax import config as configs
from rrd_jax import data, errors, imports, job, networks, parallel, predictions, recipe
from rrd_jax import objectives as registry
from rrd_jax.convert import files
from rrd_jax.data import augment
from rrd_jax.data.source import Source
from rrd_jax.networks import Network, Outputs
from rrd_jax.objectives import Objective, ObjectiveState
from rrd_jax.run import Result


def _quietly(function: Callable) -> Callable:
    """While it runs, libraries that narrate through absl's log are silent."""

    @functools.wraps(function)
    def run(*arguments, **options):
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            return function(*arguments, **options)
        finally:
            logging.set_verbosity(verbosity)

    return run


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
    """

    network: Network
    variables: dict[str, Any]
    name: str
    num_classes: int
    image_shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    terms: Mapping[str, Objective] | None = None

    def __call__(self, images: Any) -> Outputs:
        """What it computes from images [B, H, W, channels].

        Args:
          images: uint8, as stored, or floats that are normalised already.

        Raises:
          InputError: uint8 images, where it is not known how they are normalised.
        """
        images = jnp.asarray(images)
        if images.dtype == jnp.uint8:
            images = self.normalize(images)
        return self._apply(self.variables, images)

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
    dataset: data.Dataset | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures of the network: `top1`, `best_top1`, `agreement` in per cent, and others."""
        return self.results[-1]._asdict()

    @property
    def variables(self) -> dict[str, Any]:
        """The weights of the network."""
        return self.network.variables


@_quietly
def distill(
    config: ConfigDict | recipe.Job | None = None,
    workdir: str | pathlib.Path | None = None,
    *,
    teacher: Any = None,
    student: Any = None,
    train: Any = None,
    test: Any = None,
    objectives: Mapping[str, Any] | None = None,
    optimizer: Any = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    num_classes: int | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains a student with a teacher, or goes on where an earlier call with this workdir stopped.

    Args:
      config: of a launch file, or of `rrd_jax.config.defaults()`, which is the default; or a Job,
        which takes nothing beside it but the workdir, train and test.
      workdir: where checkpoints and figures go; None for a temporary folder.
      teacher: of `rrd_jax.load`, `train_teacher`, or a folder or file of weights; a pair (module,
        variables); an NNX or Equinox module, with its weights; or a name, an import path or any
        other network, which is trained first.
      student: a name, an import path, a Linen, NNX or Equinox module, a pair of functions.
      train: a pair of arrays, images [N, H, W, channels] uint8 and labels [N]; or a random-access
        source of such pairs or of dicts with `image` and `label`. None for the config's data.
      test: likewise.
      objectives: {name: weight} in the total loss; names may be import paths. For what is made in
        Python {name: (weight, objective)}, with an Objective or a function (student, teacher,
        batch) -> [B]. None for the config's, or RRD and KD.
      optimizer: a name; a function of the learning rate such as `optax.adamw`; or a transformation
        such as `optax.adamw(1e-3)`. None for the config's.
      epochs: passes over the training images.
      batch_size: images a step.
      learning_rate: the highest.
      num_classes: C; None to find it in the data.
      fields: other fields of the config by their path, such as {"data.augment": "none"}.

    Raises:
      InputError: something is missing, or does not go together.
      DivergedError: the loss is not finite.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
      >>> split = images, np.arange(32) % 4
      >>> result = rrd_jax.distill(
      ...     teacher="resnet8", student="resnet8", train=split, test=split,
      ...     objectives={"rrd": 1.0, "kd": 1.0}, epochs=1, batch_size=16)
      [teacher] ...
      >>> sorted(result.metrics)[:4]
      ['agreement', 'best_epoch', 'best_top1', 'checkpoint']
      >>> result.network(images[:2]).logits.shape
      (2, 4)
    """
    asked = _Asked(config, teacher, student, objectives, optimizer, fields or {})
    numbers = {"train.epochs": epochs, "train.batch_size": batch_size}
    numbers["optimizer.learning_rate"] = learning_rate
    return _run(asked, numbers, workdir, train, test, num_classes)


def train_teacher(
    network: Any,
    train: Any = None,
    test: Any = None,
    workdir: str | pathlib.Path | None = None,
    *,
    config: ConfigDict | None = None,
    **options: Any,
) -> Trained:
    """Trains a network alone, with cross-entropy; its result can be a teacher.

    Args:
      network: as `distill`'s student.
      train: as `distill` has it.
      test: likewise.
      workdir: likewise.
      config: likewise.
      **options: optimizer, epochs, batch_size, learning_rate, num_classes and fields, as `distill`
        has them.

    Raises:
      InputError: something is missing, or does not go together.
      DivergedError: the loss is not finite.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> split = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 4
      >>> teacher = rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16)
      [student] ...
      >>> teacher.network.name, teacher.network.num_classes
      ('resnet8', 4)
    """
    base = configs.defaults() if config is None else config.copy_and_resolve_references()
    with base.unlocked(), base.ignore_type():
        base.teacher = configs.defaults().teacher
        base.baseline, base.method = False, "ce"
    return distill(
        base, workdir, student=network, train=train, test=test, objectives={"ce": 1.0}, **options
    )


@_quietly
def load(
    path: str | pathlib.Path,
    *,
    network: Any = None,
    num_classes: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Loaded:
    """A network with its weights, to be called on images.

    Args:
      path: the workdir of a run, a folder that `rrd_jax.convert` wrote, or a PyTorch file.
      network: its name, import path or object. None for the name that the folder keeps; a PyTorch
        file keeps none, and neither does a run whose network was made in Python.
      num_classes: C; None for what the weights say.
      mean: of each channel, in [0, 1] units; None for what the run knows.
      std: likewise.

    Raises:
      InputError: nothing is there, it is damaged, or of another network.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> split = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 4
      >>> workdir = rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16).workdir
      [student] ...
      >>> network = rrd_jax.load(workdir)
      >>> network(np.zeros((2, 8, 8, 1), np.uint8)).embedding.shape
      (2, 64)
    """
    folder = pathlib.Path(path)
    given = network if isinstance(network, str) else ""
    if folder.is_file() and not given:
        raise errors.InputError(
            f"{folder} does not say which network its weights are of: pass network=NAME, one of"
            f" {', '.join(networks.MODELS)}"
        )
    variables, meta = files.load(folder, given)
    fields = _fields_of(folder)
    choice, terms = _choice(meta, fields, network)
    mean = mean or (tuple(fields["data"]["mean"]) if fields else None)
    std = std or (tuple(fields["data"]["std"]) if fields else None)
    num_classes = num_classes or meta["num_classes"]
    shape = tuple(meta["image_shape"])
    return Loaded(
        choice.create(num_classes),
        jax.tree.map(jnp.asarray, variables),
        choice.model,
        num_classes,
        None if None in shape else shape,
        mean,
        std,
        terms,
    )


@_quietly
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
      [student] ...
      >>> sorted(rrd_jax.evaluate(trained, test=split))
      ['loss', 'top1', 'top5']
    """
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
        dataset = _dataset_of(None if kept is loaded else _fields_of(pathlib.Path(kept)))
    if loaded.num_classes != dataset.num_classes:
        raise errors.InputError(
            f"'{loaded.name}' has {loaded.num_classes} classes, but the test images have"
            f" {dataset.num_classes}"
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    """What `distill` was given, beside data and numbers."""

    config: ConfigDict | recipe.Job | None
    teacher: Any
    student: Any
    objectives: Mapping[str, Any] | None
    optimizer: Any
    fields: Mapping[str, Any]


def _run(
    asked: _Asked,
    numbers: dict[str, Any],
    workdir: str | pathlib.Path | None,
    train: Any,
    test: Any,
    num_classes: int | None,
) -> Trained:
    """Trains, or goes on."""
    numbers = {path: value for path, value in numbers.items() if value is not None}
    if isinstance(asked.config, recipe.Job):
        given = [asked.teacher, asked.student, asked.objectives, asked.optimizer]
        if any(value is not None for value in given) or numbers or asked.fields:
            raise errors.InputError(
                "a Job says all by itself: pass a ConfigDict to change the rest with arguments"
            )
        plan, made = asked.config, recipe.Made()
        dataset = _dataset(train, test, plan.student.source, num_classes)
    else:
        plan, made, dataset = _plan(asked, numbers, train, test, num_classes)
    folder = pathlib.Path(workdir or tempfile.mkdtemp(prefix="rrd_jax_"))
    parallel.check_jaxlib()
    results = job.run(plan, folder, dataset=dataset)
    student = made.networks.get(plan.student.training.network.model)
    return Trained(load(folder, network=student), results, folder, dataset)


def _plan(
    asked: _Asked, numbers: dict[str, Any], train: Any, test: Any, num_classes: int | None
) -> tuple[recipe.Job, recipe.Made, data.Dataset | None]:
    """The job of a config and of what was made in Python."""
    config = asked.config
    config = configs.defaults() if config is None else config.copy_and_resolve_references()
    dataset = None
    with config.unlocked(), config.ignore_type():
        _set(config, {**numbers, **asked.fields})
        if train is not None:
            dataset = _open(config, asked.fields, train, test, num_classes)
        made = _Making(config, num_classes or (dataset and dataset.num_classes) or 0)
        made.student(asked.student)
        made.teacher(asked.teacher)
        made.objectives(asked.objectives)
        made.optimizer(asked.optimizer)
        config.name = config.name or config.method
    return configs.parse(config, made=made.made), made.made, dataset


def _set(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets fields by their path."""
    for path, value in values.items():
        *parents, name = path.split(".")
        at = config
        for parent in parents:
            at = at[parent] if parent in at else errors.lookup("field", path, _paths(config))
        if name not in at and parents[-1:] != ["options"]:
            errors.lookup("field", path, _paths(config))
        at[name] = value


def _paths(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for name, value in config.items():
        is_tree = isinstance(value, ConfigDict)
        paths |= _paths(value, f"{prefix}{name}.") if is_tree else {f"{prefix}{name}": value}
    return paths


def _dataset(train: Any, test: Any, source: Source, num_classes: int | None) -> data.Dataset | None:
    if train is None:
        if test is not None:
            raise errors.InputError("test images are given, but none to train on: pass train=")
        return None
    return data.from_sources(train, test, source, num_classes=num_classes)


def _open(
    config: ConfigDict, fields: Mapping[str, Any], train: Any, test: Any, num_classes: int | None
) -> data.Dataset:
    """The data set of images made in Python; fills in what a config would say about them."""
    if test is None and config.data.test_split == "test":
        raise errors.InputError(
            "there are no test images: pass test=, or name parts of the training images with"
            " fields={'data.train_split': 'train[:90%]', 'data.test_split': 'train[90%:]'}"
        )
    images = train[0] if isinstance(train, tuple | list) and len(train) == 2 else None
    is_array = getattr(images, "ndim", 0) == 4
    if is_array and "data.image_size" not in fields:
        config.data.image_size = max(images.shape[1:3])
    dataset = data.from_sources(train, test, configs.source_of(config), num_classes=num_classes)
    if "data.mean" not in fields and "data.std" not in fields:
        config.data.mean, config.data.std = _moments(dataset.train)
    return dataset


def _moments(split: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, of up to 10 000 images in [0, 1] units."""
    if split.on_device:
        pixels = split.images[:10_000]
    else:
        with contextlib.closing(split.test_batches(min(1000, len(split)))) as batches:
            pixels = next(batches)["image"]
    pixels = np.asarray(pixels, np.float64) / 255
    mean, std = (moment(pixels, axis=(0, 1, 2)) for moment in (np.mean, np.std))
    return tuple(mean.round(4).tolist()), tuple(np.maximum(std, 1e-3).round(4).tolist())


class _Making:
    """Puts what was made in Python in its place in a config, under a name.

    Args:
      config: whose names are set.
      num_classes: C; 0 where it is not known.
    """

    def __init__(self, config: ConfigDict, num_classes: int):
        self.config, self.num_classes = config, num_classes
        self._networks: dict[str, Network] = {}
        self._variables: dict[str, Any] = {}
        self._objectives: dict[str, Objective] = {}
        self._transform: Any = None

    @property
    def made(self) -> recipe.Made:
        """All of it."""
        return recipe.Made(self._networks, self._variables, self._objectives, self._transform)

    def student(self, given: Any) -> None:
        """The network that is trained; None for the config's."""
        if given is not None:
            self.config.student.model = self._network(given, "student")
        if not self.config.student.model:
            raise errors.InputError("there is no student: pass student=, a name or a network")

    def teacher(self, given: Any) -> None:
        """The network it learns from; None for the config's, if it has one."""
        if given is None:
            return
        if isinstance(given, Trained):
            given = given.network
        is_path = isinstance(given, str | pathlib.Path) and str(given) not in networks.MODELS
        if is_path and pathlib.Path(given).exists():
            given = load(given)
        if isinstance(self.config.teacher, list):
            self.config.teacher = configs.defaults().teacher
        fields = self.config.teacher
        if isinstance(given, Loaded):
            if given.terms:
                raise errors.InputError(
                    f"teacher '{given.name}' was trained with an objective that classifies in its"
                    " place; it is no teacher"
                )
            fields.model = self._named(given.name, given.network, "teacher")
            self._variables[fields.model] = given.variables
            return
        variables = None
        if isinstance(given, tuple) and len(given) == 2 and not callable(given[1]):
            given, variables = given
        fields.model = self._network(given, "teacher")
        network = self._networks.get(fields.model)
        if variables is not None:
            network = network or networks.create(fields.model, self.num_classes or 1)
            images = jnp.zeros((1, *[self.config.data.image_size] * 2, len(self.config.data.mean)))
            pack = getattr(network, "pack", lambda variables, images: variables)
            self._variables[fields.model] = {"batch_stats": {}, **pack(variables, images)}
            self._networks[fields.model] = network
        elif getattr(network, "weights", None) is not None:
            self._variables[fields.model] = network.weights

    def objectives(self, given: Mapping[str, Any] | None) -> None:
        """The terms of the loss; None for the config's, or RRD and KD."""
        if given is None and len(self.config.objectives):
            return
        if given is None:
            self.config.method, self.config.objectives = "rrd+kd", configs.method("rrd+kd")
            return
        chosen = ConfigDict()
        for name, value in given.items():
            weight, objective = value if isinstance(value, tuple) else (value, None)
            if not isinstance(weight, int | float):
                weight, objective = 1.0, value
            if objective is not None:
                self._objectives[name] = _objective(name, objective)
                chosen[name] = ConfigDict({"weight": float(weight)})
            else:
                ours = configs.method(name)
                part = imports.is_path(name) and next(n for n in ours if ours[n].get("factory"))
                chosen[part or name] = ours[part or name]
                chosen[part or name].weight = float(weight)
        self.config.objectives = chosen
        self.config.method = "+".join(chosen) or "ce"

    def optimizer(self, given: Any) -> None:
        """A name, a function of the learning rate, or a transformation."""
        if isinstance(given, str):
            self.config.optimizer.name = given
        elif given is not None:
            self._transform = given

    def _network(self, given: Any, role: str) -> str:
        """The name of a network; one that is an object is kept under it."""
        if isinstance(given, str):
            return given
        name = getattr(given, "name", None) or type(given).__name__
        if isinstance(given, tuple):
            name = getattr(given[-1], "__qualname__", name)
        if isinstance(given, type | functools.partial):
            raise errors.InputError(
                f"{role} is a class or a factory ({given}): call it, for example with num_classes"
            )
        return self._named(str(name), networks.adapt(given, str(name)), role)

    def _named(self, name: str, network: Network, role: str) -> str:
        """Keeps a network under a name that no other has."""
        if self._networks.get(name, network) is not network:
            name = f"{name} ({role})"
        self._networks[name] = network
        return name


def _objective(name: str, given: Any) -> Objective:
    if isinstance(given, Objective):
        return given
    if callable(given):
        return registry.stateless(given, needs_maps=True)
    raise errors.InputError(
        f"objective '{name}' is of type {type(given).__name__}; wanted is a weight, or an Objective"
        " or a function (student, teacher, batch) -> [B], alone or in a pair (weight, objective)"
    )


def _fields_of(folder: pathlib.Path) -> dict[str, Any] | None:
    """The config that a run's folder keeps; None where there is none."""
    folder = folder.parent if folder.name == "checkpoints" else folder
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None


def _choice(
    meta: dict[str, Any], fields: dict[str, Any] | None, network: Any
) -> tuple[recipe.NetworkChoice, Mapping[str, Objective] | None]:
    """The network that weights are of, and the objectives of a run if one classifies."""
    model = network if isinstance(network, str) else meta["model"]
    made = recipe.Made()
    if network is not None and not isinstance(network, str):
        made = recipe.Made(networks={model: networks.adapt(network, model)})
    known = model in made.networks or model in networks.MODELS or imports.is_path(model)
    if not known:
        raise errors.InputError(
            f"the weights are of '{model}', which was made in Python: pass network=, the same"
        )
    if not fields or fields["student"]["model"] != model:
        choice = recipe.NetworkChoice(model, jnp.float32, network=made.networks.get(model))
        return choice, None
    training = configs.training_of(fields, made)
    if not meta.get("classifier"):
        return training.network, None
    return training.network, training.create_objectives(examples=training.batch_size)
