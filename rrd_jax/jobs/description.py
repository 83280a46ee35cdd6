"""Description of a run for the log, before its first step."""

import math
from collections.abc import Iterator

import numpy as np

from rrd_jax import networks
from rrd_jax.jobs.run import Run


def describe(run: Run) -> list[str]:
    """Returns lines about the student, its loss, the teacher cache and compared feature maps."""
    training, recipe = run.training, run.recipe
    terms = " + ".join(f"{term.weight:g} {name}" for name, term in recipe.terms.items())
    lines = [
        f"{training.network.model}, {run.parameters:,} parameters, loss {terms},"
        f" epochs {training.epochs}, steps per epoch {run.steps_per_epoch},"
        f" batch size {training.batch_size},"
        f" {np.dtype(recipe.student.dtype).name} on {run.mesh.size}"
        f" {run.mesh.devices.flat[0].device_kind}"
    ]
    if isinstance(recipe.student, networks.CustomNetwork):
        lines.append(_describe_custom_student(run))
    if frozen := training.frozen(recipe.student, run.dataset.image_shape):
        lines.append(_describe_frozen(run, frozen))
    if run.cache.reason:
        lines.append(run.cache.reason)
    return [*lines, *_describe_pairs(run)]


def _describe_custom_student(run: Run) -> str:
    summary = networks.summarize(run.recipe.student, run.dataset.image_shape)
    outputs = summary.outputs
    width = "none" if isinstance(outputs.embedding, tuple) else outputs.embedding.shape[-1]
    return (
        f"{summary.macs:,} multiply-adds per image; embedding {width}, maps"
        f" {networks.describe_maps(outputs.maps)}"
    )


def _describe_frozen(run: Run, frozen: frozenset[str]) -> str:
    shapes = networks.named_shapes(run.program.abstract.params["student"])
    count = sum(math.prod(shapes[name]) for name in frozen)
    modules = dict.fromkeys(name.split("/")[0] for name in shapes if name in frozen)
    return f"{count:,} parameters and their running statistics are frozen: {', '.join(modules)}"


def _describe_pairs(run: Run) -> Iterator[str]:
    """Yields the sizes of compared feature maps, one line per objective."""
    for name, objective in run.recipe.objectives.items():
        if not objective.taps:
            continue
        student, teacher = (
            networks.summarize(network, run.dataset.image_shape).outputs
            for network in (run.recipe.student, run.teacher_network)
        )
        sizes = [
            " - ".join("x".join(map(str, tap.shape[1:])) for tap in pair)
            for pair in objective.taps(student, teacher)
        ]
        yield f"{name} compares feature maps (student - teacher): {', '.join(sizes)}"
