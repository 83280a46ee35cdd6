"""Students with the trained head of an objective, and with class vectors as their classifier."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import checkpoints, errors, networks
from rrd_jax import config as configs
from rrd_jax.library.loaded_network import Loaded
from rrd_jax.objectives import ObjectiveState
from rrd_jax.objectives.parts import projections
from rrd_jax.teacher import class_vectors, wrappers
from rrd_jax.weights import files


def with_head(
    student: Loaded, path: pathlib.Path, fields: Mapping[str, Any] | None, names: str
) -> Loaded:
    """Returns the student with the heads of an objective applied to its embedding and patches.

    With the heads of several teachers, the outputs are unchanged, and exported files also return
    the vectors of each, as `embed_0` for embed[0]; backbones also its patches, `embed_0_patches`.

    Args:
      student: the student of a run.
      path: path of the run, with the name of a checkpoint.
      fields: the config in the run folder; None for a folder without a run.
      names: name of the objective, followed by the number of a teacher if there are several, such
        as "rrd[0]"; or several of them, separated by commas.

    Raises:
      InputError: the folder has no run, or the objective has no head.
    """
    read = {name.strip(): _read(path, fields, name.strip()) for name in names.split(",")}
    if len(read) == 1:
        (heads,) = read.values()
    else:
        outputs = {name: re.sub(r"\[(\d+)\]", r"_\1", name) for name in read}
        heads = [
            head._replace(output=outputs[name] + "_patches" * (head.reads == "patches"))
            for name, named in read.items()
            for head in named
        ]
    network, variables = wrappers.with_heads(student.network, student.variables, heads)
    training = {**student.about.training, "head": ",".join(read)}
    about = dataclasses.replace(student.about, training=training)
    return dataclasses.replace(student, network=network, variables=variables, about=about)


def _read(
    path: pathlib.Path, fields: Mapping[str, Any] | None, name: str
) -> list[wrappers.TrainedHead]:
    """Returns the heads of an objective, which replace the outputs that they read."""
    folder, which = files.split(path)
    if not fields:
        raise errors.InputError(
            f"head is '{name}', but {folder} is not a run; omit head, or pass a workdir"
        )
    term, number = _parsed(name)
    training = configs.training_of(fields)
    objectives = training.create_objectives(examples=training.batch_size)
    needs_memory = term in objectives and objectives[term].head_needs_memory
    state, _ = checkpoints.load_objective(folder, term, which, with_memory=needs_memory)
    objective = objectives[term]
    functions = {"embedding": objective.head, "patches": objective.patch_head}
    if not any(functions.values()):
        raise errors.InputError(
            f"head is '{name}', but the objective has no head to the teacher's features, or one to"
            " standardized features, of which it compares directions only; omit head"
        )
    state = jax.tree.map(jnp.asarray, _of_teacher(state, term, number))
    heads = []
    for reads, function in functions.items():
        if function:
            head, is_unit = function(state)
            heads.append(wrappers.TrainedHead(reads, reads, projections.layers(head), is_unit))
    return heads


def with_class_vectors(network: Loaded, path: pathlib.Path, scale: float) -> Loaded:
    """Returns a network whose logits are the scaled cosines of embeddings and class vectors.

    Args:
      network: the network, with a head if there is one.
      path: file of the class vectors, see `class_vectors.read_all`.
      scale: factor of the cosines, > 0.

    Raises:
      InputError: the file cannot be read, or its vectors have another width than the embedding.
    """
    errors.check_positive(class_vectors_scale=scale)
    rows, names = class_vectors.read_all(path, "class_vectors")
    shape = network.about.preprocessing.image_shape if network.about.preprocessing else None
    embedding = networks.summarize(network.network, shape).outputs.embedding if shape else ()
    width = 0 if isinstance(embedding, tuple) else embedding.shape[-1]
    if width != rows.shape[1]:
        raise errors.InputError(
            f"class_vectors in {path} has vectors of width {rows.shape[1]}, but the embedding has"
            f" width {width}; set head to the objective that compared the student with the network"
            " of these vectors, such as embed[1]"
        )
    classified = wrappers.ZeroShot(network.network, rows.shape, "embedding", scale)
    return with_classifier(network, classified, wrappers.VECTORS, rows, len(rows), names)


def with_classifier(
    network: Loaded,
    classified: wrappers.Wrapper,
    name: str,
    value: Any,
    num_classes: int,
    class_names: tuple[str, ...],
) -> Loaded:
    """Returns a network with a wrapper that computes logits from an added parameter.

    Args:
      network: the network.
      classified: the wrapper around its network.
      name: name of the added parameter.
      value: the added parameter.
      num_classes: number of classes of the wrapper.
      class_names: their names, () if unknown.
    """
    about = dataclasses.replace(network.about, num_classes=num_classes, class_names=class_names)
    return dataclasses.replace(
        network,
        network=classified,
        variables=wrappers.with_parameter(network.variables, name, value),
        num_classes=num_classes,
        about=about,
    )


def _parsed(name: str) -> tuple[str, int | None]:
    """Splits "NAME[INDEX]" into the name of an objective and the index of a teacher, or None."""
    match = re.fullmatch(r"(.*)\[(\d+)\]", name)
    return (match[1], int(match[2])) if match else (name, None)


def _of_teacher(state: ObjectiveState, term: str, number: int | None) -> ObjectiveState:
    """Returns the part of an objective's state that belongs to one teacher."""
    parts = (state.params, state.frozen)
    heads = next(
        (part for part in parts if isinstance(part, Mapping) and part and _teachers(part)), {}
    )
    if not heads:
        if number is None:
            return state
        raise errors.InputError(
            f"head is '{term}[{number}]', but the run has only one head; use '{term}'"
        )
    if number not in _teachers(heads):
        name = term if number is None else f"{term}[{number}]"
        listed = " or ".join(f"'{term}[{i}]'" for i in _teachers(heads))
        raise errors.InputError(
            f"head is '{name}', but the run has a head for each of its teachers; use {listed}"
        )
    return ObjectiveState(*(part and part[f"teacher{number}"] for part in state))


def _teachers(part: Mapping[str, Any]) -> list[int]:
    """Returns the numbers of the teachers whose states are in a part of an objective's state."""
    return [int(name[7:]) for name in part if re.fullmatch(r"teacher\d+", name)]
