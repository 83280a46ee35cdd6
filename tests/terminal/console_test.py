"""Console output on terminals and in log files."""

import io
import os
import sys

import pytest

from rrd_jax import errors
from rrd_jax.terminal import console
from tests.screen import Screen


def test_a_warning_replaces_the_progress_line(monkeypatch):
    screen = Screen(monkeypatch, columns=40)
    console.progress("run", ["epoch 1/2", "a" * 10])
    console.warn("the queue is short")
    assert screen.lines() == ["warning: the queue is short"]
    assert "\x1b[33mwarning:\x1b[0m" in screen.text()


def test_control_characters_are_escaped(capsys):
    name = "a\x1b[31m\r\x85\udcffb\nc \u00e9"
    console.warn(name)
    console.error(name)
    out, err = capsys.readouterr()
    assert out == "warning: a\\x1b[31m\\r\\x85\\udcffb\nc \u00e9\n"
    assert err == out.replace("warning", "error")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_environment_variables_disable_colors(monkeypatch, name, value):
    screen = Screen(monkeypatch, columns=40)
    monkeypatch.setenv(name, value)
    console.warn("low accuracy")
    assert screen.text() == "warning: low accuracy\n"


def test_a_log_file_contains_only_plain_lines(capsys):
    console.warn("low accuracy")
    console.progress("run", ["epoch 1/2"])
    console.note("teacher cached")
    console.print_row("run", ["a" * 100, "b" * 100])
    console.print_table(["a", "b"], [["x" * 100, "1"]])
    warning, note, row, *table = capsys.readouterr().out.splitlines()
    assert (warning, note) == ("warning: low accuracy", "note: teacher cached")
    assert row == f"[run] {'a' * 100}  {'b' * 100}"
    assert table[0].startswith("| a")


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (40, "[run] epoch 1/2  0:10 left  lr 0.1"),
        (33, "[run] epoch 1/2  0:10 left"),
        (12, "epoch 1/2"),
        (4, "epoc"),
    ],
)
def test_parts_that_do_not_fit_are_omitted_from_the_end(columns, line):
    assert console.fit_line("run", ["epoch 1/2", "0:10 left", "lr 0.1"], columns) == line


def test_long_lines_are_wrapped_between_words_and_paths_are_not_broken(monkeypatch):
    screen, path = Screen(monkeypatch, columns=20), "/tmp/a/long/path/of/a/run"
    console.say(f"the checkpoints of the run are in {path}")
    assert path in screen.text()
    assert all(len(line) <= 20 for line in screen.text().split() if line != path)


class _Broken(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self._error = error

    def write(self, text):
        raise self._error

    def fileno(self):
        raise OSError


def test_a_closed_pipe_and_a_full_disk_raise_different_errors(monkeypatch):
    monkeypatch.setattr(sys, "stdout", _Broken(BrokenPipeError()))
    with pytest.raises(errors.UnreadError):
        console.say("to nobody")
    monkeypatch.setattr(sys, "stdout", _Broken(OSError(28, os.strerror(28))))
    with pytest.raises(errors.DiskError, match=r"standard output cannot be written \(No space"):
        console.say("to a full disk")
