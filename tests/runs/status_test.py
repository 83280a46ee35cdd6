"""The state of runs, read from their folders."""

import contextlib
import json
import os
import socket

import pytest

from rrd_jax.run_folder import workdir
from rrd_jax.runs import status
from tests.runs import run_files


def _read_runs(folder):
    """Returns the columns of each run by its name."""
    runs, unreadable = status.read(str(folder))
    assert not unreadable
    assert len({run.value("path") for run in runs}) == len(runs)
    return {run.value("name"): run.columns for run in runs}


def _read_states(folder):
    return {name: (run["state"], run["why"]) for name, run in _read_runs(folder).items()}


def test_a_finished_run_has_all_columns(tmp_path):
    run_files.write(tmp_path / "a")
    run = _read_runs(tmp_path)["a"]
    expected = {
        "role": "student",
        "pair": "resnet8x4-resnet8",
        "epoch": 3,
        "epochs": 3,
        "top1": 50.0,
        "best": 51.0,
        "best_epoch": 1,
        "state": "done",
        "why": None,
        "host": None,
    }
    assert {name: run[name] for name in expected} == expected
    assert list(_read_runs(tmp_path / "a")) == ["."]


def test_the_runs_of_a_job_and_of_a_study_have_roles(tmp_path):
    for name in ("job", "job/teacher", "job/teacher2", "job/alone", "job/scratch", "s/teachers/r"):
        run_files.write(tmp_path / name)
    assert {name: run["role"] for name, run in _read_runs(tmp_path).items()} == {
        "job": "student",
        "job/teacher": "teacher",
        "job/teacher2": "teacher",
        "job/alone": "alone",
        "job/scratch": "scratch",
        "s/teachers/r": "teacher",
    }


def test_a_linked_run_is_listed_once_and_loops_of_links_are_not_followed(tmp_path):
    run_files.write(tmp_path / "study" / "teachers" / "t")
    student = run_files.write(tmp_path / "study" / "runs" / "a")
    (student / "teacher").symlink_to("../../teachers/t")
    (student / "above").symlink_to(tmp_path, target_is_directory=True)
    (student / "itself").symlink_to(student, target_is_directory=True)
    (tmp_path / "study" / "nowhere").symlink_to(tmp_path / "missing")
    assert sorted(_read_runs(tmp_path / "study")) == ["runs/a", "teachers/t"]
    # The folder of teachers is not below this folder, so the link shows the teacher.
    assert sorted(_read_runs(tmp_path / "study" / "runs")) == ["a", "a/teacher"]


def test_folders_of_other_programs_are_not_listed(tmp_path):
    for name, content in {"hub": {"architectures": ["ResNet"]}, "null": None, "list": [1]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        (tmp_path / name / "metrics.jsonl").write_text('{"loss": 1}\n')
    run_files.write_checkpoint(tmp_path / "converted", 0, {"model": "resnet8"})
    run_files.write(tmp_path / ".hidden" / "a")
    run_files.write(tmp_path / "a" / "checkpoints" / "b")
    (tmp_path / "a" / "lock").touch()
    assert list(_read_runs(tmp_path)) == ["a"]


@pytest.mark.parametrize("file", ["config.json", "metrics.jsonl", "checkpoints/30/meta/metadata"])
@pytest.mark.parametrize("text", ["", "null", '{"student": ', "[" * 100_000, "{}", "[1]", "\0\n"])
def test_a_damaged_file_is_named(tmp_path, file, text):
    folder = run_files.write(tmp_path / "a")
    with (folder / file).open("a" if file == "metrics.jsonl" else "w") as damaged:
        damaged.write(f"{text}\n")
    state, why = _read_states(tmp_path)["a"]
    if file == "metrics.jsonl" and not text:
        assert state == "done"
    else:
        assert state == "damaged"
        assert file.removesuffix("/meta/metadata").replace("s/", " ") in why
        # The other files are read.
        assert _read_runs(tmp_path)["a"]["epoch"] == 3


def test_an_incomplete_last_line_is_not_damage(tmp_path):
    folder = run_files.write(tmp_path / "a", epochs=1)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(run_files.row(2)))
    assert _read_runs(tmp_path)["a"]["epoch"] == 2
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('\n{"epoch": 3, "step"')
    run = _read_runs(tmp_path)["a"]
    assert (run["state"], run["why"], run["epoch"]) == ("died", None, 2)
    assert len(status.read_metrics(str(folder))) == 2


def test_a_run_is_done_when_all_epochs_are_saved(tmp_path):
    run_files.backdate(run_files.write(tmp_path / "unsaved", saved=2))
    run_files.backdate(run_files.write(tmp_path / "grown", train={"epochs": 9}))
    run_files.backdate(run_files.write(tmp_path / "fresh", epochs=0))
    run_files.write(tmp_path / "deleted", saved=0)
    (run_files.backdate(run_files.write(tmp_path / "killed", saved=0)) / "checkpoints").mkdir()
    (run_files.write(tmp_path / "bare") / "metrics.jsonl").unlink()
    unsaved = ("died", "the last epoch is not saved")
    assert _read_states(tmp_path) == {
        "unsaved": unsaved,
        "grown": ("died", None),
        "fresh": ("died", None),
        "deleted": ("done", None),
        "killed": unsaved,
        "bare": ("done", None),
    }
    # The metrics are read from the checkpoint.
    assert _read_runs(tmp_path)["bare"]["top1"] == 50


def test_a_crash_report_is_named(tmp_path):
    folder = run_files.backdate(run_files.write(tmp_path / "a", epochs=1))
    (folder / "failed.json").touch()
    assert _read_states(tmp_path)["a"] == ("died", "see failed.json")
    (folder / "crash-7.txt").touch()
    assert _read_states(tmp_path)["a"] == ("died", "see crash-7.txt")


def test_a_run_is_running_while_its_process_holds_the_lock(tmp_path):
    config = run_files.config()
    folder = tmp_path / "a"
    with workdir.claim(folder, config, free=()):
        (folder / "metrics.jsonl").write_text(json.dumps(run_files.row(1)) + "\n")
        run = _read_runs(tmp_path)["a"]
        assert (run["state"], run["epoch"], run["left"]) == ("running", 1, pytest.approx(2.0))
        assert (run["process"], run["host"]) == (os.getpid(), socket.gethostname())
        with contextlib.suppress(ValueError), workdir.claim(folder, config, free=()):
            pytest.fail("reading has released the lock")
    assert _read_states(tmp_path)["a"] == ("died", None)


def test_a_running_job_names_its_unfinished_teacher(tmp_path):
    config = run_files.config()
    with (
        workdir.claim(tmp_path / "a", config, free=()),
        workdir.claim(tmp_path / "a" / "teacher", config, free=()),
    ):
        (tmp_path / "a" / "metrics.jsonl").touch()
        (tmp_path / "a" / "teacher" / "metrics.jsonl").touch()
        assert _read_states(tmp_path)["a"] == ("running", "teacher trains first")


def test_a_run_on_another_machine_is_running_if_its_files_are_recent(tmp_path):
    folder = run_files.write(tmp_path / "a", epochs=1)
    (folder / "lock").write_text("process 7 on elsewhere")
    run = _read_runs(tmp_path)["a"]
    assert (run["state"], run["process"], run["host"]) == ("running", 7, "elsewhere")
    assert "lock" in run["why"]
    run_files.backdate(folder)
    assert _read_states(tmp_path)["a"] == ("died", None)


@pytest.mark.skipif(os.getuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    run_files.write(tmp_path / "a")
    (tmp_path / "b").mkdir(mode=0)
    runs, unreadable = status.read(str(tmp_path))
    assert (len(runs), unreadable) == (1, [str(tmp_path / "b")])


def test_the_size_excludes_the_files_of_nested_runs(tmp_path):
    folder = run_files.write(tmp_path / "a")
    alone = _read_runs(tmp_path)["a"]["size"]
    run_files.write(folder / "teacher")
    (folder / "views").mkdir()
    (folder / "views" / "0").write_bytes(bytes(1000))
    assert _read_runs(tmp_path)["a"]["size"] == alone + 1000
