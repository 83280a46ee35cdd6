"""The command `python -m rrd_jax.runs`, as it is started."""

import contextlib
import json
import os
import pty
import resource
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from rrd_jax.run_folder import workdir
from tests.runs import made

_HEAVY = ("jax", "flax", "orbax", "tensorflow_datasets", "tensorboardX", "numpy", "ml_collections")


def _runs(*arguments, cwd=None, code=0):
    """Standard output and error of the command."""
    command = [sys.executable, "-m", "rrd_jax.runs", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        made.run(folder / "kd" / f"seed{seed}", method="kd", seed=seed, top1=60.0 + seed)
    made.run(folder / "rrd" / "seed0", top1=80.0, epochs=2)
    return folder


def test_runs_are_listed_with_how_many_there_are(folder):
    out, err = _runs(folder)
    lines = out.splitlines()
    assert [line.split()[1] for line in lines[2:5]] == ["kd/seed0", "kd/seed1", "rrd/seed0"]
    assert lines[-1] == "3 runs: 2 done, 1 died"
    assert not err


def test_the_usual_folder_is_that_of_workdirs(folder, tmp_path):
    (tmp_path / "runs").symlink_to(folder)
    assert "3 runs" in _runs(cwd=tmp_path)[0]


def test_conditions_order_columns_and_formats_go_together(folder):
    given = ("--where=method=kd", "--sort=-top1", "--columns=name,top1")
    assert _runs(folder, *given, "--format=csv")[0] == "name,top1\nkd/seed1,61.0\nkd/seed0,60.0\n"
    (first, _) = json.loads(_runs("--format", "json", folder, *given)[0])
    assert first == {"name": "kd/seed1", "top1": 61.0}
    everything = json.loads(_runs(folder, "--format=json")[0])
    assert everything[2]["state"] == "died"
    assert everything[0]["path"] == str(folder / "kd" / "seed0")


def test_a_condition_that_no_run_meets_is_an_empty_list(folder):
    assert _runs(folder, "--where=seed>7", "--format=json")[0] == "[]\n"
    assert "0 of 3 runs" in _runs(folder, "--where=seed>7")[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing"], 2, "folder missing is not there"),
        (["empty"], 2, "no run is in empty or below it"),
        (["file"], 2, "folder file is a file"),
        ([""], 1, "a name is empty"),
        (["all", "all"], 1, "one folder is enough"),
        (["all", "--where=sede<3"], 1, "did you mean 'seed'?"),
        (["all", "--sort=tops1"], 1, "did you mean 'top1'?"),
        (["all", "--columns=,"], 1, "no run has ''"),
        (["all", "--format=xml"], 1, "--format=xml"),
        (["all", "--colums=name"], 1, "columns"),
        (["all", "--watch"], 1, "--watch needs a terminal"),
        (["all", "--watch=0"], 1, "from 0.1 to 86400"),
        (["all", "--watch", "--format=csv"], 1, "leave out --format=csv"),
        (["all", "--diff", "kd/seed0"], 2, "'all' is no run"),
        (["all", "--diff", "kd/seed0", "kd/sed1"], 2, "did you mean 'kd/seed1'?"),
        (["all", "--diff"], 1, "--diff compares two runs, and 1 are named"),
        (["--diff", "all/kd/seed0", "all"], 2, "'all' is no run"),
        (["all", "--diff", "kd/seed0", "kd/seed1", "--columns=x"], 2, "metric 'x'"),
        (["all", "--diff", "kd/seed0", "kd/seed1", "--where=seed=1"], 1, "--columns and --format"),
    ],
)
def test_mistakes_are_one_line_and_a_code(folder, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "all").symlink_to(folder)
    out, err = _runs(*arguments, cwd=tmp_path, code=code)
    assert not out
    (line,) = err.splitlines()
    assert message in line


def test_two_runs_are_compared_in_fields_and_curves(folder):
    out, _ = _runs(folder, "--diff", "kd/seed1", "rrd/seed0")
    _, fields, curves = (part.splitlines() for part in out.split("\n\n"))
    fields = {line.split()[1]: line.split()[3:6:2] for line in fields if "--" not in line}
    assert fields["method"] == ["kd", "rrd"]
    assert fields["seed"] == ["1", "0"]
    assert "optimizer.learning_rate" not in fields
    assert curves[0].strip("| ").split() == [
        *("epoch", "|", "test/top1", "A", "|", "test/top1", "B", "|", "test/loss", "A", "|"),
        *("test/loss", "B"),
    ]
    assert curves[-1].strip("| ").split(" | ")[:3] == ["3    ", "61         ", "-          "]


def test_a_comparison_comes_as_csv_and_json_too(folder):
    a, b = folder / "kd" / "seed0", folder / "kd" / "seed1"
    out, _ = _runs("--diff", a, b, "--format=csv", "--columns=test/top1")
    assert out == "epoch,test/top1 A,test/top1 B\n1,60.0,61.0\n2,60.0,61.0\n3,60.0,61.0\n"
    content = json.loads(_runs("--diff", a, b, "--format=json")[0])
    assert content["fields"] == {"seed": [0, 1]}
    assert content["curves"][0]["test/loss B"] == pytest.approx(100 / 61)


def test_long_curves_are_thinned_to_their_last_epoch(tmp_path):
    for name in "ab":
        made.run(tmp_path / name, epochs=100, train={"epochs": 100})
    out, _ = _runs(tmp_path, "--diff", "a", "b")
    assert "their configs are the same" in out
    assert "25 of 100 epochs; --format=csv has all" in out
    rows = [line.split()[1] for line in out.splitlines() if line.startswith("| ")]
    assert rows[-2:] == ["96", "100"]
    assert len(_runs(tmp_path, "--diff", "a", "b", "--format=csv")[0].splitlines()) == 101


def test_odd_names_are_shown_on_one_line(tmp_path):
    made.run(tmp_path / "a\x1b[31m\nb é")
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    shutil.copytree(tmp_path / "a\x1b[31m\nb é", tmp_path / os.fsdecode(b"\xff") / "c")
    out, _ = _runs(tmp_path)
    assert "a\\x1b[31m\\nb é" in out
    assert "\\udcff/c" in out
    names = [run["name"] for run in json.loads(_runs(tmp_path, "--format=json")[0])]
    assert set(names) == {"a\x1b[31m\nb é", os.fsdecode(b"\xff") + "/c"}


def test_whoever_stops_reading_ends_it_quietly(folder):
    command = f"{sys.executable} -m rrd_jax.runs {folder} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] in ("0", "141")
    assert not done.stderr


_IMPORTS = """
import runpy, sys
sys.argv = ["runs", *sys.argv[1:]]
try:
    runpy.run_module("rrd_jax.runs", run_name="__main__", alter_sys=True)
finally:
    print(sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("diff", [(), ("--diff", "kd/seed0", "kd/seed1")], ids=["list", "diff"])
def test_nothing_heavy_is_imported(folder, diff):
    command = [sys.executable, "-c", _IMPORTS, str(folder), *diff]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stderr.replace("'", '"')))
    assert "rrd_jax" in imported
    assert not imported & set(_HEAVY)


@contextlib.contextmanager
def _on_a_terminal(*arguments):
    """The command on a terminal of 80 columns: its process, and what reads the screen."""
    main, inner = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "12"}
    command = [sys.executable, "-m", "rrd_jax.runs", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=env)
    os.close(inner)

    def read(until, seconds=20):
        text, end = "", time.monotonic() + seconds
        while until not in text:
            assert select.select([main], [], [], max(0, end - time.monotonic()))[0], text
            try:
                text += os.read(main, 65536).decode(errors="replace")
            except OSError:  # it has ended
                break
        return text

    try:
        yield process, read
    finally:
        process.kill()
        process.wait()
        os.close(main)


def test_a_screen_is_drawn_anew_until_ctrl_c(tmp_path):
    folder = made.run(tmp_path / "a", epochs=1)
    with (
        contextlib.ExitStack() as held,
        _on_a_terminal(tmp_path, "--watch=0.1") as (process, read),
    ):
        workdir._lock(folder, held)
        assert "1/3" in read("1 running")
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(made.row(2, 77.0)) + "\n")
        read("77.00")
        held.close()
        read("1 died")
        process.send_signal(signal.SIGINT)
        assert "\x1b[?1049l" in read("\x1b[?1049l")  # the screen that was there before
        assert process.wait(20) == 0


def test_a_screen_that_is_too_low_says_that_there_is_more(tmp_path):
    for seed in range(30):
        made.run(tmp_path / f"seed{seed}", seed=seed)
    with _on_a_terminal(tmp_path, "--watch") as (process, read):
        text = read("Ctrl-C ends it")
        assert "... and more" in text
        assert "30 runs: 30 done" in text
        process.send_signal(signal.SIGTERM)
        read("\x1b[?1049l")
        assert process.wait(20) == 143


def _many(folder, number):
    """Runs with as many files as real ones have: two checkpoints of 17 files in 8 folders."""
    first = made.run(folder / "0", saved=2)
    made.checkpoint(first, 30, {"epoch": 3, "result": {"top1": 50.0}})
    for step in ("20", "30"):
        for name in range(16):
            place = first / "checkpoints" / step / "state" / f"d{name % 8}"
            place.mkdir(parents=True, exist_ok=True)
            (place / str(name)).write_bytes(bytes(100))
    for i in range(1, number):
        shutil.copytree(first, folder / str(i))
    return folder


def _seconds(folder):
    """Of a processor, for the whole command: other programs do not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert f" {len(os.listdir(folder)):,} done" in _runs(folder)[0]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_two_hundred_runs_are_listed_at_once(tmp_path):
    assert _seconds(_many(tmp_path, 200)) < 1.5


@pytest.mark.long
def test_two_thousand_runs_are_listed_within_three_seconds(tmp_path):
    folder = _many(tmp_path, 2000)
    assert min(_seconds(folder) for _ in range(3)) < 3
