"""What is seen of a run's folder, and what is left alone."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest

from rrd_jax.run_folder import workdir
from rrd_jax.runs import locks, reading
from tests.runs import made


def _runs(folder):
    """{name: run}."""
    runs, unreadable = reading.read(str(folder))
    assert not unreadable
    assert len({run.place.name for run in runs}) == len(runs)
    return {run.place.name: run for run in runs}


def _only(folder):
    (run,) = _runs(folder).values()
    return run


def test_a_finished_run_is_done(tmp_path):
    made.run(tmp_path / "a")
    run = _runs(tmp_path)["a"]
    assert (run.state, run.why, run.epoch, run.epochs) == ("done", "", 3, 3)
    assert run.row["test/top1"] == 50
    assert run.place.role == "student"
    assert run.seconds_per_epoch == pytest.approx(1.0)


def test_the_folder_itself_may_be_a_run(tmp_path):
    made.run(tmp_path / "a")
    assert list(_runs(tmp_path / "a")) == ["."]


def test_the_others_of_a_job_are_listed_with_their_roles(tmp_path):
    made.run(tmp_path / "job")
    made.run(tmp_path / "job" / "teacher", teacher={"model": ""})
    made.run(tmp_path / "job" / "teacher2", teacher={"model": ""})
    made.run(tmp_path / "job" / "alone", method="ce")
    made.run(tmp_path / "job" / "scratch")
    made.run(tmp_path / "study" / "teachers" / "resnet8x4")
    stage = made.run(tmp_path / "job" / "before-ft", epochs=1)
    (stage / "config.json").unlink()
    (stage / "lock").unlink()
    (stage / "model.json").write_text('{"training": {"epochs": 1}}')
    runs = _runs(tmp_path)
    assert {name: run.place.role for name, run in runs.items()} == {
        "job": "student",
        "job/teacher": "teacher",
        "job/teacher2": "teacher",
        "job/alone": "alone",
        "job/scratch": "scratch",
        "job/before-ft": "stage",
        "study/teachers/resnet8x4": "teacher",
    }
    assert {run.state for run in runs.values()} == {"done"}
    assert runs["job/before-ft"].config["method"] == "rrd"


def test_a_link_to_a_run_lists_it_once_and_a_loop_ends(tmp_path):
    made.run(tmp_path / "study" / "teachers" / "t")
    student = made.run(tmp_path / "study" / "runs" / "a")
    (student / "teacher").symlink_to("../../teachers/t")
    (student / "above").symlink_to(tmp_path, target_is_directory=True)
    (student / "itself").symlink_to(student, target_is_directory=True)
    (tmp_path / "study" / "nowhere").symlink_to(tmp_path / "missing")
    assert sorted(_runs(tmp_path / "study")) == ["runs/a", "teachers/t"]
    # From where the teachers are out of sight, a link shows the one that it leads to.
    runs = _runs(tmp_path / "study" / "runs")
    assert sorted(runs) == ["a", "a/teacher"]
    assert runs["a/teacher"].place.role == "teacher"


def test_what_is_no_run_is_not_listed(tmp_path):
    for name, content in {
        "hub": {"architectures": ["ResNet"], "num_labels": 10},
        "null": None,
        "list": [1],
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        (tmp_path / name / "model.safetensors").touch()
    made.checkpoint(tmp_path / "converted", 0, {"model": "resnet8"})
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "config.json").write_text('{"architectures": []}')
    (tmp_path / "trainer" / "metrics.jsonl").write_text('{"loss": 1}\n')
    made.run(tmp_path / ".hidden" / "a")
    made.run(tmp_path / "a" / "checkpoints" / "b")
    (tmp_path / "a" / "lock").touch()
    assert list(_runs(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "config.json is empty"),
        ("null", "config.json has no fields of a run"),
        ('{"student": ', "config.json is no JSON"),
        ("[" * 100_000, "config.json is no JSON"),
        ('{"architectures": []}', "config.json has no fields of a run"),
        ('{"student": {}, "train": {}}', "config.json has no train.epochs"),
        ('{"student": {}, "train": {"epochs": "3"}}', "config.json has no train.epochs"),
        (None, "config.json is missing"),
    ],
)
def test_a_damaged_config_is_told(tmp_path, text, why):
    folder = made.run(tmp_path / "a")
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    run = _only(tmp_path)
    assert (run.state, run.why) == ("damaged", why)
    assert run.epoch == 3  # what can be read is


def test_half_a_line_at_the_end_is_what_a_kill_leaves(tmp_path):
    folder = made.run(tmp_path / "a", epochs=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "step"')
    run = _only(tmp_path)
    assert (run.state, run.why, run.epoch) == ("died", "", 2)
    assert len(reading.rows(run)) == 2


def test_a_whole_line_without_its_end_counts(tmp_path):
    folder = made.run(tmp_path / "a", epochs=1)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(made.row(2)))
    assert _only(tmp_path).epoch == 2


@pytest.mark.parametrize("line", ["garbage", "[1]", "null", '{"step": 1}', "\x00\x00", "[" * 9999])
def test_a_line_that_is_no_row_is_damage(tmp_path, line):
    folder = made.run(tmp_path / "a", epochs=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    run = _only(tmp_path)
    assert (run.state, run.epoch) == ("damaged", 2)
    assert run.why == "the last line of metrics.jsonl cannot be read"


def test_rows_longer_than_what_is_read_at_first_are_read(tmp_path):
    folder = made.run(tmp_path / "a", epochs=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(made.row(3) | {"x" * 20_000: 1.0}) + "\n")
    assert (_only(tmp_path).epoch, _only(tmp_path).state) == (3, "died")  # it is not saved


def test_an_empty_file_is_that_of_a_run_before_its_first_epoch(tmp_path):
    made.silent(made.run(tmp_path / "a", epochs=0))
    run = _only(tmp_path)
    assert (run.state, run.why, run.epoch, run.row) == ("died", "", 0, {})


def test_a_run_whose_last_epoch_is_not_saved_has_died(tmp_path):
    made.silent(made.run(tmp_path / "a", saved=2))
    assert (_only(tmp_path).state, _only(tmp_path).why) == ("died", "its last epoch is not saved")


def test_a_run_that_grew_is_not_done(tmp_path):
    made.silent(made.run(tmp_path / "a", train={"epochs": 9}))
    assert _only(tmp_path).state == "died"


def test_a_run_whose_checkpoints_are_gone_is_done(tmp_path):
    folder = made.run(tmp_path / "a", saved=0)
    assert _only(tmp_path).state == "done"
    (folder / "checkpoints").mkdir()  # a kill in the first save leaves it empty
    made.silent(folder)
    assert _only(tmp_path).state == "died"


def test_figures_come_from_a_checkpoint_where_its_metrics_are_gone(tmp_path):
    folder = made.run(tmp_path / "a")
    (folder / "metrics.jsonl").unlink()
    run = _only(tmp_path)
    assert (run.state, run.epoch, run.result["top1"]) == ("done", 3, 50)


@pytest.mark.parametrize("text", ["", "null", "[]", '{"meta": 1}', '{"meta": {}}', "{"])
def test_a_damaged_checkpoint_is_named(tmp_path, text):
    folder = made.run(tmp_path / "a")
    (folder / "checkpoints" / "30" / "meta" / "metadata").write_text(text)
    made.silent(folder)
    assert (_only(tmp_path).state, _only(tmp_path).why) == (
        "damaged",
        "checkpoint 30 cannot be read",
    )


def test_the_traceback_of_a_crash_is_named(tmp_path):
    folder = made.silent(made.run(tmp_path / "a", epochs=1))
    (folder / "failed.json").touch()  # a study's
    assert _only(tmp_path).why == "see failed.json"
    (folder / "crash-7.txt").touch()
    assert _only(tmp_path).why == "see crash-7.txt"


def test_a_run_that_holds_its_lock_is_running_and_one_that_let_go_has_died(tmp_path):
    folder = made.run(tmp_path / "a", epochs=1)
    with contextlib.ExitStack() as held:
        workdir._lock(folder, held)
        run = _only(tmp_path)
        assert run.state == "running"
        assert run.holder == locks.Holder(os.getpid(), socket.gethostname(), True)
    assert _only(tmp_path).state == "died"


def test_a_running_job_says_what_it_trains_first(tmp_path):
    folder = made.run(tmp_path / "a", epochs=0)
    teacher = made.run(folder / "teacher", epochs=1)
    with contextlib.ExitStack() as held:
        workdir._lock(folder, held)
        workdir._lock(teacher, held)
        assert _runs(tmp_path)["a"].why == "teacher comes first"


def test_a_stage_is_running_as_long_as_its_run_waits_for_it(tmp_path):
    folder = made.run(tmp_path / "a", epochs=0)
    (folder / "before-ft").mkdir()
    (folder / "before-ft" / "metrics.jsonl").touch()
    with contextlib.ExitStack() as held:
        workdir._lock(folder, held)
        runs = _runs(tmp_path)
        assert runs["a/before-ft"].state == "running"
        assert runs["a"].why == "before-ft comes first"
        (folder / "metrics.jsonl").write_text(json.dumps(made.row(1)))
        assert _runs(tmp_path)["a/before-ft"].state == "done"


def test_a_lock_of_another_machine_is_told_by_what_was_written_lately(tmp_path):
    folder = made.run(tmp_path / "a", epochs=1)
    (folder / "lock").write_text("process 7 on elsewhere")
    assert _only(tmp_path).state == "running"
    assert _only(tmp_path).holder == locks.Holder(7, "elsewhere", None)
    assert _only(tmp_path).why == "its lock is not seen from here"
    made.silent(folder)
    assert _only(tmp_path).state == "died"


_LOCKF = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("x", end="", flush=True)
sys.stdin.read()
"""


def test_a_lock_as_network_disks_keep_it_is_seen(tmp_path):
    """NFS makes flock a lock of a range of bytes, which other machines can ask for."""
    folder = made.silent(made.run(tmp_path / "a", epochs=1))
    (folder / "lock").write_text("process 7 on elsewhere")
    command = [sys.executable, "-c", _LOCKF, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.read(1) == b"x"
        held = locks.Locks()
        held._held.clear()  # as it is on this machine where another has the lock
        assert held.holder(str(folder / "lock")).holds is True
        process.stdin.close()
    assert held.holder(str(folder / "lock")).holds is None


def test_a_run_that_starts_is_not_disturbed_by_being_looked_at(tmp_path):
    folder, done = made.run(tmp_path / "a", epochs=1), threading.Event()
    looks = []

    def look():
        while not done.is_set():
            looks.append(_only(tmp_path).state)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(400):
            with contextlib.ExitStack() as held:  # an InputError if anybody else has the lock
                workdir._lock(folder, held)
    finally:
        done.set()
        thread.join()
    assert len(looks) > 10


def test_no_lock_is_taken_and_nothing_is_written():
    for path in pathlib.Path(reading.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert not [word for word in ("flock(", "lockf(", "SETLK", "write_text") if word in text]


@pytest.mark.skipif(os.getuid() == 0, reason="root may look into everything")
def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path):
    made.run(tmp_path / "a")
    (tmp_path / "b").mkdir(mode=0)
    runs, unreadable = reading.read(str(tmp_path))
    assert (len(runs), unreadable) == (1, [str(tmp_path / "b")])


def test_the_size_is_that_of_a_runs_own_files(tmp_path):
    folder = made.run(tmp_path / "a")
    alone = _only(tmp_path).size
    made.run(folder / "teacher")
    (folder / "views").mkdir()
    (folder / "views" / "0").write_bytes(bytes(1000))
    assert _runs(tmp_path)["a"].size == alone + 1000
