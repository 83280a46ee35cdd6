"""Checkpoints: saving, restoring, retention, damage and digests."""

import itertools
import json
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import checkpoints, errors, parallel
from rrd_jax.checkpoints import digests
from rrd_jax.objectives.parts import memory
from rrd_jax.training.state import TrainState


def make_state(step=0, value=1.0):
    """Returns a small state that has all kinds of leaves of a real state."""
    queue = memory.init_queue(jax.random.key(1), 6, 2)
    return TrainState(
        step=jnp.int32(step),
        params={"student": {"w": jnp.full((4, 3), value)}, "objectives": {"ce": ()}},
        batch_stats={"mean": jnp.full((3,), value)},
        ema=(),
        opt_state=(({"w": jnp.full((4, 3), -value)},), ()),
        frozen={"rrd": {"kernel": jnp.ones((2, 2))}, "ce": ()},
        memory={"rrd": queue._replace(cursor=jnp.int32(step % 6)), "ce": ()},
        key=jax.random.key(7),
    )


def _save(folder, steps, scores=None):
    with checkpoints.Checkpoints(folder) as store:
        for step, score in zip(steps, scores or [None] * len(steps), strict=True):
            store.save(make_state(step, float(step)), {"epoch": step, "model": "m"}, score)


def _assert_equal(a, b):
    def to_host(state):
        return jax.device_get(state.replace(key=jax.random.key_data(state.key)))

    jax.tree.map(np.testing.assert_array_equal, to_host(a), to_host(b))


def _restore(folder):
    with checkpoints.Checkpoints(folder) as store:
        return store.restore(make_state())


def test_the_last_checkpoint_is_restored_bit_for_bit_with_its_metadata(tmp_path):
    assert _restore(tmp_path) is checkpoints.read_meta(tmp_path) is None
    with (
        checkpoints.Checkpoints(tmp_path) as store,
        pytest.raises(errors.DivergedError, match=r"\['w'\] is not finite at step 4"),
    ):
        store.save(make_state(4, float("nan")), {})
    assert checkpoints.read_meta(tmp_path) is None
    _save(tmp_path, [3, 5])
    state, meta = _restore(tmp_path)
    _assert_equal(state, make_state(5, 5.0))
    assert meta == {"epoch": 5, "model": "m"}
    assert checkpoints.read_meta(tmp_path)["epoch"] == 5


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([10.0, 30.0, 20.0, 25.0, 5.0], ["2", "4", "5"]),
        # The first of equal scores is the best.
        ([7.0, 7.0, 7.0, 7.0], ["1", "3", "4"]),
        # Checkpoints within an epoch have no score.
        ([10.0, None, None, None], ["1", "3", "4"]),
    ],
)
def test_the_last_two_checkpoints_and_the_best_are_kept(tmp_path, scores, expected):
    _save(tmp_path, range(1, len(scores) + 1), scores)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == expected


def test_a_started_save_is_finished_after_an_interruption(tmp_path):
    def save_and_interrupt():
        with checkpoints.Checkpoints(tmp_path) as store:
            store.save(make_state(3, 3.0), {"epoch": 3, "model": "m"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_and_interrupt()
    _assert_equal(_restore(tmp_path)[0], make_state(3, 3.0))


def _files(folder):
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]


def _damage_file(path, mode):
    if mode == "delete":
        path.unlink()
    elif mode == "truncate":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x40
        path.write_bytes(bytes(content))


@pytest.mark.parametrize("mode", ["flip", "truncate", "delete"])
def test_a_damaged_file_never_gives_wrong_values(mode, tmp_path, capsys):
    intact = tmp_path / "intact"
    _save(intact, [3, 5])
    for i, file in enumerate(_files(intact / "5")):
        copy = tmp_path / f"copy{i}"
        shutil.copytree(intact, copy)
        _damage_file(copy / file.relative_to(intact), mode)
        state, meta = _restore(copy)
        step = int(state.step)
        _assert_equal(state, make_state(step, float(step)))
        assert meta == {"epoch": step, "model": "m"}
        assert step in (3, 5)
        if step == 3:
            out = capsys.readouterr().out
            assert "5 is damaged" in out
            assert "resuming from step 3" in out
            assert (copy / "5.damaged").is_dir()


def test_a_changed_byte_of_the_metadata_is_detected(tmp_path):
    _save(tmp_path, [3])
    path = tmp_path / "3" / "meta" / "metadata"
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(bytes(changed))
        meta = checkpoints.read_meta(tmp_path)
        assert meta in (None, {"epoch": 3, "model": "m"})


def damage_state(folder):
    for file in _files(folder / "state"):
        _damage_file(file, "truncate")


def test_damaged_checkpoints_are_never_deleted_and_can_be_saved_again(tmp_path):
    _save(tmp_path, [3, 5])
    damage_state(tmp_path / "5")
    with checkpoints.Checkpoints(tmp_path) as store:
        state, _ = store.restore(make_state())
        assert int(state.step) == 3
        store.save(make_state(5, 55.0), {"epoch": 5})
    _assert_equal(_restore(tmp_path)[0], make_state(5, 55.0))
    damage_state(tmp_path / "3")
    damage_state(tmp_path / "5")
    with pytest.raises(errors.InputError, match="all checkpoints in .* are damaged"):
        _restore(tmp_path)
    assert (tmp_path / "3").is_dir()
    assert (tmp_path / "5").is_dir()


def test_the_student_can_be_read_alone(tmp_path):
    _save(tmp_path / "checkpoints", [3, 5])
    for folder in (tmp_path, tmp_path / "checkpoints"):
        student, meta = checkpoints.load_student(folder)
        np.testing.assert_array_equal(student["params"]["w"], np.full((4, 3), 5.0))
        np.testing.assert_array_equal(student["batch_stats"]["mean"], np.full(3, 5.0))
        assert meta["model"] == "m"


@pytest.mark.parametrize("average", [False, True])
def test_an_objective_that_replaces_the_classifier_is_read_with_the_student(average, tmp_path):
    head = {"params": {"w": jnp.full(2, 3.0)}, "frozen": {"b": jnp.full(2, 4.0)}}
    state = make_state(3, 3.0)
    state = state.replace(
        params=state.params | {"objectives": {"ce": (), "simkd": head["params"]}},
        frozen=state.frozen | {"simkd": head["frozen"]},
        memory=state.memory | {"simkd": {"m": jnp.full(2, 5.0)}},
        classifier="simkd",
    )
    if average:
        half = jax.tree.map(lambda leaf: leaf / 2, state.student)
        state = state.replace(ema={name: half[name] for name in ("params", "batch_stats")})
    with checkpoints.Checkpoints(tmp_path) as store:
        store.save(state, {"model": "m", "classifier": "simkd"})
    student, _ = checkpoints.load_student(tmp_path)
    np.testing.assert_array_equal(student["params"]["w"], np.full((4, 3), 1.5 if average else 3.0))
    jax.tree.map(np.testing.assert_array_equal, student, jax.device_get(state.student))
    assert set(student["classifier"]) == {"params", "frozen", "memory"}


def test_host_digest_equals_digest():
    rng = np.random.default_rng(0)
    tree = {
        "kernel": rng.standard_normal((3, 3, 5, 70)).astype(np.float32),
        "half": [rng.standard_normal((4, 9)).astype(jnp.bfloat16), np.float16([1, -0.0])],
        "counts": {"n": np.int32(-7), "mask": np.array([True, False])},
        "none": np.zeros((0, 3), np.float32),
        "bytes": rng.integers(0, 256, 1000, np.uint8),
    }
    assert checkpoints.host_digest(tree) == checkpoints.digest(tree)


def test_a_digest_depends_on_each_bit_and_position_but_not_on_devices():
    rng = np.random.default_rng(0)
    array = rng.standard_normal((16, 6)).astype(np.float32)
    digest = checkpoints.digest({"w": array})
    mesh = parallel.make_mesh()
    for sharding in (parallel.split(mesh), parallel.replicated(mesh)):
        assert checkpoints.digest({"w": jax.device_put(array, sharding)}) == digest
    different = [array.T.copy(), -array, array[::-1].copy(), array[:8], array.view(np.int32)]
    for position, bit in itertools.product(range(0, array.nbytes, 7), (0, 5)):
        different.append(array.copy())
        different[-1].view(np.uint8).reshape(-1)[position] ^= 1 << bit
    # Swap two words.
    for i in range(1, array.size, 5):
        different.append(array.copy())
        different[-1].reshape(-1)[[0, i]] = array.reshape(-1)[[i, 0]]
    assert (
        len({digest, *(checkpoints.digest({"w": other}) for other in different)})
        == len(different) + 1
    )


def test_a_checkpoint_of_another_version_is_named(tmp_path, capsys):
    _save(tmp_path, [3])
    path = tmp_path / "3" / "meta" / "metadata"
    stored = json.loads(path.read_text())
    other_digests = dict.fromkeys(stored["digests"], "0" * 64)
    path.write_text(json.dumps(digests.seal(stored["meta"], other_digests)))
    with pytest.raises(errors.InputError):
        _restore(tmp_path)
    assert "written by another version of rrd_jax" in capsys.readouterr().out


@pytest.mark.parametrize("which", ["", "5"])
def test_a_library_that_cannot_be_imported_is_not_a_damaged_checkpoint(
    which, tmp_path, monkeypatch, capsys
):
    _save(tmp_path, [5])
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(errors.UnavailableError, match="orbax.checkpoint cannot be imported"):
        checkpoints.load_student(tmp_path, which)
    assert "damaged" not in capsys.readouterr().out


def test_load_student_skips_a_damaged_checkpoint_and_refuses_a_missing_folder(tmp_path):
    _save(tmp_path, [3, 5])
    damage_state(tmp_path / "5")
    student, _ = checkpoints.load_student(tmp_path)
    np.testing.assert_array_equal(student["params"]["w"], np.full((4, 3), 3.0))
    with pytest.raises(errors.InputError, match="no intact checkpoint in"):
        checkpoints.load_student(tmp_path / "missing")


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    _save(tmp_path, [3])
    other = make_state().replace(batch_stats={"mean": jnp.zeros(4)})
    with (
        checkpoints.Checkpoints(tmp_path) as store,
        pytest.raises(errors.InputError, match="damaged"),
    ):
        store.restore(other)


def test_a_sharded_memory_is_restored_onto_other_numbers_of_devices(tmp_path):
    def make_sharded(devices):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        state = make_state(5, 5.0)
        return jax.device_put(state, parallel.state_shardings(mesh, state))

    store = checkpoints.Checkpoints(tmp_path)
    store.save(make_sharded(2), {"epoch": 1})
    store.wait()
    for devices in (1, 2, 3):
        like = make_sharded(devices)
        state, _ = store.restore(like)
        _assert_equal(state, make_state(5, 5.0))
        assert state.memory["rrd"].rows.sharding == like.memory["rrd"].rows.sharding
    store.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_sums_of_small_arrays_on_a_cpu_need_no_compilation_and_are_equal(dtype):
    values = np.random.default_rng(0).normal(size=(3, 4)) * 10
    for array in (values, np.full((2, 2), np.nan) if "float" in dtype else values[0], values[1, 1]):
        array = jnp.asarray(array).astype(dtype)
        expected, actual = digests._leaf_sums(array), digests._sums(array)
        assert isinstance(actual, np.ndarray)
        np.testing.assert_array_equal(expected, actual)
