"""Config files of `configs/`, and small jobs of `configs/digits.py`, for tests."""

import contextlib
import json
import pathlib
import runpy
import signal
from typing import Any

import pytest
from ml_collections import ConfigDict

from rrd_jax import errors, parallel
from rrd_jax.config import parse
from rrd_jax.jobs import job, loop
from rrd_jax.jobs.progress import Result
from rrd_jax.run_folder import metrics_writer, workdir

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


def get_config(name: str, argument: str = "") -> ConfigDict:
    """Returns the config that a config file builds for a config string."""
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](argument)


def digits(
    argument: str = "smoke,resnet8-resnet8",
    objectives: dict[str, Any] | None = None,
    **fields: Any,
) -> ConfigDict:
    """Returns the config of a job on 24 random images of 8x8 pixels.

    Args:
      argument: the config string of configs/digits.py.
      objectives: overrides of the method's objectives; None to keep them.
      **fields: values of config fields by path, such as "train.epochs".
    """
    config = get_config("digits", argument)
    config.lock()
    config.baseline = False
    if objectives:
        with config.unlocked():
            config.objectives = objectives
    config.update_from_flattened_dict(fields)
    return config


def run(config: ConfigDict, folder: pathlib.Path, **options: Any) -> list[Result]:
    """Runs the job of a config; returns its results."""
    plan = parse(config, recorded=workdir.recorded_fields(folder))
    return job.run(plan, folder, **options)


def interrupt(config: ConfigDict, folder: pathlib.Path, calls: int) -> None:
    """Interrupts a job after a number of dispatches, as Ctrl-C does; nothing is saved.

    Dispatches of the stages before distillation count too.
    """
    original, left = loop.dispatches, calls

    def dispatches(*arguments):
        nonlocal left
        for dispatch in original(*arguments):
            if not left:
                raise KeyboardInterrupt
            left -= 1
            yield dispatch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "dispatches", dispatches)
        with pytest.raises(KeyboardInterrupt):
            run(config, folder)


def preempt(config: ConfigDict, folder: pathlib.Path, step: int) -> None:
    """Preempts a job after a step, as SIGTERM does; the state is saved."""
    stop = contextlib.nullcontext(lambda at: signal.SIGTERM if at >= step else 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "stop_requests", lambda: stop)
        with pytest.raises(errors.PreemptedError):
            run(config, folder)


def check_resume(config: ConfigDict, folder: pathlib.Path) -> None:
    """Asserts that a smoke job of 6 steps, resumed after step 4, equals an uninterrupted job."""
    uninterrupted, resumed = folder / "uninterrupted", folder / "resumed"
    run(config, uninterrupted)
    preempt(config, resumed, step=4)
    run(config, resumed)
    assert rows(resumed) == rows(uninterrupted)
    assert digests(resumed, 6) == digests(uninterrupted, 6)


def rows(folder: pathlib.Path) -> list[dict[str, float]]:
    """Returns the metrics of each epoch, without the speeds."""
    speeds = metrics_writer.speeds(1, 1, 1, 1, wait_share=0, start=0)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name not in speeds} for line in lines]


def digests(folder: pathlib.Path, step: int) -> dict[str, str]:
    """Returns the digest of each array of a checkpoint."""
    path = folder / "checkpoints" / str(step) / "meta" / "metadata"
    return json.loads(path.read_text())["digests"]
