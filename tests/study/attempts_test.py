import json

import pytest

from experiments.study import attempts
from rrd_jax import errors


def _die(folder, launch="first", teachers=()):
    """Leaves what a process leaves that ends in the middle of a run."""
    folder.mkdir(exist_ok=True)
    with attempts.counted(folder, launch, teachers):
        left = (folder / "attempts.json").read_text()
    (folder / "attempts.json").write_text(left)


def _start(folder, launch="first"):
    with attempts.counted(folder, launch):
        pass


def test_a_run_whose_process_died_three_times_is_not_tried_again_in_a_launch(tmp_path):
    for _ in range(3):
        _die(tmp_path)
    with pytest.raises(errors.InputError, match="died 3 times without a new checkpoint"):
        _start(tmp_path)
    _start(tmp_path, "second")


def test_deaths_count_since_the_last_checkpoint(tmp_path):
    for step in range(5):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
        _die(tmp_path)
        _die(tmp_path)
    _start(tmp_path)


@pytest.mark.parametrize("error", [errors.PreemptedError, KeyboardInterrupt, errors.DiskError])
def test_an_orderly_end_is_no_death(tmp_path, error):
    for _ in range(5):
        with pytest.raises(error), attempts.counted(tmp_path, "first"):
            raise error
    _start(tmp_path)


def test_deaths_count_across_an_orderly_end_and_a_lost_device_is_one(tmp_path):
    _die(tmp_path)
    with pytest.raises(errors.PreemptedError), attempts.counted(tmp_path, "first"):
        raise errors.PreemptedError
    for _ in range(2):
        with pytest.raises(errors.LostError), attempts.counted(tmp_path, "first"):
            raise errors.LostError
    with pytest.raises(errors.InputError, match="died 3 times"):
        _start(tmp_path)


def test_waiting_for_a_teacher_is_no_start(tmp_path):
    for _ in range(2):
        with pytest.raises(errors.InUseError), attempts.counted(tmp_path, "first"):
            raise errors.InUseError
    _start(tmp_path)
    assert json.loads((tmp_path / "attempts.json").read_text())["starts"] == 1


def test_a_teacher_that_gets_on_is_progress(tmp_path):
    teacher = tmp_path / "teacher"
    for step in range(5):
        (teacher / "checkpoints" / str(step)).mkdir(parents=True)
        _die(tmp_path / "run", teachers=[teacher])
    _start(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"launch": "first"}'])
def test_a_damaged_file_is_as_none(tmp_path, text):
    (tmp_path / "attempts.json").write_text(text)
    (tmp_path / "failed.json").write_text(text)
    _start(tmp_path)
    assert attempts.failure(tmp_path, "second") == ""


def test_a_failure_is_of_its_launch_and_in_one_line(tmp_path):
    attempts.keep_failure(tmp_path / "run", "first", ZeroDivisionError("division\n  by zero"))
    assert attempts.failure(tmp_path / "run", "first") == "ZeroDivisionError: division by zero"
    assert attempts.failure(tmp_path / "run", "second") == ""
    attempts.forget_failure(tmp_path / "run")
    assert attempts.failure(tmp_path / "run", "first") == ""
