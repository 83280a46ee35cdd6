"""Networks, objectives and optimizers made in Python, under names in a config."""

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

# The fields of the optimizer that say its rates.
_OF_RATES = (
    *("learning_rate", "final_learning_rate", "warmup_epochs", "warmup_start"),
    *("schedule", "schedule_options", "milestones", "decay"),
)


class CustomObjectsBuilder:
    """Collects objects made in Python, and names them in a config.

    Args:
      config: the config, whose names of networks, objectives and optimizer are set.
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
        """All objects, by their names in the config."""
        return recipe.CustomObjects(
            self._networks, self._variables, self._objectives, self._transform, self._starts
        )

    def student(self, network: Any) -> None:
        """Takes the network to train, with its initial weights; None for the config's."""
        network = network.network if isinstance(network, Trained) else network
        if _is_file(network):
            network = load(network)
        if isinstance(network, Loaded):
            if isinstance(network.network, wrappers.Wrapper):
                raise errors.InputError(
                    f"the student '{network.name}' was loaded with a head, which is not trained on:"
                    " load it without"
                )
            self._start_from(network)
        elif network is not None:
            network, variables = _with_variables(network, "student")
            self.config.student.model = name = self._network(network, "student")
            if variables is not None:
                self._starts[name] = (self._packed(name, variables), {})
        if not self.config.student.model:
            raise errors.InputError("there is no student: pass student=, a name or a network")

    def _start_from(self, loaded: Loaded) -> None:
        """Takes a loaded network as the student, whose training continues."""
        fields, about = self.config.student, loaded.about
        if about and (loaded.name in networks.MODELS or imports.is_path(loaded.name)):
            fields.model = loaded.name  # it may get another classifier
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
        """Takes the network to learn from; None for the config's, if it has one."""
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
                f"teacher '{network.name}' can be asked, but not distilled from: it runs in"
                f" {network.runtime}; give the run it was exported from, or its weights"
            )
        fields = self.config.teacher
        if isinstance(network, Loaded):
            if network.terms:
                raise errors.InputError(
                    f"teacher '{network.name}' was trained with an objective that classifies in its"
                    " place; it is no teacher"
                )
            fields.model = self._named(network.name, network.network, "teacher")
            self._variables[fields.model] = network.variables
            self._see_as(network)
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

    def _see_as(self, loaded: Loaded) -> None:
        """Sets the preprocessing of a loaded teacher, where the config leaves it open."""
        data, fields = self.config.data, self.config.teacher
        size, channels = (loaded.image_shape or (None,))[0], len(data.mean)
        for name, theirs, ours in (
            ("mean", loaded.mean, tuple(data.mean)),
            ("std", loaded.std, tuple(data.std)),
            ("image_size", size, data.image_size),
        ):
            fits = name == "image_size" or len(theirs or ()) == channels
            if fields[name] is None and theirs is not None and fits and theirs != ours:
                fields[name] = theirs

    def _packed(self, name: str, variables: Any) -> dict[str, Any]:
        """Returns a user's variables of a network as {"params", "batch_stats"}."""
        images = jnp.zeros((1, *[self.config.data.image_size] * 2, len(self.config.data.mean)))
        pack = getattr(self._networks.get(name), "pack", lambda variables, images: variables)
        return {"batch_stats": {}, **pack(variables, images)}

    def objectives(self, terms: Mapping[str, Any] | None) -> None:
        """Takes the terms of the loss; None for the config's, or RRD and KD."""
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
                known = registry.record(name).name
                chosen[known] = configs.method(name)[known]
                chosen[known].weight = weight
        self.config.objectives = chosen
        self.config.method = "+".join(chosen) or "ce"

    def optimizer(self, optimizer: Any, fields: Collection[str] = ()) -> None:
        """Takes the optimizer: a name, a function of the learning rate, or a transformation.

        Args:
          optimizer: one of these; None for the config's.
          fields: the paths of fields that are set too.

        Raises:
          InputError: a field has no effect on an optimizer made in Python.
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
        """Returns the name of a network, under which an object is kept."""
        if isinstance(network, str):
            return networks.canonical(network)
        if network == ():
            raise errors.InputError(f"{role} is an empty tuple, but must be a name or a network")
        whole = (
            network[-1 if callable(network[-1]) else 0] if isinstance(network, tuple) else network
        )
        name = getattr(whole, "name", None) or getattr(whole, "__name__", type(whole).__name__)
        if isinstance(network, type | functools.partial):
            raise errors.InputError(
                f"{role} is a class or a factory ({network}): call it, for example with num_classes"
            )
        return self._named(str(name), networks.adapt(network, str(name)), role)

    def _named(self, name: str, network: Network, role: str) -> str:
        """Keeps a network under a name that no other network has, and returns the name."""
        is_students = role == "teacher" and name == self.config.student.model
        if self._networks.get(name, None if is_students else network) is not network:
            name = f"{name} ({role})"
        self._networks[name] = network
        return name


def _with_variables(network: Any, role: str) -> tuple[Any, Any]:
    """Returns a network and the variables that it is paired with; None for none."""
    if not isinstance(network, tuple) or len(network) != 2 or networks.is_network(network):
        return network, None
    network, variables = network
    if not isinstance(variables, Mapping):
        raise errors.InputError(
            f"the {role}'s variables are of type {type(variables).__name__}, but must be a dict,"
            " as the network's init gives them"
        )
    return network, variables


def _check_effect(fields: Collection[str], *, takes_schedule: bool) -> None:
    """Raises an InputError for a field without effect on an optimizer made in Python."""
    for field in fields:
        _, _, name = field.partition("optimizer.")
        knows = name == "layer_decay" or (takes_schedule and name.partition(".")[0] in _OF_RATES)
        if name and not knows:
            raise errors.InputError(
                f"{field} has no effect on an optimizer that was made in Python: say it there, or"
                " pass a function of the learning rate for fields of the schedule"
            )


def _is_file(network: Any) -> bool:
    """Returns True if a network is network by the path of its weights."""
    if isinstance(network, os.PathLike):
        return True
    if not isinstance(network, str) or networks.canonical(network) in networks.MODELS:
        return False
    return os.sep in network or bool(network and files.split(pathlib.Path(network))[0].exists())


def _weighted(name: str, value: Any) -> tuple[float, Any]:
    """Returns the weight of an objective, and the object; None for one that is named."""
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


def _objective(name: str, objective: Any) -> Objective:
    if name in registry.RECORDS:
        raise errors.InputError(
            f"an objective that was made in Python has the name of one of ours, '{name}'; rename it"
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
