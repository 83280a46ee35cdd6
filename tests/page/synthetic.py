"""Writes the folder of a study with synthetic results, for tests of pages.

The format is that of experiments.study; the numbers come from a seeded generator.
"""

import itertools
import json
import math
import pathlib

import numpy as np
import threadpoolctl

from experiments import measures
from experiments.measures import storage

EPOCHS = 40
METHODS = {"ce": 96.0, "kd": 96.2, "crd": 96.9, "rrd": 97.4, "rrd+kd": 97.5, "at": 95.1}
PAIRS = ("resnet56-resnet20", "resnet110-resnet32", "wrn_40_2-wrn_16_2", "vgg13-mobilenetv2")
TEMPERATURES = (0.02, 0.05, 0.1, 0.2)
SHARES = (5, 10, 25, 50, 100)
_PROVENANCE = {
    "command": "python -m experiments.study --study=experiments/studies/made.py --workdir=made",
    "version": "0.1.0",
    "commit": "acd045d0c0ffee",
    "date": "2026-11-26T05:00:00+00:00",
    "host": "somewhere",
    "devices": "1 cpu cpu",
    "python": "3.13.5",
    "libraries": {"jax": "0.12.0", "numpy": "2.5.5"},
}


def study(folder: pathlib.Path) -> pathlib.Path:
    """Writes a study with four grids; one run failed, and one is missing."""
    writer = _Writer(folder)
    grids = [
        writer.grid(
            "methods",
            "Which method makes the best student?",
            [_factor("method", METHODS)],
            range(5),
            lambda levels: METHODS[levels["method"]],
            baseline="ce",
            compared="method",
            published=[[["kd"], 96.4], [["crd"], 96.5]],
        ),
        writer.grid(
            "pairs",
            "Does the gain hold for other networks?",
            [_factor("pair", PAIRS), _factor("method", list(METHODS)[:4])],
            range(3),
            lambda levels: METHODS[levels["method"]] - 2 * PAIRS.index(levels["pair"]),
            baseline="ce",
            compared="method",
        ),
        writer.grid(
            "temperatures",
            "Which temperatures?",
            [
                _factor("teacher", TEMPERATURES, "temperature of the teacher", log=True),
                _factor("student", TEMPERATURES, "temperature of the student", log=True),
            ],
            range(2),
            _temperature_mean,
            shown="map",
        ),
        writer.grid(
            "images",
            "How good are methods with few images?",
            [
                _factor("share", SHARES, "share of the training images (%)", log=True),
                _factor("method", ["ce", "kd", "rrd"]),
            ],
            range(3),
            lambda levels: METHODS[levels["method"]] - 30 / float(levels["share"]) ** 0.5,
            baseline="ce",
            compared="method",
            shown="curve",
        ),
    ]
    plan = {
        "name": "made",
        "title": "Six methods on synthetic digits",
        "about": "Nothing was trained: the results are drawn at random.",
        "provenance": _PROVENANCE,
        "grids": grids,
    }
    (folder / "study.json").write_text(json.dumps(plan))
    fail(folder, "methods-at-seed1", "the loss is nan at step 12 (at)")
    (folder / "runs" / "pairs-vgg13-mobilenetv2-rrd-seed2" / "metrics.jsonl").unlink()
    return folder


def fail(folder: pathlib.Path, run: str, error: str) -> None:
    """Truncates a run after a few epochs, and records an error."""
    home = folder / "runs" / run
    rows = (home / "metrics.jsonl").read_text().splitlines(keepends=True)
    (home / "metrics.jsonl").write_text("".join(rows[:7]))
    (home / "failed.json").write_text(json.dumps({"error": error}))


def measure(folder: pathlib.Path, runs: tuple[str, ...], count: int = 40) -> None:
    """Writes the measures of runs, computed from random images and logits."""
    rng = np.random.default_rng(1)
    labels = np.arange(count).astype(np.int32) % 10
    images = rng.integers(0, 256, (count, 8, 8, 1), np.uint8)
    teacher = _outputs(rng, labels, 4.0)
    for run in runs:
        outputs = measures.RunOutputs(
            images, labels, tuple("0123456789"), _outputs(rng, labels, 2.0), teacher
        )
        for name, function in measures.MEASURES.items():
            # Several threads are slow on a busy machine.
            with threadpoolctl.threadpool_limits(1):
                values = storage.plain(function(outputs))
            storage.write(storage.path(folder / "runs" / run, name), values, {"student": ""})


def _outputs(rng, labels, skill):
    logits = rng.normal(0, 1, (len(labels), 10)) + skill * np.eye(10)[labels]
    return measures.NetworkOutputs(logits.astype(np.float32), logits.astype(np.float32))


def small(
    folder: pathlib.Path,
    final_values: dict[str, list[float]],
    baseline: str = "",
    failed: tuple[str, ...] = (),
    **grid,
) -> pathlib.Path:
    """Writes a study with one grid of methods, and a final value for each method and seed."""
    writer = _Writer(folder)
    seeds = range(max(map(len, final_values.values())))
    entry = writer.grid(
        "methods",
        "Which method makes the best student?",
        [_factor("method", list(final_values))],
        seeds,
        lambda levels: 50.0,
        compared="method",
        baseline=baseline,
        **grid,
    )
    for cell in entry["cells"]:
        home = folder / "runs" / cell["run"] / "metrics.jsonl"
        rows = [json.loads(line) for line in home.read_text().splitlines()]
        values = final_values[cell["levels"]["method"]]
        if cell["seed"] < len(values):
            rows[-1]["test/top1"] = values[cell["seed"]]
            home.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            home.unlink()
    for run in failed:
        fail(folder, run, "the loss is nan")
    plan = {
        "name": "small",
        "title": "Small",
        "about": "",
        "provenance": _PROVENANCE,
        "grids": [entry],
    }
    (folder / "study.json").write_text(json.dumps(plan))
    return folder


def _temperature_mean(levels):
    distance = math.log(float(levels["teacher"]) / 0.02) ** 2
    return 97.4 - 0.3 * distance - 0.4 * math.log(float(levels["student"]) / 0.1) ** 2


def _factor(name, levels, label="", *, log=False):
    is_number = not isinstance(next(iter(levels)), str)
    return {
        "name": name,
        "label": label or name,
        "log": log,
        "levels": [
            {"name": f"{level:g}" if is_number else level, "value": level if is_number else None}
            for level in levels
        ],
    }


class _Writer:
    """A writer of runs with random values."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._rng = folder, np.random.default_rng(0)

    def grid(self, name, question, factors, seeds, mean, **rest):
        cells = []
        names = [[level["name"] for level in factor["levels"]] for factor in factors]
        for combination in itertools.product(*names):
            levels = {f["name"]: level for f, level in zip(factors, combination, strict=True)}
            for seed in seeds:
                run = "-".join([name, *combination, f"seed{seed}"])
                self._run(run, mean(levels), seed)
                cells.append(
                    {
                        "levels": levels,
                        "seed": seed,
                        "run": run,
                        "label": "/".join([name, *combination, f"seed{seed}"]),
                        "epochs": EPOCHS,
                    }
                )
        defaults = {
            "baseline": "",
            "compared": "",
            "published": [],
            "shown": "table",
            "metric": "test/top1",
            "best": "best/top1",
            "measures": [],
            "config": "configs/digits.py",
            "fields": {},
        }
        names = {"name": name, "question": question, "factors": factors, "seeds": list(seeds)}
        return defaults | names | rest | {"cells": cells}

    def _run(self, run, mean, seed):
        home = self._folder / "runs" / run
        home.mkdir(parents=True)
        last = mean + 0.25 * math.sin(2.4 * seed) + self._rng.normal(0, 0.12)
        rows, best = [], (0.0, 0)
        for epoch in range(1, EPOCHS + 1):
            done = epoch / EPOCHS
            noise = self._rng.normal(0, 0.4) * (1 - done)
            top1 = last - (last - 10) * math.exp(-7 * done) * (1 - done) + noise
            best = max(best, (top1, epoch))
            relational = 6 * math.exp(-done) + self._rng.normal(0, 0.02)
            rows.append(
                {
                    "epoch": epoch,
                    "step": 16 * epoch,
                    "learning_rate": 0.05 * 0.1 ** (int(done > 0.6) + int(done > 0.8)),
                    "train/loss": relational + math.exp(-4 * done),
                    "train/loss/ce": math.exp(-4 * done),
                    "train/loss/rrd": relational,
                    "train/top1": min(100.0, top1 + 2),
                    "test/top1": top1,
                    "test/top5": min(100.0, top1 + 4),
                    "test/loss": 2.3 * math.exp(-5 * done) + 0.12,
                    "test/agreement": top1 + 0.5,
                    "best/top1": best[0],
                    "best/epoch": best[1],
                    "images_per_second": 1700 + self._rng.normal(0, 40),
                    "step_milliseconds": 36.0,
                    "model_teraflops_per_second": 0.008,
                }
            )
        (home / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
