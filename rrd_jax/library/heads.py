"""The head that an objective trained behind a student's embedding, kept after training."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import checkpoints, errors
from rrd_jax import config as configs
from rrd_jax.convert import files
from rrd_jax.library.loaded import Loaded
from rrd_jax.teacher import wrapped


def keep(
    student: Loaded, path: pathlib.Path, fields: Mapping[str, Any] | None, name: str
) -> Loaded:
    """A student whose embedding is what an objective compared with the teacher's.

    Args:
      student: of a run.
      path: of the run, with the checkpoint that is chosen.
      fields: the config that the run's folder keeps; None where it is no run.
      name: of the objective.

    Raises:
      InputError: it is no run, or the objective has no head there.
    """
    folder, which = files.split(path)
    if not fields:
        raise errors.InputError(f"head is '{name}', but {folder} is no run: nothing trained a head")
    state, _ = checkpoints.load_objective(folder, name, which)
    training = configs.training_of(fields)
    objective = training.create_objectives(examples=training.batch_size)[name]
    if objective.head is None:
        raise errors.InputError(
            f"head is '{name}', but that objective has no head behind the embedding: leave it out"
        )
    parts = (state.params, state.frozen)
    if any(isinstance(part, Mapping) and "teacher0" in part for part in parts):
        raise errors.InputError(
            f"head is '{name}', but with several teachers there is one for each: leave it out"
        )
    layers, is_unit = objective.head(jax.tree.map(jnp.asarray, state))
    network, variables = wrapped.projected(
        student.network, student.variables, layers, is_unit=is_unit
    )
    about = dataclasses.replace(student.about, training={**student.about.training, "head": name})
    return dataclasses.replace(student, network=network, variables=variables, about=about)
