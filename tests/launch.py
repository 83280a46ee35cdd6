"""Launch files of `configs/`, and small jobs of the digits' one, for tests."""

import contextlib
import json
import pathlib
import runpy
from typing import Any

import pytest
from ml_collections import ConfigDict

from rrd_jax import errors, parallel
from rrd_jax.config import parse
from rrd_jax.jobs import job, loop
from rrd_jax.jobs.progress import Result
from rrd_jax.run_folder import metrics_writer

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


def get_config(name: str, argument: str = "") -> ConfigDict:
    """What a launch file makes of the argument behind its colon."""
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](argument)


def digits(
    argument: str = "smoke,resnet8-resnet8",
    objectives: dict[str, Any] | None = None,
    **fields: Any,
) -> ConfigDict:
    """A job on 24 random images of 8x8 pixels.

    Args:
      argument: of configs/digits.py.
      objectives: instead of the method's.
      **fields: by their path, such as "train.epochs".
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
    """The results of a config's job."""
    return job.run(parse(config), folder, **options)


def interrupt(config: ConfigDict, folder: pathlib.Path, calls: int) -> None:
    """Breaks a job off before its run makes one more call to the devices, as Ctrl-C does.

    Nothing is saved. Calls of the stages before distillation count too.
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
    """Stops a job's run after a step, as SIGTERM does: the state is saved."""
    stop = contextlib.nullcontext(lambda at: at >= step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "stop_requests", lambda: stop)
        with pytest.raises(errors.PreemptedError):
            run(config, folder)


def check_goes_on(config: ConfigDict, folder: pathlib.Path) -> None:
    """Compares a smoke job of 6 steps that is stopped after the fourth with an unbroken one."""
    whole, broken = folder / "whole", folder / "broken"
    run(config, whole)
    preempt(config, broken, step=4)
    run(config, broken)
    assert rows(broken) == rows(whole)
    assert digests(broken, 6) == digests(whole, 6)


def rows(folder: pathlib.Path) -> list[dict[str, float]]:
    """The figures of each epoch, without how long it took."""
    speeds = metrics_writer.speeds(1, 1, 1, 1, wait_share=0, start=0)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name not in speeds} for line in lines]


def digests(folder: pathlib.Path, step: int) -> dict[str, str]:
    """Every array of a checkpoint, by digest."""
    path = folder / "checkpoints" / str(step) / "meta" / "metadata"
    return json.loads(path.read_text())["digests"]
