"""Workdirs with random damage: a run ends as an undamaged one, or in one line of ours."""

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
    """A finished run, one stopped inside its last epoch, and what both end with."""
    from tests import tiny

    root = tmp_path_factory.mktemp("workdirs")
    with pytest.MonkeyPatch.context() as patch, tiny.registered():
        use_one_device(patch)
        results = launch.run(_config(), root / "finished")
        launch.preempt(_config(), root / "stopped", step=7)
    return root, results


def _remove(path, chance):
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _as_file(path, chance):
    _remove(path, chance)
    path.write_bytes(chance.choice(_JUNK))


def _as_folder(path, chance):
    _remove(path, chance)
    path.mkdir()


def _as_link(path, chance):
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
    at = chance.randrange(len(content))
    how = chance.choice(["cut", "flip", "insert", "zero"])
    if how == "cut":
        del content[at:]
    elif how == "flip":
        content[at] ^= 1 << chance.randrange(8)
    elif how == "insert":
        content[at:at] = b'"7"'
    else:
        content[at:] = bytes(len(content) - at)
    path.write_bytes(content)


_DAMAGES = [_remove, _as_file, _as_folder, _as_link, _change, _change]


def _damage(folder, chance):
    """Damages one to three things, in checkpoints or beside them; returns what, for a report."""
    said = []
    for _ in range(chance.choice([1, 1, 2, 3])):
        top = sorted(path for path in folder.iterdir())
        if not top:
            break
        path = chance.choice(top)
        while path.is_dir() and not path.is_symlink() and chance.random() < 0.85:
            inside = sorted(path.iterdir())
            if not inside:
                break
            path = chance.choice(inside)
        how = chance.choice(_DAMAGES)
        if path.is_symlink() and how is _change:
            continue
        how(path, chance)
        said.append(f"{how.__name__} {path.relative_to(folder)}")
    return said


def _check(workdirs, folder, number):
    """The property."""
    (root, results), chance = workdirs, random.Random(number)
    source = root / chance.choice(["finished", "stopped"])
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    said = _damage(folder, chance)
    try:
        (end,), message = launch.run(_config(), folder), None
    except errors.InputError as error:
        end, message = None, str(error)
    except BaseException as error:
        error.add_note(f"{number}: {source.name}: {', '.join(said)}")
        raise
    if message is not None:
        assert "\n" not in message, said
        assert str(folder) in message, said
        return
    (wanted,) = results
    assert end._replace(seconds=0, checkpoint="") == wanted._replace(seconds=0, checkpoint=""), said


@pytest.mark.usefixtures("one_device", "tiny_network")
@fuzz.settings(10)
@given(number=st.integers(0, 2**32))
def test_a_damaged_workdir_ends_as_an_undamaged_one_or_in_one_line(number, workdirs, tmp_path):
    _check(workdirs, tmp_path / "damaged", number)


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
@fuzz.seeded
@fuzz.long_settings(100)
@given(number=st.integers(0, 2**32))
def test_many_damaged_workdirs_end_as_undamaged_ones_or_in_one_line(number, workdirs, tmp_path):
    _check(workdirs, tmp_path / "damaged", number)
