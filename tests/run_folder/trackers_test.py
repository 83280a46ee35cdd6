"""Trackers: rows of killed and resumed runs, and libraries that fail, wait or are missing."""

import contextlib
import json
import os
import signal
import sys
import time

import pytest

from rrd_jax import config as configs
from rrd_jax import errors
from rrd_jax.config import parse
from rrd_jax.run_folder import metrics_writer
from rrd_jax.run_folder.trackers import process, writers
from rrd_jax.training.choices import ReportChoice

_LIBRARY = """
import os, pathlib, sys, time
log = pathlib.Path(os.environ["TRACKED"])
class Run:
    project, name, _next_step = "p", "n", 0
    def log(self, metrics, step):
        print("noise"), input() if {asks} else None
        {action}
        log.open("a").write(f"{{step}}\\n")
    def finish(self):
        log.open("a").write("end\\n")
def init(**arguments):
    return Run()
"""


def _row(epoch):
    return {
        "epoch": epoch,
        "step": epoch * 10,
        "train/loss": 1.0,
        "train/loss/rrd[0]": 0.5,
        "images_per_second": 1.0,
        "step_milliseconds": 1.0,
        "model_teraflops_per_second": 1.0,
        "best/epoch": 0,
    }


def _write(folder, epochs, step, names, end=None):
    report = ReportChoice(to=names)
    with contextlib.suppress(KeyboardInterrupt):
        with metrics_writer.MetricsWriter(folder, "student", step, report) as writer:
            for epoch in epochs:
                writer.row(_row(epoch), 5)
            if end:
                raise end
            writer.finish({"top1": 12.5, "label": "student", "loss": None})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder; the trackers keep their files next to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"seed": 3, "data": {"name": "digits"}}))
    return folder


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A function that installs a library of the name trackio, and returns the file of its calls."""

    def install(action="pass", asks=False):
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "trackio.py").write_text(_LIBRARY.format(action=action, asks=asks))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
        monkeypatch.setenv("TRACKED", str(tmp_path / "calls"))
        return tmp_path / "calls"

    return install


def _wandb_steps(folder, unique):
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    from rrd_jax.run_folder.trackers import wandb_run

    steps, summary = [], {}
    for file in sorted(folder.glob(f"wandb/offline-run-*-{unique}*/run-*.wandb")):
        for content in wandb_run._records(file.read_bytes()):
            record = pb.Record()
            record.ParseFromString(content)
            items = {tuple(i.nested_key) or (i.key,): i.value_json for i in record.history.item}
            steps += [int(items[("_step",)])] if items else []
            summary |= {tuple(i.nested_key) or (i.key,): i for i in record.summary.update}
    return steps, json.loads(summary[("result/top1",)].value_json)


def _mlflow_steps(folder, unique):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"file:{folder}/mlruns")
    experiment = client.get_experiment_by_name("rrd_jax").experiment_id
    (found,) = client.search_runs([experiment], f"tags.`rrd_jax.run` = '{unique}'")
    assert found.data.params["data.name"] == "digits"
    assert found.info.status == "FINISHED"
    histories = [client.get_metric_history(found.info.run_id, name) for name in found.data.metrics]
    (steps,) = {tuple(entry.step for entry in history) for history in histories}
    return list(steps), float(found.data.tags["result.top1"])


def _trackio_steps(folder, unique):
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    *rows, summary = SQLiteStorage.get_logs("rrd_jax", f"run-{unique}")
    return [row["step"] for row in rows], summary["result/top1"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "read"),
    [("wandb", _wandb_steps), ("mlflow", _mlflow_steps), ("trackio", _trackio_steps)],
)
def test_a_killed_and_resumed_run_is_one_run_with_each_row_once(name, read, run, monkeypatch):
    pytest.importorskip(name)
    if not (child := os.fork()):
        _write(run, [1, 2, 3], 0, (name,), _Killed())
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    unique = json.loads((run / "trackers.json").read_text())["id"]
    if name == "trackio":
        sys.modules.pop("trackio", None)
        monkeypatch.setattr("trackio.utils.TRACKIO_DIR", run.parent / "trackio", raising=False)
    # The checkpoint of the third epoch is lost.
    _write(run, [3, 4, 5], 20, (name,))
    assert json.loads((run / "trackers.json").read_text())["id"] == unique
    assert read(run.parent, unique) == ([10, 20, 30, 40, 50], 12.5)


class _Killed(BaseException):
    """Kills this process when it is raised."""

    def __init__(self):
        super().__init__()

    def __getattribute__(self, name):
        os.kill(os.getpid(), signal.SIGKILL)
