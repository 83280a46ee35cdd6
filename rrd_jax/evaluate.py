"""Test figures of networks that are trained already: main's `--mode=eval`."""

import pathlib
from typing import Any

import ml_collections

from rrd_jax import errors, fit, models, report, train


def run(config: ml_collections.ConfigDict, workdir: str) -> list[dict[str, Any]]:
    """Evaluates the student in `workdir` and the config's teacher on the test split.

    The student is the newest checkpoint of a run, or a network that `rrd_jax.convert` wrote there.
    The teacher is what config.teacher.checkpoint names, or `workdir`/teacher. One may be missing.

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
    paths = {}
    if config.teacher.model:
        path = pathlib.Path(config.teacher.checkpoint or folder / "teacher")
        if config.teacher.checkpoint or path.exists():
            paths["teacher"] = path
    if (folder / "checkpoints").exists():
        paths["student"] = folder
    if not paths:
        raise errors.InputError(
            f"nothing to evaluate: {folder} holds no checkpoints; pass the --workdir of a run, or a"
            " teacher with --config.teacher.checkpoint"
        )
    train.check(config)
    setting = train.prepare(config)
    rows, reference = [], None
    for role, path in paths.items():
        model, terms = config[role].model, None
        if role == "student":
            dataset = setting.dataset
            terms = train.recipe(config, "", dataset.num_classes, len(dataset.train)).objectives
        network = train.load_network(config, model, path, setting, terms)
        found = network.tested()
        figures = fit.summary(found, reference)
        rows.append(
            {
                "run": role,
                "network": model,
                "images": len(found["label"]),
                "agreement": None,
                **figures,
                "parameters": models.count_parameters(network.variables["params"]),
                "checkpoint": str(path),
            }
        )
        reference = found["prediction"]
    print(table(rows))
    return rows


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
