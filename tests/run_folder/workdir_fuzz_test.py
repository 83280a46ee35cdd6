"""Fuzz test of damaged workdirs: a run has the usual result or ends with an error of one line."""

import random
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrd_jax import errors
from tests import fuzz, launch
from tests.conftest import use_one_device

_EPOCHS = 3
_JUNK = [b"", b"null", b"[]", b"{}", b"7", b"\x00\xff" * 40, b'{"a": ', b"[" * 99_999, b'{"a": 1}']


def _config():
    return launch.digits("smoke,tiny,ce", **{"train.epochs": _EPOCHS})


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """The parent folder of a finished and a stopped run, and the results of the finished run."""
    from tests import tiny

    root = tmp_path_factory.mktemp("workdirs")
    with pytest.MonkeyPatch.context() as patch, tiny.registered():
        use_one_device(patch)
        results = launch.run(_config(), root / "finished")
        launch.preempt(_config(), root / "stopped", step=7)
    return root, results


def _remove(path, chance):
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _replace_by_file(path, chance):
    _remove(path, chance)
    path.write_bytes(chance.choice(_JUNK))


def _replace_by_folder(path, chance):
    _remove(path, chance)
    path.mkdir()


def _replace_by_link(path, chance):
    _remove(path, chance)
    path.symlink_to(chance.choice([path.name, "nowhere", "/dev/null"]))


def _change(path, chance):
    if path.is_dir():
        (path / chance.choice(["7", "8.damaged", "x", "9.orbax-checkpoint-tmp"])).mkdir(
            exist_ok=True
        )
        return
    content = bytearray(path.read_bytes())
    if not content:
        return
    position = chance.randrange(len(content))
    mode = chance.choice(["cut", "flip", "insert", "zero"])
    if mode == "cut":
        del content[position:]
    elif mode == "flip":
        content[position] ^= 1 << chance.randrange(8)
    elif mode == "insert":
        content[position:position] = b'"7"'
    else:
        content[position:] = bytes(len(content) - position)
    path.write_bytes(content)


_DAMAGES = [_remove, _replace_by_file, _replace_by_folder, _replace_by_link, _change, _change]


def _damage_files(folder, chance):
    """Damages one to three files or folders; returns a description of each damage."""
    damages = []
    for _ in range(chance.choice([1, 1, 2, 3])):
        entries = sorted(path for path in folder.iterdir())
        if not entries:
            break
        path = chance.choice(entries)
        while path.is_dir() and not path.is_symlink() and chance.random() < 0.85:
            entries = sorted(path.iterdir())
            if not entries:
                break
            path = chance.choice(entries)
        damage = chance.choice(_DAMAGES)
        if path.is_symlink() and damage is _change:
            continue
        damage(path, chance)
        damages.append(f"{damage.__name__} {path.relative_to(folder)}")
    return damages


def _check(workdirs, folder, number):
    """Asserts that a run in a damaged workdir has the usual result or ends with one line."""
    (root, results), chance = workdirs, random.Random(number)
    source = root / chance.choice(["finished", "stopped"])
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    damages = _damage_files(folder, chance)
    try:
        (*_, result), message = launch.run(_config(), folder), None
    except errors.InputError as error:
        result, message = None, str(error)
    except BaseException as error:
        error.add_note(f"{number}: {source.name}: {', '.join(damages)}")
        raise
    if message is not None:
        assert "\n" not in message, damages
        assert str(folder) in message, damages
        return
    (expected,) = results
    assert result._replace(seconds=0, checkpoint="") == expected._replace(
        seconds=0, checkpoint=""
    ), damages


@pytest.mark.usefixtures("one_device", "tiny_network")
@fuzz.settings(10)
@given(number=st.integers(0, 2**32))
@pytest.mark.long
def test_a_damaged_workdir_gives_the_usual_result_or_one_error_line(number, workdirs, tmp_path):
    _check(workdirs, tmp_path / "damaged", number)


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
@fuzz.seeded
@fuzz.long_settings(40)
@given(number=st.integers(0, 2**32))
def test_many_damaged_workdirs_give_the_usual_result_or_one_error_line(number, workdirs, tmp_path):
    _check(workdirs, tmp_path / "damaged", number)
