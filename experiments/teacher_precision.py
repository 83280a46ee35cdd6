"""What a frozen teacher in bfloat16 sees otherwise than in float32: its classes and its relations.

    python -m experiments.teacher_precision --runs=runs/digits,runs/fashion

For the teachers of finished runs, folded and compiled as a step has them. Relations are, as RRD
takes them (arXiv 2407.12073), softmaxes over the cosine similarities of each test image's embedding
to those of the training images; their divergence is of the one in float32 from the one in bfloat16.
The table goes to <workdir>/teacher_precision.md.
"""

import datetime
import functools
import os
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

from experiments import machine, teacher_precision_table
from rrd_jax import cli, errors, report, tables

_RUNS = flags.DEFINE_list("runs", [], "Workdirs of finished runs that had a teacher.")
_QUERIES = flags.DEFINE_integer("queries", 2_000, "Test images, at most.", lower_bound=1)
_MEMORY = flags.DEFINE_integer("memory", 16_384, "Training images, at most.", lower_bound=11)
_WORKDIR = flags.DEFINE_string("workdir", "runs/teacher-precision", "Results.")
_BATCH = 100


def _of_run(folder: pathlib.Path) -> list[list[str]]:
    """A row for each teacher of a run."""
    from rrd_jax import config, data
    from rrd_jax.library import loading, teachers

    fields = loading.fields_of(folder)
    listed = teachers.teachers_of(folder)
    if not listed:
        raise errors.InputError(f"{folder} is no run that had a teacher")
    dataset = data.load(config.source_of(fields))
    images, labels = _first(dataset.test, _QUERIES.value)
    memory, _ = _first(dataset.train, _MEMORY.value)
    rows = []
    for teacher in listed:
        loaded = teachers.load_single(folder, teacher)
        answers = [_ask(loaded, half, images, memory) for half in (False, True)]
        found = teacher_precision_table.compare(*answers, labels)
        rows.append([f"{loaded.name}, {fields['data']['name']}", len(images), len(memory), *found])
    return rows


def _first(split: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the first examples of a split."""
    batches, images, labels = split.test_batches(_BATCH), [], []
    for batch in batches:
        images.append(batch["image"])
        labels.append(batch["label"])
        if len(images) * _BATCH >= count:
            break
    count = min(count, len(split))
    return np.concatenate(images)[:count], np.concatenate(labels)[:count]


def _ask(
    loaded: Any, half: bool, images: np.ndarray, memory: np.ndarray
) -> teacher_precision_table.Answers:
    """What a teacher says of the images, and of those of the memory."""
    import jax
    import jax.numpy as jnp

    from rrd_jax import compiling, parallel, predictions
    from rrd_jax.teacher import fold

    network = loaded.network.clone(dtype=jnp.bfloat16 if half else jnp.float32)
    variables = jax.jit(functools.partial(fold.fold, network, image_shape=images.shape[1:]))(
        loaded.variables
    )
    apply = predictions.make_apply(network)

    def look(variables, images):
        outputs = apply(variables, loaded.normalize(images))
        return outputs.logits, outputs.embedding

    look = compiling.for_mesh(look, parallel.make_mesh(jax.devices()[:1]), onednn=True)

    def of_all(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [look(variables, batch) for batch in _batches(images)]
        logits, embedding = (np.concatenate(part) for part in zip(*parts, strict=True))
        return logits[: len(images)], embedding[: len(images)]

    logits, embedding = of_all(images)
    return teacher_precision_table.Answers(logits, embedding, of_all(memory)[1])


def _batches(images: np.ndarray) -> Iterable[np.ndarray]:
    """All of one size: the last one is filled up by its first image."""
    for i in range(0, len(images), _BATCH):
        batch = images[i : i + _BATCH]
        yield np.concatenate([batch, batch[:1].repeat(_BATCH - len(batch), 0)])


def _job() -> None:
    if not _RUNS.value:
        raise errors.InputError("--runs is missing; for example --runs=runs/digits")
    rows = [row for run in _RUNS.value for row in _of_run(pathlib.Path(run))]
    text = "\n".join(
        [
            tables.markdown(
                ["teacher", "images", "memory", *teacher_precision_table.COLUMNS], rows
            ),
            "",
            f"{datetime.date.today()}, {machine.processor()}, {os.cpu_count()} cores;"
            f" {machine.versions('jax', 'jaxlib')}.",
            "",
            f"    {machine.command('experiments.teacher_precision')}",
        ]
    )
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    report.write_whole(workdir / "teacher_precision.md", text + "\n")
    print(f"\n{text}\n\nkept in {workdir}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
