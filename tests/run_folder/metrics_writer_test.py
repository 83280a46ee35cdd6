"""Metrics of a run: file, TensorBoard, console, progress line and clock."""

import json
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rrd_jax.run_folder import metrics_writer
from rrd_jax.terminal import console
from tests.screen import Screen


def _row(epoch, **metrics):
    return {
        "epoch": epoch,
        "step": epoch * 10,
        "learning_rate": 0.05,
        "train/loss": 1.0 / epoch,
        "train/loss/ce": 0.5,
        "train/top1": 50.0,
        "test/top1": 60.0 + epoch,
        "test/loss": 0.7,
        "best/top1": 70.0,
        "best/epoch": 1,
        **metrics_writer.speeds(12.34, 100, 1e9, 0),
        **metrics,
    }


def _write(folder, epochs, step=0):
    with metrics_writer.MetricsWriter(folder, "student", step) as writer:
        for epoch in epochs:
            writer.row(_row(epoch), 5)


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_reach_the_file_tensorboard_and_the_console(tmp_path, capsys):
    _write(tmp_path, [1, 2])
    assert _rows(tmp_path) == [_row(1), _row(2)]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("test/top1")]
    assert scalars == [(10, 61.0), (20, 62.0)]
    out = capsys.readouterr().out
    assert "[student] epoch   2/5  test top-1  62.00  best 70.00 (1)" in out
    assert "ce 0.5" in out


@pytest.mark.parametrize("tail", ["", '{"epoch": 3, "st'])
def test_a_resumed_run_drops_the_rows_after_its_checkpoint(tmp_path, tail):
    _write(tmp_path, [1, 2, 3])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    _write(tmp_path, [3, 4], step=20)
    assert [row["epoch"] for row in _rows(tmp_path)] == [1, 2, 3, 4]


_DAMAGED_LINES = [
    b"\x00\xff\xfe binary",
    b'{"epoch": 2, "step": 20',
    b"[1, 2]",
    b'{"epoch": 2, "step": true}',
    b'{"epoch": 2, "step": 20, "test/top1": {}}',
    b"[" * 100_000,
    b'{"step": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("line", _DAMAGED_LINES, ids=range(len(_DAMAGED_LINES)))
def test_a_damaged_line_is_dropped_with_a_warning(line, tmp_path, capsys):
    _write(tmp_path, [1, 2, 3])
    lines = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    _write(tmp_path, [4], step=30)
    assert [row["epoch"] for row in _rows(tmp_path)] == [1, 3, 4]
    assert "warning: 1 of 3 lines of" in capsys.readouterr().out


def _write_progress(writer):
    losses = {"loss": 2.0, "loss/ce": 1.25}
    writer.progress(15, 10, 5, 0.0125, rate=1234.5, left=65, losses=losses)


def test_the_progress_line_has_epoch_remaining_time_speed_and_terms(tmp_path, monkeypatch):
    screen = Screen(monkeypatch, columns=100)
    with metrics_writer.MetricsWriter(tmp_path, "student") as writer:
        _write_progress(writer)
        assert screen.lines() == [
            "[student] epoch 1.50/5  step 15/50  1:05 left  loss 2  1,234 images/s  lr 0.0125"
            "  ce 1.25"
        ]
    assert screen.lines() == []


@pytest.mark.parametrize("columns", [20, 60, 80])
def test_lines_fit_the_terminal_and_the_progress_line_is_removed(tmp_path, monkeypatch, columns):
    screen = Screen(monkeypatch, columns)
    with metrics_writer.MetricsWriter(tmp_path, "distilled, rrd+kd") as writer:
        writer.start(["resnet8, 77,754 parameters, loss 1 ce, 5 epochs of 10 steps"], 10, 10)
        _write_progress(writer)
        # The user makes the window narrower.
        screen.columns = columns - 8
        _write_progress(writer)
        writer.row(_row(2), 5)
    *_, last = screen.lines()
    assert "epoch   2/5" in last or columns == 20
    assert not [line for line in screen.lines() if "1.50" in line or "compiling" in line]
    assert max(map(len, screen.lines())) <= columns


def test_a_log_file_has_one_line_per_epoch_and_occasional_progress_lines(
    tmp_path, capsys, monkeypatch
):
    with metrics_writer.MetricsWriter(tmp_path, "student") as writer:
        for _ in range(3):
            _write_progress(writer)
        writer.row(_row(1), 5, left=65)
        assert capsys.readouterr().out.endswith("  1:05 left\n")
        now = time.monotonic()
        for seconds in range(0, 200, 20):
            monkeypatch.setattr(console.time, "monotonic", lambda now=now + seconds: now)
            _write_progress(writer)
        lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    parts = lines[0].removeprefix("[student] ").split("  ")
    assert {"epoch 1.50/5", "step 15/50", "1,234 images/s", "1:05 left"} <= set(parts)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")]
)
def test_durations_are_formatted_as_hours_minutes_and_seconds(seconds, text):
    assert metrics_writer.duration(seconds) == text


def test_the_clock_measures_the_share_of_time_spent_waiting_for_images(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics_writer.time, "monotonic", lambda: now[0])
    clock = metrics_writer.Clock(0.0, 0)
    clock.add_wait(0.5)
    now[0] += 2
    assert clock.wait_share() == 0.25
    assert metrics_writer.speeds(1, 8, 1, 0, clock.wait_share())["input_wait_percent"] == 25
    assert "input_wait_percent" not in metrics_writer.speeds(1, 8, 1, 0)
    assert metrics_writer.speeds(1, 8, 1, 0, start=2.5)["start_seconds"] == 2.5
    clock.mark(3)
    now[0] += 1
    assert clock.wait_share() == 0


def test_the_clock_adds_earlier_starts_and_measures_the_rate_since_its_mark(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics_writer.time, "monotonic", lambda: now[0])
    clock = metrics_writer.Clock(before=100.0, step=5)
    now[0] = 2.0
    clock.mark(7)
    assert clock.rate(7) == 0
    now[0] = 4.0
    assert (clock.total(), clock.rate(13), clock.left(13, 15)) == (104.0, 3.0, 1.0)
    clock.exclude(2.0)
    assert clock.left(13, 15) == 0.5
    clock.begin(13)
    assert clock.left(13, 15) == 0
