"""Test figures of networks that are trained already: main's `--mode=eval`."""

import pathlib
from typing import Any

import ml_collections

from rrd_jax import errors, networks, recipes, report, runs, train


def run(config: ml_collections.ConfigDict, workdir: str) -> list[dict[str, Any]]:
    """Evaluates the student in `workdir` and the config's teacher on the test split.

    The student is the newest checkpoint of a run, or a network that `rrd_jax.convert` wrote there.
    The teacher is what config.teacher.checkpoint names, or `workdir`/teacher; several are tested
    one by one and together. Teachers, or the student, may be missing.

    Args:
      config: fields as in configs/common.py.
      workdir: of the student; nothing is written to it.

    Returns:
      A dict a network, teacher first: `run`, `network`, `images`, `top1` and `top5` in per cent,
      `loss` in nats, `agreement` of the student with the teacher in per cent or None,
      `parameters` and `checkpoint`.

    Raises:
      InputError: neither is there, or one is damaged or of another network or data set.
    """
    folder = pathlib.Path(workdir)
    chosen = zip(recipes.teachers(config), train.teacher_paths(config, folder), strict=True)
    chosen = [(one, path) for one, path in chosen if one.checkpoint or path.exists()]
    student = (folder / "checkpoints").exists()
    if not chosen and not student:
        raise errors.InputError(
            f"nothing to evaluate: {folder} holds no checkpoints; pass the --workdir of a run, or a"
            " teacher with --config.teacher.checkpoint"
        )
    train.check(config)
    setting = train.prepare(config)
    tested = [
        train.load_network(config, one.model, path, setting, dtype=one.dtype)
        for one, path in chosen
    ]
    named = [(one.model, path) for one, path in chosen]
    rows = [_row("teacher", *one) for one in zip(named, tested, strict=True)]
    teacher = None
    if tested and len(tested) == len(recipes.teachers(config)):
        teacher = train.together(config, tested, setting)
    if teacher and len(tested) > 1:
        names, paths = ("+".join(map(str, side)) for side in zip(*named, strict=True))
        rows.append(_row("teachers", (names, paths), teacher))
    if student:
        dataset = setting.dataset
        terms = recipes.from_config(config, "", dataset.num_classes, len(dataset.train)).objectives
        network = train.load_network(config, config.student.model, folder, setting, terms)
        rows.append(_row("student", (config.student.model, folder), network, teacher))
    print(table(rows))
    return rows


def _row(
    run: str,
    named: tuple[str, pathlib.Path | str],
    network: runs.Teacher,
    teacher: runs.Teacher | None = None,
) -> dict[str, Any]:
    found = network.tested()
    reference = teacher.tested()["prediction"] if teacher else None
    return {
        "run": run,
        "network": named[0],
        "images": len(found["label"]),
        "agreement": None,
        **runs.summary(found, reference),
        "parameters": networks.count_parameters(network.variables["params"]),
        "checkpoint": str(named[1]),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The figures, a row a network."""
    header = (
        "run",
        "network",
        "test images",
        "top-1",
        "top-5",
        "loss",
        "agreement with teacher",
        "parameters",
        "checkpoint",
    )
    cells = [
        (
            row["run"],
            row["network"],
            f"{row['images']:,}",
            f"{row['top1']:.2f}",
            f"{row['top5']:.2f}",
            f"{row['loss']:.4f}",
            "-" if row["agreement"] is None else f"{row['agreement']:.2f}",
            f"{row['parameters']:,}",
            row["checkpoint"],
        )
        for row in rows
    ]
    return report.table(header, cells)
