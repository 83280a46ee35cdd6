"""Networks, objectives and optimizers that are Python objects, under names in a config."""

import functools
import numbers
import os
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from rrd_jax import config as configs
from rrd_jax import errors, imports, networks
from rrd_jax import objectives as registry
from rrd_jax.library.loaded_network import Loaded, Trained
from rrd_jax.library.predictor import Predictor
from rrd_jax.library.weights_loader import load
from rrd_jax.networks import Network
from rrd_jax.objectives import Objective
from rrd_jax.teacher import wrappers
from rrd_jax.training import recipe
from rrd_jax.weights import files

# The fields of the optimizer section that define the learning rate.
_RATE_FIELDS = (
    "learning_rate",
    "final_learning_rate",
    "warmup_epochs",
    "warmup_start",
    "schedule",
    "schedule_options",
    "milestones",
    "decay",
)


class CustomObjectsBuilder:
    """A collection of Python objects, which are named in a config.

    Args:
      config: the config, in which the names of networks, objectives and optimizer are set.
      num_classes: C; 0 if unknown.
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
        """The objects, by their names in the config."""
        return recipe.CustomObjects(
            self._networks, self._variables, self._objectives, self._transform, self._starts
        )

    def student(self, network: Any) -> None:
        """Sets the network to train, with its initial weights; None keeps the config's."""
        network = network.network if isinstance(network, Trained) else network
        if _is_file(network):
            network = load(network)
        if isinstance(network, Loaded):
            if isinstance(network.network, wrappers.Wrapper):
                raise errors.InputError(
                    f"the student '{network.name}' was loaded with a head, which cannot be trained;"
                    " load it without head="
                )
            self._start_from(network)
        elif network is not None:
            network, variables = _with_variables(network, "student")
            self.config.student.model = name = self._network(network, "student")
            if variables is not None:
                self._starts[name] = (self._packed(name, variables), {})
        if not self.config.student.model:
            raise errors.InputError("there is no student; pass a name or a network as student=")

    def _start_from(self, loaded: Loaded) -> None:
        """Sets a loaded network as the student, whose training continues from its weights."""
        fields, about = self.config.student, loaded.about
        if about and (loaded.name in networks.MODELS or imports.is_path(loaded.name)):
            # The network is created again, because the number of classes may differ.
            fields.model = loaded.name
            with fields.unlocked(), fields.ignore_type():
                fields.options.update(dict(about.options))
        else:
            fields.model = self._named(loaded.name, loaded.network, "student")
        meta = {"model": fields.model, "num_classes": loaded.num_classes}
        meta |= {"image_shape": loaded.image_shape or (None, None, None)}
        meta |= {"classifier": next(iter(loaded.terms or {}), "")}
        meta |= {"about": about.to_json()} if about else {}
        self._starts[fields.model] = (loaded.variables, meta)

    def teacher(self, network: Any) -> None:
        """Sets the network to learn from; None keeps the config's teacher, if it has one."""
        if network is None:
            return
        if isinstance(network, Trained):
            network = network.network
        if _is_file(network):
            network = load(network)
        if isinstance(self.config.teacher, list):
            self.config.teacher = configs.defaults().teacher
        if isinstance(network, Predictor):
            raise errors.InputError(
                f"teacher '{network.name}' is an exported file that runs in {network.runtime}, but"
                " distillation needs a network in JAX; pass the run it was exported from, or its"
                " weights"
            )
        fields = self.config.teacher
        if isinstance(network, Loaded):
            if network.terms:
                raise errors.InputError(
                    f"teacher '{network.name}' was trained with an objective that replaces its"
                    " classifier, so it cannot be a teacher; pass another network"
                )
            fields.model = self._named(network.name, network.network, "teacher")
            self._variables[fields.model] = network.variables
            self._set_preprocessing(network)
            return
        network, variables = _with_variables(network, "teacher")
        fields.model = self._network(network, "teacher")
        network = self._networks.get(fields.model)
        if variables is not None:
            network = network or networks.create(fields.model, self.num_classes or 1)
            self._networks[fields.model] = network
            self._variables[fields.model] = self._packed(fields.model, variables)
        elif getattr(network, "weights", None) is not None:
            self._variables[fields.model] = network.weights

    def _set_preprocessing(self, loaded: Loaded) -> None:
        """Sets those fields of a loaded teacher's preprocessing that the config leaves at None."""
        data, fields = self.config.data, self.config.teacher
        size, channels = (loaded.image_shape or (None,))[0], len(data.mean)
        for name, value, student_value in (
            ("mean", loaded.mean, tuple(data.mean)),
            ("std", loaded.std, tuple(data.std)),
            ("image_size", size, data.image_size),
        ):
            fits = name == "image_size" or len(value or ()) == channels
            if fields[name] is None and value is not None and fits and value != student_value:
                fields[name] = value

    def _packed(self, name: str, variables: Any) -> dict[str, Any]:
        """Returns a user's variables of a network as {"params", "batch_stats"}."""
        images = jnp.zeros((1, *[self.config.data.image_size] * 2, len(self.config.data.mean)))
        pack = getattr(self._networks.get(name), "pack", lambda variables, images: variables)
        return {"batch_stats": {}, **pack(variables, images)}

    def objectives(self, terms: Mapping[str, Any] | None) -> None:
        """Sets the terms of the loss; None keeps the config's, or sets RRD and KD."""
        if terms is None and len(self.config.objectives):
            return
        if terms is None:
            self.config.method, self.config.objectives = "rrd+kd", configs.method("rrd+kd")
            return
        if not isinstance(terms, Mapping):
            raise errors.InputError(
                f"objectives is {terms!r}, but must be a mapping, such as {{'rrd': 1.0, 'kd': 1.0}}"
            )
        chosen = ConfigDict()
        for name, value in terms.items():
            weight, objective = _weighted(name, value)
            if objective is not None:
                self._objectives[name] = _objective(name, objective)
                chosen[name] = ConfigDict({"weight": weight})
            else:
                term = registry.record(name).name
                chosen[term] = configs.method(name)[term]
                chosen[term].weight = weight
        self.config.objectives = chosen
        self.config.method = "+".join(chosen) or "ce"

    def optimizer(self, optimizer: Any, fields: Collection[str] = ()) -> None:
        """Sets the optimizer.

        Args:
          optimizer: a name, a function of the learning rate, or a transformation; None keeps the
            config's.
          fields: paths of the fields that the user set.

        Raises:
          InputError: one of the fields has no effect on an optimizer that is a Python object.
        """
        if optimizer is None:
            return
        if isinstance(optimizer, str):
            self.config.optimizer.name = optimizer
            return
        if not callable(optimizer) and not hasattr(optimizer, "update"):
            raise errors.InputError(
                f"optimizer is of type {type(optimizer).__name__}, but must be a name, a function"
                " of the learning rate such as optax.adamw, or a transformation such as"
                " optax.adamw(1e-3)"
            )
        self._transform = optimizer
        _check_effect(fields, takes_schedule=not hasattr(optimizer, "update"))

    def _network(self, network: Any, role: str) -> str:
        """Returns the name of a network; stores an object under the name."""
        if isinstance(network, str):
            return networks.canonical(network)
        if network == ():
            raise errors.InputError(f"{role} is an empty tuple, but must be a name or a network")
        named = (
            network[-1 if callable(network[-1]) else 0] if isinstance(network, tuple) else network
        )
        name = getattr(named, "name", None) or getattr(named, "__name__", type(named).__name__)
        if isinstance(network, type | functools.partial):
            raise errors.InputError(
                f"{role} is a class or a factory ({network}); call it, for example with num_classes"
            )
        return self._named(str(name), networks.adapt(network, str(name)), role)

    def _named(self, name: str, network: Network, role: str) -> str:
        """Stores a network under a unique name, and returns the name."""
        is_students = role == "teacher" and name == self.config.student.model
        if self._networks.get(name, None if is_students else network) is not network:
            name = f"{name} ({role})"
        self._networks[name] = network
        return name


def _with_variables(network: Any, role: str) -> tuple[Any, Any]:
    """Splits a pair (network, variables); the variables are None for a network alone."""
    if not isinstance(network, tuple) or len(network) != 2 or networks.is_network(network):
        return network, None
    network, variables = network
    if not isinstance(variables, Mapping):
        raise errors.InputError(
            f"the {role}'s variables are of type {type(variables).__name__}, but must be a dict,"
            " as returned by the network's init"
        )
    return network, variables


def _check_effect(fields: Collection[str], *, takes_schedule: bool) -> None:
    """Raises an InputError for a field that a custom optimizer does not use."""
    for field in fields:
        _, _, name = field.partition("optimizer.")
        is_rate = takes_schedule and name.partition(".")[0] in _RATE_FIELDS
        if name and name != "layer_decay" and not is_rate:
            raise errors.InputError(
                f"{field} has no effect on an optimizer that is a Python object; set the value in"
                " the object, or pass a function of the learning rate to use fields of the schedule"
            )


def _is_file(network: Any) -> bool:
    """Returns True for the path of weights."""
    if isinstance(network, os.PathLike):
        return True
    if not isinstance(network, str) or networks.canonical(network) in networks.MODELS:
        return False
    return os.sep in network or bool(network and files.split(pathlib.Path(network))[0].exists())


def _weighted(name: str, value: Any) -> tuple[float, Any]:
    """Returns the weight of an objective and its object, None for an objective by name."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.:+-]+", name):
        raise errors.InputError(
            f"invalid objective name {name!r}; use letters and digits, such as 'mine'"
        )
    if value is None:
        raise errors.InputError(f"objective '{name}' is None, but must have a weight, such as 1.0")
    if "." in name and ":" not in name:
        raise errors.InputError(f"invalid objective name {name!r}; use a name without a dot")
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


def _objective(name: str, objective: Any) -> Objective:
    if name in registry.RECORDS:
        raise errors.InputError(
            f"the objective '{name}' is a Python object, but has the name of a built-in objective;"
            " rename it"
        )
    if isinstance(objective, Objective):
        return objective
    if callable(objective):
        return registry.stateless(objective, needs_maps=True)
    raise errors.InputError(
        f"objective '{name}' is of type {type(objective).__name__}, but must be a weight, an"
        " Objective or a function (student, teacher, batch) -> [B], alone or in a pair (weight,"
        " objective)"
    )
