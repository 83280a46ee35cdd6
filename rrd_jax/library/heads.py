"""A student whose embedding passes the trained head of an objective."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import checkpoints, errors
from rrd_jax import config as configs
from rrd_jax.library.loaded_network import Loaded
from rrd_jax.objectives import ObjectiveState
from rrd_jax.objectives.parts import projections
from rrd_jax.teacher import wrappers
from rrd_jax.weights import files


def with_head(
    student: Loaded, path: pathlib.Path, fields: Mapping[str, Any] | None, name: str
) -> Loaded:
    """Returns the student with the head of an objective applied to its embedding.

    Args:
      student: the student of a run.
      path: path of the run, with the name of a checkpoint.
      fields: the config in the run folder; None for a folder without a run.
      name: name of the objective, followed by the index of a teacher if there are several, such as
        "rrd[0]".

    Raises:
      InputError: the folder has no run, or the objective has no head.
    """
    folder, which = files.split(path)
    if not fields:
        raise errors.InputError(
            f"head is '{name}', but {folder} is not a run; omit head, or pass a workdir"
        )
    term, number = _parsed(name)
    state, _ = checkpoints.load_objective(folder, term, which)
    training = configs.training_of(fields)
    objective = training.create_objectives(examples=training.batch_size)[term]
    if objective.head is None:
        raise errors.InputError(
            f"head is '{name}', but the objective has no head behind the embedding; omit head"
        )
    state = _of_teacher(state, term, number)
    head, is_unit = objective.head(jax.tree.map(jnp.asarray, state))
    network, variables = wrappers.projected(
        student.network, student.variables, projections.layers(head), is_unit=is_unit
    )
    about = dataclasses.replace(student.about, training={**student.about.training, "head": name})
    return dataclasses.replace(student, network=network, variables=variables, about=about)


def _parsed(name: str) -> tuple[str, int | None]:
    """Splits "NAME[INDEX]" into the name of an objective and the index of a teacher, or None."""
    match = re.fullmatch(r"(.*)\[(\d+)\]", name)
    return (match[1], int(match[2])) if match else (name, None)


def _of_teacher(state: ObjectiveState, term: str, number: int | None) -> ObjectiveState:
    """Returns the part of an objective's state that belongs to one teacher."""
    parts = (state.params, state.frozen)
    shared = [part for part in parts if isinstance(part, Mapping) and "teacher0" in part]
    if not shared:
        if number is None:
            return state
        raise errors.InputError(
            f"head is '{term}[{number}]', but the run has only one head; use '{term}'"
        )
    teachers = len(shared[0])
    if number is None or number >= teachers:
        name = term if number is None else f"{term}[{number}]"
        raise errors.InputError(
            f"head is '{name}', but the run has one head for each of {teachers} teachers; use"
            f" '{term}[0]' to '{term}[{teachers - 1}]'"
        )
    return ObjectiveState(*(part and part[f"teacher{number}"] for part in state))
