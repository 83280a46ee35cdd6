"""The command `python -m rrd_jax.runs`."""

import contextlib
import csv
import io
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
from rrd_jax.runs import status, table
from tests.runs import run_files

_HEAVY = ("jax", "flax", "orbax", "tensorflow_datasets", "tensorboardX", "numpy", "ml_collections")


def _run_command(*arguments, cwd=None, code=0):
    """Runs the command; returns its standard output and standard error."""
    command = [sys.executable, "-m", "rrd_jax.runs", *map(str, arguments)]
    outcome = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert outcome.returncode == code, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr
    return outcome.stdout, outcome.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run_files.write(folder / "kd" / "seed2", method="kd", seed=2, top1=60.0)
    run_files.write(folder / "kd" / "seed10", method="kd", seed=10, top1=61.0)
    run_files.write(folder / "rrd" / "seed0", top1=80.0, epochs=2)
    return folder


def test_runs_are_listed_as_a_markdown_table(folder, tmp_path):
    (tmp_path / "runs").symlink_to(folder)
    out, err = _run_command(cwd=tmp_path)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()]
    assert lines[0] == list(table.DEFAULT_COLUMNS)
    assert [line[0] for line in lines[2:5]] == ["kd/seed2", "kd/seed10", "rrd/seed0"]
    assert lines[2][1:9] == [
        *("resnet8x4-resnet8", "kd", "digits", "2", "3/3", "60.00", "61.00 (1)", "done")
    ]
    assert out.splitlines()[-1] == "3 runs: 2 done, 1 died"
    assert not err


def test_columns_order_and_format_can_be_chosen(folder):
    out, _ = _run_command(folder, "--sort=-top1", "--columns=name,top1,data.mean", "--format=csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0] == {"name": "rrd/seed0", "top1": "80.0", "data.mean": "[0.3]"}
    names = ["name", "optimizer.nesterov", "config.seed", "test/loss"]
    (first, *_) = json.loads(
        _run_command("--format", "json", folder, f"--columns={','.join(names)}")[0]
    )
    assert list(first) == names
    assert list(first.values())[1:] == [False, 2, pytest.approx(100 / 60)]
    (*_, last) = json.loads(_run_command(folder, "--format=json")[0])
    assert (last["state"], last["path"]) == ("died", str(folder / "rrd" / "seed0"))
    assert last["size"] > 100
    (header, *_) = _run_command(folder, "--columns=+role")[0].splitlines()
    assert header.split("|")[-2].strip() == "role"


@pytest.mark.parametrize(
    ("order", "seeds"),
    [
        (["name"], [2, 10, 0]),
        (["-top1"], [0, 10, 2]),
        (["state", "-seed"], [10, 2, 0]),
        (["method", "seed"], [2, 10, 0]),
        (["objectives.none"], [2, 10, 0]),
    ],
)
def test_runs_are_sorted_by_each_kind_of_column(folder, order, seeds):
    runs = table.ordered(status.read(str(folder))[0], ["name"])
    assert [run.value("seed") for run in table.ordered(runs, order)] == seeds


@pytest.mark.parametrize("width", [120, 100, 80, 60, 40])
def test_a_table_fits_the_screen(folder, width):
    runs = status.read(str(folder))[0]
    text = table.as_table(runs, table.DEFAULT_COLUMNS, width, may_drop=True)
    assert max(map(len, text.splitlines()[:-2])) <= width
    assert {"name", "epoch", "top1", "state"} <= set(text.splitlines()[0].split())
    assert ("--columns" in text) == (width < 120)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing"], 2, "missing"),
        (["empty"], 2, "empty"),
        (["file"], 2, "is a file"),
        ([""], 1, "empty"),
        (["all", "all"], 1, "--diff"),
        (["all", "--sort=tops1"], 1, "did you mean 'top1'?"),
        (["all", "--columns=,"], 1, "no run has ''"),
        (["all", "--format=xml"], 1, "--format=xml"),
        (["all", "--colums=name"], 1, "columns"),
        (["all", "--where=seed<3"], 1, "where"),
        (["all", "--watch"], 1, "terminal"),
        (["all", "--watch=0"], 1, "from 0.1 to 86400"),
        (["all", "--watch", "--format=csv"], 1, "--format=csv"),
        (["all", "--diff", "kd/seed2"], 2, "'all' is not a run"),
        (["all", "--diff", "kd/seed2", "kd/sed2"], 2, "did you mean 'kd/seed2'?"),
        (["all", "--diff"], 1, "FOLDER --diff A B"),
        (["all", "--diff", "kd/seed2", "kd/seed10", "--columns=x"], 2, "metric 'x'"),
    ],
)
def test_invalid_arguments_end_with_one_error_line_and_an_exit_code(
    folder, tmp_path, arguments, code, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "all").symlink_to(folder)
    out, err = _run_command(*arguments, cwd=tmp_path, code=code)
    assert not out
    (line,) = err.splitlines()
    assert message in line


def test_two_runs_are_compared(folder):
    out, _ = _run_command(folder, "--diff", "kd/seed10", "rrd/seed0")
    _, fields, curves = (part.splitlines() for part in out.split("\n\n"))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (*fields, *curves)]
    assert ["method", "kd", "rrd"] in cells
    assert ["seed", "10", "0"] in cells
    assert "optimizer" not in out
    assert ["epoch", "test/top1 A", "test/top1 B", "test/loss A", "test/loss B"] in cells
    assert cells[-1][:3] == ["3", "61", "-"]
    a, b = folder / "kd" / "seed2", folder / "kd" / "seed10"
    out, _ = _run_command("--diff", a, b, "--format=csv", "--columns=test/top1")
    assert out == "epoch,test/top1 A,test/top1 B\n1,60.0,61.0\n2,60.0,61.0\n3,60.0,61.0\n"
    content = json.loads(_run_command("--diff", a, b, "--format=json")[0])
    assert content["fields"] == {"seed": [2, 10]}
    assert content["curves"][0]["test/loss B"] == pytest.approx(100 / 61)


def test_long_curves_are_subsampled_and_include_the_last_epoch(tmp_path):
    for name in "ab":
        run_files.write(tmp_path / name, epochs=100, train={"epochs": 100})
    out, _ = _run_command(tmp_path, "--diff", "a", "b")
    assert "25 of 100 epochs; use --format=csv for all epochs" in out
    rows = [line.split()[1] for line in out.splitlines() if line.startswith("| ")]
    assert rows[-2:] == ["96", "100"]
    assert len(_run_command(tmp_path, "--diff", "a", "b", "--format=csv")[0].splitlines()) == 101


def test_control_characters_in_names_are_escaped(tmp_path):
    run_files.write(tmp_path / "a\x1b[31m\nb é")
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    shutil.copytree(tmp_path / "a\x1b[31m\nb é", tmp_path / os.fsdecode(b"\xff") / "c")
    out, _ = _run_command(tmp_path)
    assert "a\\x1b[31m\\nb é" in out
    assert "\\udcff/c" in out
    names = [run["name"] for run in json.loads(_run_command(tmp_path, "--format=json")[0])]
    assert set(names) == {"a\x1b[31m\nb é", os.fsdecode(b"\xff") + "/c"}


def test_a_closed_pipe_ends_the_command_quietly(folder):
    command = f"{sys.executable} -m rrd_jax.runs {folder} | head -1; echo ${{PIPESTATUS[0]}}"
    outcome = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert outcome.stdout.splitlines()[-1] in ("0", "141")
    assert not outcome.stderr


_IMPORTS = """
import runpy, sys
sys.argv = ["runs", *sys.argv[1:]]
try:
    runpy.run_module("rrd_jax.runs", run_name="__main__", alter_sys=True)
finally:
    print(sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def test_the_command_imports_no_heavy_libraries(folder):
    command = [sys.executable, "-c", _IMPORTS, str(folder), "--diff", "kd/seed2", "kd/seed10"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(json.loads(outcome.stderr.replace("'", '"')))
    assert "rrd_jax" in imported
    assert not imported & set(_HEAVY)


@contextlib.contextmanager
def _start_on_terminal(*arguments):
    """Starts the command on a terminal; yields the process and a function that reads the screen."""
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
            except OSError:
                # The process has ended.
                break
        return text

    try:
        yield process, read
    finally:
        process.kill()
        process.wait()
        os.close(main)


def test_the_screen_is_updated_until_ctrl_c(tmp_path):
    for seed in range(20):
        run_files.write(tmp_path / f"seed{seed}", seed=seed)
    folder = tmp_path / "a"
    with contextlib.ExitStack() as stack:
        stack.enter_context(workdir.claim(folder, run_files.config(), free=()))
        metrics = folder / "metrics.jsonl"
        metrics.write_text(json.dumps(run_files.row(1)) + "\n")
        with _start_on_terminal(tmp_path, "--watch=0.1") as (process, read):
            text = read("1 running, 20 done")
            assert "1/3" in text
            assert "... more runs" in text
            with metrics.open("a") as file:
                file.write(json.dumps(run_files.row(2, 77.0)) + "\n")
            read("77.00")
            stack.close()
            read("1 died")
            process.send_signal(signal.SIGINT)
            # The previous content of the screen is restored.
            read("\x1b[?1049l")
            assert process.wait(20) == 0


def test_sigterm_restores_the_screen(folder):
    with _start_on_terminal(folder, "--watch") as (process, read):
        read("Ctrl-C to quit")
        process.send_signal(signal.SIGTERM)
        read("\x1b[?1049l")
        assert process.wait(20) == 75


def _write_copies(folder, number):
    """Writes runs of realistic size: two checkpoints of 17 files in 8 folders."""
    first = run_files.write(folder / "0", saved=2)
    run_files.write_checkpoint(first, 30, {"epoch": 3, "result": {"top1": 50.0}})
    for step in ("20", "30"):
        for name in range(16):
            path = first / "checkpoints" / step / "state" / f"d{name % 8}"
            path.mkdir(parents=True, exist_ok=True)
            (path / str(name)).write_bytes(bytes(100))
    for i in range(1, number):
        shutil.copytree(first, folder / str(i))
    return folder


def _measure_processor_time(folder):
    """Returns the processor time of the command in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert f" {len(os.listdir(folder)):,} done" in _run_command(folder)[0]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_two_hundred_runs_are_listed_within_two_seconds(tmp_path):
    assert _measure_processor_time(_write_copies(tmp_path, 200)) < 1.5
