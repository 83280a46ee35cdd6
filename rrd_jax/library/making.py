"""What was made in Python, put in its place in a config."""

import contextlib
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rrd_jax import config as configs
from rrd_jax import data, errors, imports, networks, recipe
from rrd_jax import objectives as registry
from rrd_jax.data.source import Source
from rrd_jax.library.loaded import Loaded, Trained, load
from rrd_jax.networks import Network
from rrd_jax.objectives import Objective


def set_fields(config: ConfigDict, values: Mapping[str, Any]) -> None:
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
        if isinstance(given, tuple) and len(given) == 2 and not networks.is_network(given):
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
            is_pair = isinstance(value, tuple) and not isinstance(value, Objective)
            weight, objective = value if is_pair and len(value) == 2 else (value, None)
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
        elif given is None or callable(given) or hasattr(given, "update"):
            self._transform = given
        else:
            raise errors.InputError(
                f"optimizer is of type {type(given).__name__}; wanted is a name, a function of the"
                " learning rate such as optax.adamw, or a transformation such as optax.adamw(1e-3)"
            )

    def _network(self, given: Any, role: str) -> str:
        """The name of a network; one that is an object is kept under it."""
        if isinstance(given, str):
            return given
        name = getattr(given, "name", None) or type(given).__name__
        if isinstance(given, tuple) and given:  # two functions, or a module and its state
            name = getattr(given[-1], "__qualname__", type(given[0]).__name__)
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
