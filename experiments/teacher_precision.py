"""What a frozen teacher in bfloat16 sees otherwise than in float32: its classes and its relations.

    python -m experiments.teacher_precision --runs=runs/digits,runs/fashion

For the teachers of finished runs, folded and compiled as a step has them. Relations are, as RRD
takes them (arXiv 2407.12073), softmaxes over the cosine similarities of each test image's embedding
to those of the training images; their divergence is of the one in float32 from the one in bfloat16.
The table goes to <workdir>/teacher_precision.md.
"""

import datetime
import functools
import itertools
import os
import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

from experiments import machine, teacher_precision_table
from rrd_jax import errors
from rrd_jax.run_folder import report
from rrd_jax.terminal import cli, tables

_RUNS = flags.DEFINE_list("runs", [], "Workdirs of finished runs that had a teacher.")
_QUERIES = flags.DEFINE_integer("queries", 2_000, "Test images, at most.", lower_bound=1)
_MEMORY = flags.DEFINE_integer("memory", 16_384, "Training images, at most.", lower_bound=11)
_WORKDIR = flags.DEFINE_string("workdir", "runs/teacher-precision", "Results.")
_BATCH = 100
_Images = tuple[list[np.ndarray], int]  # batches, and how many of their images count


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
    memory, shown = _first(dataset.train, _MEMORY.value)
    rows = []
    for teacher in listed:
        loaded = teachers.load_single(folder, teacher)
        asked = (images, len(labels)), (memory, len(shown))
        answers = [_ask(loaded, half, *asked) for half in (False, True)]
        found = teacher_precision_table.compare(*answers, labels)
        rows.append([f"{loaded.name}, {fields['data']['name']}", len(labels), len(shown), *found])
    return rows


def _first(split: Any, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Batches of the first images of a split, the last one filled up; and the labels of these."""
    count = min(count, len(split))
    batches = list(itertools.islice(split.test_batches(_BATCH), -(-count // _BATCH)))
    labels = np.concatenate([batch["label"] for batch in batches])[:count]
    return [batch["image"] for batch in batches], labels


def _ask(
    loaded: Any, half: bool, images: _Images, memory: _Images
) -> teacher_precision_table.Answers:
    """What a teacher says of the images, and of those of the memory."""
    import jax
    import jax.numpy as jnp

    from rrd_jax import parallel
    from rrd_jax.cpu import compiling
    from rrd_jax.evaluation import predictions
    from rrd_jax.teacher import fold

    network = loaded.network.clone(dtype=jnp.bfloat16 if half else jnp.float32)
    folding = functools.partial(fold.fold, network, image_shape=images[0][0].shape[1:])
    variables = jax.jit(folding)(loaded.variables)
    apply = predictions.make_apply(network)

    def look(variables, images):
        outputs = apply(variables, loaded.normalize(images))
        return outputs.logits, outputs.embedding

    look = compiling.for_mesh(look, parallel.make_mesh(jax.devices()[:1]), onednn=True)

    def of_all(batches: list[np.ndarray], count: int) -> list[np.ndarray]:
        parts = [look(variables, batch) for batch in batches]
        return [np.concatenate(part)[:count] for part in zip(*parts, strict=True)]

    logits, embedding = of_all(*images)
    return teacher_precision_table.Answers(logits, embedding, of_all(*memory)[1])


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
