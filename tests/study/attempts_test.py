import json

import pytest

from experiments.study import attempts
from rrd_jax import errors


def _die(folder, launch="first", teachers=()):
    """Simulates an attempt whose process dies in the middle of a run."""
    folder.mkdir(exist_ok=True)
    with attempts.count_attempt(folder, launch, teachers):
        content = (folder / "attempts.json").read_text()
    (folder / "attempts.json").write_text(content)


def _start(folder, launch="first"):
    with attempts.count_attempt(folder, launch):
        pass


def test_a_run_whose_process_died_three_times_is_not_retried_in_the_same_launch(tmp_path):
    for _ in range(3):
        _die(tmp_path)
    with pytest.raises(errors.InputError, match="died 3 times without a new checkpoint"):
        _start(tmp_path)
    _start(tmp_path, "second")


def test_a_new_checkpoint_resets_the_number_of_deaths(tmp_path):
    for step in range(5):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
        _die(tmp_path)
        _die(tmp_path)
    _start(tmp_path)


@pytest.mark.parametrize("error", [errors.PreemptedError, KeyboardInterrupt, errors.DiskError])
def test_an_exception_is_not_a_death(tmp_path, error):
    for _ in range(5):
        with pytest.raises(error), attempts.count_attempt(tmp_path, "first"):
            raise error
    _start(tmp_path)


def test_a_lost_device_is_a_death_and_an_exception_does_not_reset_the_number(tmp_path):
    _die(tmp_path)
    with pytest.raises(errors.PreemptedError), attempts.count_attempt(tmp_path, "first"):
        raise errors.PreemptedError
    for _ in range(2):
        with pytest.raises(errors.LostError), attempts.count_attempt(tmp_path, "first"):
            raise errors.LostError
    with pytest.raises(errors.InputError, match="died 3 times"):
        _start(tmp_path)


def test_waiting_for_a_teacher_does_not_count_as_a_start(tmp_path):
    for _ in range(2):
        with pytest.raises(errors.InUseError), attempts.count_attempt(tmp_path, "first"):
            raise errors.InUseError
    _start(tmp_path)
    assert json.loads((tmp_path / "attempts.json").read_text())["starts"] == 1


def test_a_checkpoint_of_a_teacher_resets_the_number_of_deaths(tmp_path):
    teacher = tmp_path / "teacher"
    for step in range(5):
        (teacher / "checkpoints" / str(step)).mkdir(parents=True)
        _die(tmp_path / "run", teachers=[teacher])
    _start(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"launch": "first"}'])
def test_a_damaged_file_is_ignored(tmp_path, text):
    (tmp_path / "attempts.json").write_text(text)
    (tmp_path / "failed.json").write_text(text)
    _start(tmp_path)
    assert attempts.failure(tmp_path, "second") == ""


def test_a_failure_belongs_to_its_launch_and_has_one_line(tmp_path):
    attempts.record_failure(tmp_path / "run", "first", ZeroDivisionError("division\n  by zero"))
    assert attempts.failure(tmp_path / "run", "first") == "ZeroDivisionError: division by zero"
    assert attempts.failure(tmp_path / "run", "second") == ""
    attempts.delete_failure(tmp_path / "run")
    assert attempts.failure(tmp_path / "run", "first") == ""
