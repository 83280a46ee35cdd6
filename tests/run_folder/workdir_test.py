"""Workdirs: config.json, changes between two starts, damage and locks."""

import errno
import fcntl
import json
import threading

import jax
import numpy as np
import pytest

from rrd_jax import __version__, checkpoints, errors
from rrd_jax.run_folder import workdir
from tests import launch

_PAIR = "smoke,tiny-tiny"
_CONFIG = {"seed": 0, "train": {"epochs": 2}, "teacher": [{"model": "tiny"}]}


def _claim(folder, config=_CONFIG, **options):
    with workdir.claim(folder, config, free=["train.workers"], **options) as claimed:
        claimed.confirm()
        return claimed.previous


@pytest.fixture
def started(tmp_path):
    """The workdir of a run that has a checkpoint."""
    _claim(tmp_path)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    return tmp_path


def test_config_json_records_versions_command_and_devices(started):
    # The returned config contains only fields.
    assert _claim(started) == _CONFIG
    content = json.loads((started / "config.json").read_text())
    starts = content.pop("starts")
    assert content == _CONFIG
    for start in (starts["first"], starts["latest"]):
        assert start["version"] == __version__
        assert start["command"].startswith("python ")
        assert start["date"].endswith("+00:00")
        assert start["devices"] == f"{jax.device_count()} cpu cpu"
        assert start["libraries"]["jax"] == jax.__version__
        assert {"flax", "optax", "orbax-checkpoint"} <= set(start["libraries"])


def test_a_missing_config_of_a_run_is_told(started, capsys):
    (started / "config.json").unlink()
    assert _claim(started) is None
    assert f"{started} has checkpoints, but no config.json" in capsys.readouterr().out
    _claim(started)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"seed": ', "Expecting value"),
        ("null", "it contains None instead of fields"),
        ("[1, 2]", r"it contains \[1, 2\] instead of fields"),
        ("[" * 100_000, "recursion|nest"),
        ("\udcff", "decode"),
    ],
)
def test_a_damaged_config_file_is_refused_with_a_remedy(content, reason, started):
    (started / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(errors.InputError, match=f"config.json is damaged .*{reason}.*; delete it"):
        _claim(started)


def test_another_config_is_refused_with_some_fields_and_the_version(started):
    path = started / "config.json"
    content = json.loads(path.read_text())
    content["starts"]["latest"]["version"] = "9.0.0"
    path.write_text(json.dumps(content | {f"new{i}": "x" * 200 for i in range(20)}))
    with pytest.raises(errors.InputError) as caught:
        _claim(started, _CONFIG | {"seed": 1})
    text = str(caught.value)
    assert "new0 is absent, stored xxx" in text
    assert "and 13 more" in text
    assert f"written by rrd_jax 9.0.0 (this is {__version__})" in text
    assert len(text) < 1500


def test_new_fields_of_a_later_version_get_their_defaults_and_a_note(started, capsys):
    later = _CONFIG | {"train": {"epochs": 2, "ema": 0.0}}
    assert _claim(started, later, defaults={"train": {"ema": 0.0}}) == _CONFIG
    assert "train.ema 0.0" in capsys.readouterr().out
    with pytest.raises(errors.InputError, match=r"train.grow is 3, stored absent"):
        _claim(started, _CONFIG | {"train": {"epochs": 2, "grow": 3}})


def test_a_workdir_that_is_not_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    for path in ("file", "file/below"):
        with pytest.raises(errors.InputError, match="file is a file; remove it, or pass another"):
            _claim(tmp_path / path)
    (tmp_path / "run" / "config.json").mkdir(parents=True)
    with pytest.raises(errors.InputError, match="config.json is a folder"):
        _claim(tmp_path / "run")
    with pytest.raises(errors.InputError, match="null"):
        _claim(tmp_path / "a\0b")


def test_a_workdir_within_the_checkpoints_of_a_run_is_refused(tmp_path):
    weights = {"params": {"w": np.ones(2, np.float32)}, "batch_stats": {}}
    checkpoints.save_network(tmp_path, weights, {"epoch": 1})
    for name in ("checkpoints", "checkpoints/0", "checkpoints/other"):
        refused = pytest.raises(errors.InputError, match="is inside the checkpoints of a run")
        with refused, workdir.claim(tmp_path / name, {}, free=()):
            pass


def test_a_full_disk_is_a_disk_error_and_not_an_input_error(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workdir.atomic_write, "write_json", fail)
    with pytest.raises(errors.DiskError, match="cannot be used: No space left on device"):
        _claim(tmp_path)


def test_a_file_system_without_locks_is_warned_about(tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    _claim(tmp_path)
    assert "cannot be locked (No locks available)" in capsys.readouterr().out


def test_a_run_waits_while_a_reader_holds_the_lock(tmp_path):
    _claim(tmp_path)
    reader = (tmp_path / "lock").open()
    # `rrd_jax.runs` holds the lock for some microseconds.
    fcntl.flock(reader, fcntl.LOCK_SH)
    threading.Timer(0.03, reader.close).start()
    _claim(tmp_path)
    assert reader.closed


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
def test_an_extended_run_is_bit_identical_to_a_long_run(tmp_path, capsys):
    fields = {"optimizer.schedule": "constant", "teacher.epochs": None}
    short, long = (launch.digits(_PAIR, **fields, **{"train.epochs": n}) for n in (1, 2))
    launch.run(short, tmp_path / "grown")
    capsys.readouterr()
    results = launch.run(long, tmp_path / "grown")
    output = capsys.readouterr().out
    assert "train.epochs 1 -> 2" in output
    assert "from 1 to 2 epochs, identical to a run with 2 epochs" in output
    assert "is finished and keeps train.epochs=1" in output
    assert [result.label for result in results] == ["teacher", "distilled, rrd+kd"]
    direct = launch.digits(_PAIR, **fields | {"train.epochs": 2, "teacher.epochs": 1})
    launch.run(direct, tmp_path / "direct")
    assert launch.rows(tmp_path / "grown") == launch.rows(tmp_path / "direct")
    assert launch.digests(tmp_path / "grown", 6) == launch.digests(tmp_path / "direct", 6)
    with pytest.raises(errors.InputError, match=r"train.epochs is 1, stored 2"):
        launch.run(short, tmp_path / "grown")


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.long
def test_extending_a_run_whose_schedule_depends_on_its_length_is_warned_about(tmp_path, capsys):
    fields = {"optimizer.schedule": "cosine"}
    for epochs in (1, 2):
        launch.run(launch.digits("smoke,tiny,ce", **fields, **{"train.epochs": epochs}), tmp_path)
    output = capsys.readouterr().out
    assert "learning rates so far followed the schedule for 1, and the rate changes from" in output
