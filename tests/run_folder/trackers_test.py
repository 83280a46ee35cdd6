"""Trackers: rows of killed and resumed runs, and libraries that fail, wait or are missing."""

import json
import os
import signal
import subprocess
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


def _write(folder, epochs, step, names, *, killed=False):
    report = ReportChoice(to=names)
    with metrics_writer.MetricsWriter(folder, "student", step, report) as writer:
        for epoch in epochs:
            writer.row(_row(epoch), 5)
        # The tracker receives what the pipe holds.
        time.sleep(0.2 * killed)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
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
    (tracked,) = client.search_runs([experiment], f"tags.`rrd_jax.run` = '{unique}'")
    assert tracked.data.params["data.name"] == "digits"
    assert tracked.info.status == "FINISHED"
    histories = [
        client.get_metric_history(tracked.info.run_id, name) for name in tracked.data.metrics
    ]
    (steps,) = {tuple(entry.step for entry in history) for history in histories}
    return list(steps), float(tracked.data.tags["result.top1"])


def _trackio_steps(folder, unique):
    # The library reads its folder when it is imported.
    code = (
        "import json, sys; from trackio.sqlite_storage import SQLiteStorage as storage;"
        "print(json.dumps(storage.get_logs('rrd_jax', sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, f"run-{unique}"]
    *rows, summary = json.loads(subprocess.check_output(command, text=True))
    return [row["step"] for row in rows], summary["result/top1"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "read"),
    [("wandb", _wandb_steps), ("mlflow", _mlflow_steps), ("trackio", _trackio_steps)],
)
def test_a_killed_and_resumed_run_is_one_run_with_each_row_once(name, read, run):
    pytest.importorskip(name)
    if not (child := os.fork()):
        _write(run, [1, 2, 3], 0, (name,), killed=True)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    unique = json.loads((run / "trackers.json").read_text())["id"]
    # The checkpoint of the third epoch is lost.
    _write(run, [3, 4, 5], 20, (name,))
    assert json.loads((run / "trackers.json").read_text())["id"] == unique
    assert read(run.parent, unique) == ([10, 20, 30, 40, 50], 12.5)


def test_a_tracker_receives_the_earlier_rows_and_its_output_is_not_shown(run, library, capfd):
    calls = library(asks=False)
    _write(run, [1, 2], 0, ())
    _write(run, [3], 20, ("trackio",))
    assert calls.read_text().split() == ["10", "20", "30", "30", "end"]
    out, err = capfd.readouterr()
    assert "trackio: project p, run n" in out
    assert "noise" not in out + err


@pytest.mark.parametrize(
    ("action", "asks", "message"),
    [
        ("raise ValueError('no answer from https://me:secret@host\\nsecond')", False, "no answer"),
        ("sys.exit(3)", False, "SystemExit"),
        ("os._exit(9)", False, "ended with code 9"),
        ("pass", True, "EOFError"),
    ],
)
def test_a_tracker_that_fails_is_one_warning(run, library, capsys, action, asks, message):
    library(action, asks)
    _write(run, [1, 2, 3], 0, ("trackio",))
    out = capsys.readouterr().out
    assert out.count("warning:") == 1
    assert message in out
    assert "secret" not in out
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_rows_that_failed_are_reported_later(run, library):
    calls = library("if step == 10 and not log.exists(): log.touch(); 1 / 0")
    _write(run, [1, 2, 3], 0, ("trackio",))
    assert calls.read_text().split() == ["10", "20", "30", "30", "end"]


def test_a_tracker_that_waits_holds_up_neither_rows_nor_the_end(run, library, capsys, monkeypatch):
    library("time.sleep(60)")
    monkeypatch.setattr(process, "_PATIENCE", 0.5)
    start = time.monotonic()
    _write(run, range(1, 400), 0, ("trackio",))
    assert time.monotonic() - start < 5
    assert "within 0.5 seconds" in capsys.readouterr().out


def test_trackers_that_wait_share_the_time_after_the_last_epoch(run, library, capsys, monkeypatch):
    library("time.sleep(60)")
    monkeypatch.setattr(process, "_PATIENCE", 1.0)
    start = {"project": "p", "name": "n", "group": "g", "order": 0, "rows": [], "config": {}}
    trackers = [process.Process("trackio", name, start | {"id": name}) for name in "abc"]
    for tracker in trackers:
        tracker.row(_row(1))
        tracker.end(None, None)
    begin = time.monotonic()
    for tracker in trackers:
        tracker.close()
    assert time.monotonic() - begin < 2
    assert capsys.readouterr().out.count("within 1 seconds") == 3


def test_a_new_run_in_an_old_folder_is_a_new_run_of_the_tracker(run, library):
    library()
    _write(run, [1, 2], 0, ("trackio",))
    first = (run / "trackers.json").read_text()
    _write(run, [1], 0, ("trackio",))
    assert (run / "trackers.json").read_text() != first


def test_the_runs_of_a_job_are_a_group(run):
    teacher = run / "teacher"
    teacher.mkdir()
    names = [writers._identity(ReportChoice(), f, writers._job_folder(f)) for f in (run, teacher)]
    assert [name.name for name in names] == ["run", "run/teacher"]
    assert {(name.group, name.project) for name in names} == {("run", "rrd_jax")}
    assert names[0].id != names[1].id


def test_without_tensorboard_no_event_files_are_written(run):
    _write(run, [1], 0, ())
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "metrics.jsonl"]


@pytest.mark.parametrize("value", [("wandb", "mlflow"), ("wandb,mlflow",), "wandb, mlflow"])
def test_names_of_trackers_are_separated_by_commas(value):
    config = configs.defaults()
    config.student.model = "resnet8"
    config.objectives = {"ce": {}}
    config.report.to = value if isinstance(value, tuple) else (value,)
    assert parse(config).student.training.report.to == ("wandb", "mlflow")


def test_a_missing_library_is_reported_before_the_start(monkeypatch):
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UnavailableError, match=r"rrd_jax\[mlflow\]"):
        writers.check(ReportChoice(to=("tensorboard", "mlflow")))
