"""What was made in Python, put in its place in a config."""

import contextlib
import functools
import numbers
import os
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rrd_jax import config as configs
from rrd_jax import data, errors, imports, networks
from rrd_jax import objectives as registry
from rrd_jax.data.source import Source
from rrd_jax.library.loaded_network import Loaded, Trained
from rrd_jax.library.predictor import Predictor
from rrd_jax.library.weights_loader import load
from rrd_jax.networks import Network
from rrd_jax.objectives import Objective
from rrd_jax.teacher import adapters
from rrd_jax.training import recipe
from rrd_jax.weights import files

# The fields of the optimizer that say its rates.
_OF_RATES = (
    *("learning_rate", "final_learning_rate", "warmup_epochs", "warmup_start"),
    *("schedule", "schedule_options", "milestones", "decay"),
)


def set_fields(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets fields by their path.

    Raises:
      InputError: there is no such field, or the value is of another type.
    """
    if not isinstance(values, Mapping):
        raise errors.InputError(
            f"fields is {values!r}, but must be a mapping, such as {{'data.augment': 'none'}}"
        )
    for path, value in values.items():
        *parents, name = str(path).split(".")
        at = config
        for parent in parents:
            at = at.get(parent) if isinstance(at, ConfigDict) else None
        takes_any = parents and parents[-1].endswith("options")
        if not isinstance(at, ConfigDict) or (name not in at and not takes_any):
            errors.lookup("field", path, _paths(config))
        if isinstance(at.get(name), ConfigDict) and isinstance(value, Mapping | ConfigDict):
            set_fields(config, {f"{path}.{part}": inner for part, inner in value.items()})
        else:
            at[name] = value if takes_any else _typed(path, value, at, name)


def _typed(path: str, value: Any, at: ConfigDict, name: str) -> Any:
    """The value of a field in its type, which is that of its default."""
    if isinstance(at[name], ConfigDict):
        listed = ", ".join(_paths(at[name], f"{path}."))
        if not listed:
            raise errors.InputError(
                f"'{path}' is {value!r}, but must be a mapping of names to values"
            )
        raise errors.InputError(f"'{path}' is no field, but has these: {listed}")
    wanted = at.get_type(name)
    if value is None and _paths(configs.defaults()).get(path, value) is None:
        return value
    if wanted is str and isinstance(value, os.PathLike):
        return str(value)
    are_numbers = isinstance(value, list | tuple) and all(
        isinstance(part, numbers.Real) for part in value
    )
    if wanted is tuple and are_numbers:
        return tuple(map(float, value))
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if wanted is float and is_number:
        return float(value)
    if wanted is int and isinstance(value, numbers.Integral) and is_number:
        return int(value)
    if wanted in (bool, str) and isinstance(value, wanted):
        return value
    kind = "tuple of numbers" if wanted is tuple else wanted.__name__
    raise errors.InputError(f"field '{path}' is {value!r}, but must be of type {kind}")


def _paths(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for name, value in config.items():
        is_tree = isinstance(value, ConfigDict)
        paths |= _paths(value, f"{prefix}{name}.") if is_tree else {f"{prefix}{name}": value}
    return paths


def open_dataset(
    train: Any, test: Any, source: Source, num_classes: int | None
) -> data.Dataset | None:
    """The data set of images that were given; None where there are none."""
    if train is None:
        if test is not None:
            raise errors.InputError("test images are given, but none to train on: pass train=")
        return None
    return data.from_sources(train, test, source, num_classes=num_classes)


def open_and_describe(
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


class Making:
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
        self._starts: dict[str, tuple[Any, dict[str, Any]]] = {}

    @property
    def custom(self) -> recipe.CustomObjects:
        """All objects, by their names in the config."""
        return recipe.CustomObjects(
            self._networks, self._variables, self._objectives, self._transform, self._starts
        )

    def student(self, given: Any) -> None:
        """The network that is trained, with the weights it starts from; None for the config's."""
        given = given.network if isinstance(given, Trained) else given
        if _is_file(given):
            given = load(given)
        if isinstance(given, Loaded):
            if isinstance(given.network, adapters.Adapter):
                raise errors.InputError(
                    f"the student '{given.name}' was loaded with a head, which is not trained on:"
                    " load it without"
                )
            self._start_from(given)
        elif given is not None:
            given, variables = _with_variables(given, "student")
            self.config.student.model = name = self._network(given, "student")
            if variables is not None:
                self._starts[name] = (self._packed(name, variables), {})
        if not self.config.student.model:
            raise errors.InputError("there is no student: pass student=, a name or a network")

    def _start_from(self, given: Loaded) -> None:
        """Takes a network that was loaded as the student, to be trained on."""
        fields, about = self.config.student, given.about
        if about and (given.name in networks.MODELS or imports.is_path(given.name)):
            fields.model = given.name  # it may get another classifier
            with fields.unlocked(), fields.ignore_type():
                fields.options.update(dict(about.options))
        else:
            fields.model = self._named(given.name, given.network, "student")
        meta = {"model": fields.model, "num_classes": given.num_classes}
        meta |= {"image_shape": given.image_shape or (None, None, None)}
        meta |= {"classifier": next(iter(given.terms or {}), "")}
        meta |= {"about": about.to_json()} if about else {}
        self._starts[fields.model] = (given.variables, meta)

    def teacher(self, given: Any) -> None:
        """The network it learns from; None for the config's, if it has one."""
        if given is None:
            return
        if isinstance(given, Trained):
            given = given.network
        if _is_file(given):
            given = load(given)
        if isinstance(self.config.teacher, list):
            self.config.teacher = configs.defaults().teacher
        if isinstance(given, Predictor):
            raise errors.InputError(
                f"teacher '{given.name}' can be asked, but not distilled from: it runs in"
                f" {given.runtime}; give the run it was exported from, or its weights"
            )
        fields = self.config.teacher
        if isinstance(given, Loaded):
            if given.terms:
                raise errors.InputError(
                    f"teacher '{given.name}' was trained with an objective that classifies in its"
                    " place; it is no teacher"
                )
            fields.model = self._named(given.name, given.network, "teacher")
            self._variables[fields.model] = given.variables
            self._see_as(given)
            return
        given, variables = _with_variables(given, "teacher")
        fields.model = self._network(given, "teacher")
        network = self._networks.get(fields.model)
        if variables is not None:
            network = network or networks.create(fields.model, self.num_classes or 1)
            self._networks[fields.model] = network
            self._variables[fields.model] = self._packed(fields.model, variables)
        elif getattr(network, "weights", None) is not None:
            self._variables[fields.model] = network.weights

    def _see_as(self, given: Loaded) -> None:
        """Shows a teacher that was loaded images as it knows them, where nothing else is asked."""
        data, fields = self.config.data, self.config.teacher
        size, channels = (given.image_shape or (None,))[0], len(data.mean)
        for name, theirs, ours in (
            ("mean", given.mean, tuple(data.mean)),
            ("std", given.std, tuple(data.std)),
            ("image_size", size, data.image_size),
        ):
            fits = name == "image_size" or len(theirs or ()) == channels
            if fields[name] is None and theirs is not None and fits and theirs != ours:
                fields[name] = theirs

    def _packed(self, name: str, variables: Any) -> dict[str, Any]:
        """A user's variables of a network as {"params", "batch_stats"}."""
        images = jnp.zeros((1, *[self.config.data.image_size] * 2, len(self.config.data.mean)))
        pack = getattr(self._networks.get(name), "pack", lambda variables, images: variables)
        return {"batch_stats": {}, **pack(variables, images)}

    def objectives(self, given: Mapping[str, Any] | None) -> None:
        """The terms of the loss; None for the config's, or RRD and KD."""
        if given is None and len(self.config.objectives):
            return
        if given is None:
            self.config.method, self.config.objectives = "rrd+kd", configs.method("rrd+kd")
            return
        if not isinstance(given, Mapping):
            raise errors.InputError(
                f"objectives is {given!r}, but must be a mapping, such as {{'rrd': 1.0, 'kd': 1.0}}"
            )
        chosen = ConfigDict()
        for name, value in given.items():
            weight, objective = _weighted(name, value)
            if objective is not None:
                self._objectives[name] = _objective(name, objective)
                chosen[name] = ConfigDict({"weight": weight})
            else:
                known = registry.record(name).name
                chosen[known] = configs.method(name)[known]
                chosen[known].weight = weight
        self.config.objectives = chosen
        self.config.method = "+".join(chosen) or "ce"

    def optimizer(self, given: Any, fields: Collection[str] = ()) -> None:
        """A name, a function of the learning rate, or a transformation.

        Args:
          given: one of these; None for the config's.
          fields: the paths of fields that were set beside it.

        Raises:
          InputError: one of them is for the config's optimizer.
        """
        if given is None:
            return
        if isinstance(given, str):
            self.config.optimizer.name = given
            return
        if not callable(given) and not hasattr(given, "update"):
            raise errors.InputError(
                f"optimizer is of type {type(given).__name__}; wanted is a name, a function of the"
                " learning rate such as optax.adamw, or a transformation such as optax.adamw(1e-3)"
            )
        self._transform = given
        _check_effect(fields, takes_schedule=not hasattr(given, "update"))

    def _network(self, given: Any, role: str) -> str:
        """The name of a network; one that is an object is kept under it."""
        if isinstance(given, str):
            return networks.canonical(given)
        if given == ():
            raise errors.InputError(f"{role} is an empty tuple, but must be a name or a network")
        whole = given[-1 if callable(given[-1]) else 0] if isinstance(given, tuple) else given
        name = getattr(whole, "name", None) or getattr(whole, "__name__", type(whole).__name__)
        if isinstance(given, type | functools.partial):
            raise errors.InputError(
                f"{role} is a class or a factory ({given}): call it, for example with num_classes"
            )
        return self._named(str(name), networks.adapt(given, str(name)), role)

    def _named(self, name: str, network: Network, role: str) -> str:
        """Keeps a network under a name that no other has."""
        is_students = role == "teacher" and name == self.config.student.model
        if self._networks.get(name, None if is_students else network) is not network:
            name = f"{name} ({role})"
        self._networks[name] = network
        return name


def _with_variables(given: Any, role: str) -> tuple[Any, Any]:
    """A network and the variables that it was paired with; None where there are none."""
    if not isinstance(given, tuple) or len(given) != 2 or networks.is_network(given):
        return given, None
    network, variables = given
    if not isinstance(variables, Mapping):
        raise errors.InputError(
            f"the {role}'s variables are of type {type(variables).__name__}, but must be a dict,"
            " as the network's init gives them"
        )
    return network, variables


def _check_effect(fields: Collection[str], *, takes_schedule: bool) -> None:
    """Raises an InputError for a field that an optimizer made in Python does not look at."""
    for field in fields:
        _, _, name = field.partition("optimizer.")
        knows = name == "layer_decay" or (takes_schedule and name.partition(".")[0] in _OF_RATES)
        if name and not knows:
            raise errors.InputError(
                f"{field} has no effect on an optimizer that was made in Python: say it there, or"
                " pass a function of the learning rate for fields of the schedule"
            )


def _is_file(given: Any) -> bool:
    """Whether a teacher is named by a path, and not by a name or an import path."""
    if isinstance(given, os.PathLike):
        return True
    if not isinstance(given, str) or networks.canonical(given) in networks.MODELS:
        return False
    return os.sep in given or bool(given and files.split(pathlib.Path(given))[0].exists())


def _weighted(name: str, value: Any) -> tuple[float, Any]:
    """The weight of an objective, and what was made in Python; None for one that is named."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.:+-]+", name):
        raise errors.InputError(f"objectives has the name {name!r}; give it one, such as 'mine'")
    if value is None:
        raise errors.InputError(f"objective '{name}' is None, but must have a weight, such as 1.0")
    if "." in name and ":" not in name:
        raise errors.InputError(f"objectives has the name {name!r}; give it one without a dot")
    if isinstance(value, bool):
        raise errors.InputError(
            f"objective '{name}' is {value}, but must have a weight, such as 1.0"
        )
    if isinstance(value, numbers.Real):
        return float(value), None
    is_pair = isinstance(value, tuple) and not isinstance(value, Objective) and len(value) == 2
    if is_pair and isinstance(value[0], numbers.Real):
        return float(value[0]), value[1]
    return 1.0, value


def _objective(name: str, given: Any) -> Objective:
    if name in registry.RECORDS:
        raise errors.InputError(
            f"an objective that was made in Python has the name of one of ours, '{name}'; rename it"
        )
    if isinstance(given, Objective):
        return given
    if callable(given):
        return registry.stateless(given, needs_maps=True)
    raise errors.InputError(
        f"objective '{name}' is of type {type(given).__name__}; wanted is a weight, or an Objective"
        " or a function (student, teacher, batch) -> [B], alone or in a pair (weight, objective)"
    )
