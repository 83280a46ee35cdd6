"""Prints the objectives as a table: python -m rrd_jax.objectives.

One objective with its options, built-in or custom: python -m rrd_jax.objectives --name=my:angular

Sizes are those of resnet32x4 to resnet8x4 on CIFAR-100, in batches of 64, with the options and
weights of the methods of rrd_jax.config.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from rrd_jax import networks, objectives, optim
from rrd_jax.config import methods
from rrd_jax.objectives.batch import Batch
from rrd_jax.terminal import cli, console, tables
from rrd_jax.training import state

_TEACHER, _STUDENT, _CLASSES, _IMAGE = "resnet32x4", "resnet8x4", 100, (32, 32, 3)
# Options that the trainer sets in a run.
_TRAINER = {"examples": 50_000, "batch_size": 64}


def table(names: Iterable[str] = tuple(objectives.OBJECTIVES)) -> tables.Table:
    """Returns header and rows of a table of objectives.

    The column `frozen` counts the parameters that distillation does not change.
    """
    header = (
        "name",
        "compares",
        "trained",
        "frozen",
        "memory",
        "stage before",
        "published",
        "method of that name",
    )
    terms = {name: _create(name) for name in names}
    sizes = _abstract(terms)
    rows = []
    for name, objective in terms.items():
        record = objectives.record(name)
        rows.append(
            (
                name,
                record.compares,
                f"{networks.count_parameters(sizes.params['objectives'][name]):,}",
                f"{networks.count_parameters(sizes.frozen[name]):,}",
                _memory(sizes.memory[name]),
                _stage(objective.stage),
                record.reference,
                _weights(name),
            )
        )
    return header, rows


def print_all() -> None:
    """Prints the table, and the methods that combine several objectives."""
    combined = "; ".join(f"{name} is {_weights(name)}" for name in methods.METHODS if "+" in name)
    console.print_table(*table())
    console.say(
        f"\nSizes: {_TEACHER} to {_STUDENT}, CIFAR-100, batches of 64. Join names with + to combine"
        f" objectives: {combined}."
    )


def print_one(name: str) -> None:
    """Prints the table row and the options of one objective, by name or import path.

    Raises:
      InputError: the objective is unknown, or fails on shapes; see `objectives.check`.
    """
    entry, objective = objectives.record(name), _create(name)
    index = jax.ShapeDtypeStruct((_TRAINER["batch_size"],), jnp.int32)
    image = jax.ShapeDtypeStruct((*index.shape, *_IMAGE), jnp.float32)
    student, teacher = (
        networks.summarize(networks.create(model, _CLASSES), _IMAGE).outputs
        for model in (_STUDENT, _TEACHER)
    )
    objectives.check(entry.name, objective, student, teacher, Batch(image, index, index, index))
    options = dict(methods.method(name)[entry.name])
    options.pop("factory", None)
    lines = [f"--config.objectives.{entry.name}.{key}={value}" for key, value in options.items()]
    cached = "cannot" if objective.needs_maps or objective.needs_second else "can"
    console.print_table(*table([name]))
    console.say("\n".join(["", *lines, f"The teacher's outputs {cached} be cached."]))


def _create(name: str) -> objectives.Objective:
    options = dict(methods.method(name)[objectives.record(name).name])
    options.pop("factory", None)
    del options["weight"], options["warmup"]
    options |= {key: x for key, x in _TRAINER.items() if objectives.takes(name, key)}
    return objectives.create(name, **options)


def _abstract(terms: dict[str, objectives.Objective]) -> state.TrainState:
    teacher, student = (networks.create(name, _CLASSES) for name in (_TEACHER, _STUDENT))

    def create(key):
        variables = networks.init(teacher, key, _IMAGE)
        optimizer = optim.sgd(lambda step: 0.0)
        return state.create(key, student, terms, optimizer, _IMAGE, teacher, variables)

    return jax.eval_shape(create, jax.random.key(0))


def _memory(memory: Any) -> str:
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(memory))
    return f"{size / 1e6:.3g} MB" if size else "-"


def _stage(stage: objectives.Stage | None) -> str:
    if stage is None:
        return "-"
    return f"{stage.epochs} epochs of {'the student' if stage.student else 'its own layers'}"


def _weights(name: str) -> str:
    terms = methods.METHODS.get(name) or {k: v.weight for k, v in methods.method(name).items()}
    weights = " + ".join(f"{w:g} {term}" for term, w in terms.items() if w)
    return weights + " (weight unverified)" * (name in methods.UNVERIFIED)


def main(name: str) -> None:
    """Prints one objective, or all objectives if the name is empty."""
    cli.guard(lambda: print_one(name) if name else print_all())


if __name__ == "__main__":
    _NAME = flags.DEFINE_string("name", "", "Name or import path of an objective.")
    app.run(lambda argv: main(_NAME.value), flags_parser=cli.parse_flags)
