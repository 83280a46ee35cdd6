"""Exits of programs: error lines and exit codes."""

import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
from absl import flags
from ml_collections import config_flags

from rrd_jax import errors
from rrd_jax.config import explain
from rrd_jax.terminal import cli


def _run_to_exit(capsys, action, *arguments, **options):
    """Runs an action that exits; returns the exit code and the lines on standard error."""
    with pytest.raises(SystemExit) as end:
        action(*arguments, **options)
    return end.value.code, capsys.readouterr().err.splitlines()


def _make_raising(error):
    def job():
        raise error

    return job


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("x"), 2),
        (FileNotFoundError(2, "No such file", "x"), 2),
        (errors.DivergedError("x"), 3),
        (errors.UnavailableError("x"), 69),
        (errors.DiskError("x"), 74),
        (errors.PreemptedError("x"), 75),
        (errors.LostError("x"), 75),
        (KeyboardInterrupt("x"), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_each_kind_of_error_has_one_line_and_an_exit_code(capsys, error, code):
    exit_code, (line,) = _run_to_exit(capsys, cli.guard, _make_raising(error))
    assert exit_code == code
    assert line.startswith("error: ")
    assert "x" in line


def test_ctrl_c_and_a_closed_pipe_have_exit_codes(capsys):
    interrupt = KeyboardInterrupt()
    assert _run_to_exit(capsys, cli.guard, _make_raising(interrupt), "saved") == (
        130,
        ["error: saved"],
    )
    assert _run_to_exit(capsys, cli.guard, _make_raising(errors.UnreadError())) == (141, [])


def test_an_unexpected_error_has_two_lines_and_a_crash_report(capsys, tmp_path):
    def job():
        return cli.guard(folder=0, nonsense=1)

    code, lines = _run_to_exit(capsys, cli.guard, job, folder=lambda: tmp_path)
    (report,) = tmp_path.glob("crash-*.txt")
    assert code == 70
    assert lines[0].startswith("error: TypeError: guard() got an unexpected keyword argument")
    assert lines[1].endswith(str(report))
    assert "Traceback" in report.read_text()


def test_a_crash_report_without_a_workdir_is_written_to_the_temporary_folder(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for folder in (None, lambda: tmp_path / "missing", _make_raising(ValueError())):
        _, lines = _run_to_exit(
            capsys, cli.guard, _make_raising(RuntimeError("bug\nmore")), folder=folder
        )
        assert lines[0] == "error: RuntimeError: bug"
        assert lines[1].endswith(f"{os.getpid()}.txt")
    assert list(tmp_path.glob("crash-*.txt"))


def test_warnings_of_libraries_are_not_printed(capfd):
    with warnings.catch_warnings():
        cli.guard(lambda: warnings.warn("use something newer", DeprecationWarning, stacklevel=1))
    assert capfd.readouterr() == ("", "")


_CONFIGS = {
    "raise RuntimeError('oh')": "RuntimeError: oh",
    "import not_there_at_all": "ModuleNotFoundError: No module named 'not_there_at_all'",
    "x = (": "SyntaxError: '(' was never closed",
    "import sys\nsys.exit(3)": "SystemExit: 3",
    "x = 1": "must define get_config",
    "def get_config(a=''):\n  return {}['k']": "KeyError: 'k'",
    "def get_config(a=''):\n  return int('x')": "ValueError: invalid literal",
    "def get_config(a=''):\n  open('/not/there')": "FileNotFoundError",
    "def get_config(a=''):\n  b'\\xff'.decode()": "UnicodeDecodeError",
    "def get_config(a, b):\n  pass": "TypeError: get_config() missing 2 required",
    "def get_config(a=''):\n  pass": "returns NoneType, but must return",
    "def get_config(a=''):\n  return {'a': 1}": "returns dict, but must return",
    "\0": "cannot be read as a Python file",
}


def _parse(monkeypatch, *arguments):
    argv = ["main", *map(str, arguments)]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    monkeypatch.setattr(flags, "FLAGS", values)
    # The previous test loaded another file under this name.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    cli.parse_flags(argv, config, explain)


@pytest.mark.parametrize("text", _CONFIGS)
@pytest.mark.parametrize("override", [(), ("--config.a=1",)], ids=["", "override"])
def test_an_invalid_config_file_is_reported_with_its_path(
    capsys, monkeypatch, tmp_path, text, override
):
    path = tmp_path / "my.py"
    path.write_text(text)
    code, lines = _run_to_exit(capsys, _parse, monkeypatch, f"--config={path}", *override)
    assert code == 1
    assert str(path) in lines[0]
    assert _CONFIGS[text] in lines[-1]
    assert not any("site-packages" in line for line in lines)


@pytest.mark.parametrize("name", ["", "missing.py", "."])
def test_a_path_that_is_not_a_config_file_is_refused(capsys, monkeypatch, name):
    code, (line,) = _run_to_exit(capsys, _parse, monkeypatch, f"--config={name}")
    assert code == 1
    assert f"--config={name} " in line
    assert "for example --config=configs/digits.py" in line


def test_an_input_error_of_a_config_file_is_printed_unchanged(capsys, monkeypatch, tmp_path):
    path = tmp_path / "my.py"
    path.write_text("from rrd_jax import errors\nraise errors.InputError('which method?')")
    assert _run_to_exit(capsys, _parse, monkeypatch, f"--config={path}") == (
        1,
        ["error: which method?"],
    )


def _start(*arguments, **options):
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort", "--helpfull"])
def test_help_is_printed_without_importing_jax_or_reading_the_config(flag):
    program = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('rrd_jax.main', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    assert 'jax' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program, "--config=missing.py", flag]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "--workdir: The folder of checkpoints and metrics." in outcome.stdout
    assert ("--verbosity" in outcome.stdout) == (flag == "--helpfull")


def test_a_full_disk_and_closed_streams_print_no_traceback():
    with open("/dev/full", "w") as full:
        program = _start("rrd_jax.main", "--help", stdout=full)
        _, error = program.communicate()
    assert program.returncode == 74
    assert error.startswith("error: standard output cannot be written (No space left")
    shell = f"{sys.executable} -m rrd_jax.main --config=missing.py <&- >&- 2>&-"
    assert subprocess.run(shell, shell=True).returncode == 1


def test_a_closed_pipe_ends_a_program_quietly():
    code = "from rrd_jax.terminal import cli; cli.guard(lambda: print('a line\\n' * 100_000))"
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    program = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    program.stdout.readline()
    program.stdout.close()
    assert (program.wait(), program.stderr.read()) == (141, "")


_UNINTERRUPTIBLE = """
import hashlib, sys
from rrd_jax.terminal import cli
def job():
    print("started", flush=True)
    try:
        while True:
            # The call runs no signal handlers, like a compiler.
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    except KeyboardInterrupt:
        print("never")
cli.guard(job)
"""


def test_a_second_ctrl_c_stops_a_program_that_handles_no_signals():
    command = [sys.executable, "-c", _UNINTERRUPTIBLE]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "started\n"
    # Wait until the program is within the call.
    time.sleep(0.5)
    program.send_signal(signal.SIGINT)
    assert (
        "press Ctrl-C again to end the program"
        in program.stderr.readline() + program.stderr.readline()
    )
    start = time.monotonic()
    program.send_signal(signal.SIGINT)
    assert program.wait() == 130
    assert time.monotonic() - start < 10
    assert "never" not in program.stdout.read()
