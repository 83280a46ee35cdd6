"""Training loop: interruptions, checkpoints, speeds, profiles and failures."""

import gzip
import json
import re
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rrd_jax import errors, networks, parallel
from rrd_jax.jobs import loop
from rrd_jax.jobs.steps import Steps
from rrd_jax.teacher import fold
from tests import launch
from tests.conftest import use_one_device

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_device", "tiny_network")]
# Epochs of 3 steps.
_EPOCHS = 3


@pytest.fixture(scope="module")
def make_config(tiny_teacher):
    """A function that returns the config of a run with RRD, KD and a trained teacher."""

    def make(objectives=None, **fields):
        fields = {"teacher.checkpoint": str(tiny_teacher), "train.epochs": _EPOCHS, **fields}
        return launch.digits("smoke,tiny-tiny", objectives, **fields)

    return make


@pytest.fixture(scope="module")
def uninterrupted(make_config, tiny_network, tmp_path_factory):
    """The workdir of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        launch.run(make_config(), folder)
    return folder


def _assert_close(folder, other):
    """Asserts that two runs have equal metrics up to rounding.

    KD multiplies a small difference of logarithms of about 2 by 16, in float32.
    """
    for row, other_row in zip(launch.rows(folder), launch.rows(other), strict=True):
        assert row == pytest.approx(other_row, rel=1e-5, abs=5e-6)


def test_an_interrupted_and_resumed_run_is_bit_identical(tmp_path, make_config, uninterrupted):
    config = make_config(**{"train.save_every": 2})
    # Within the first epoch, within the second epoch and at the end of the second epoch.
    launch.interrupt(config, tmp_path, 2)
    launch.interrupt(config, tmp_path, 3)
    launch.preempt(config, tmp_path, 6)
    results = launch.run(config, tmp_path)
    assert launch.digests(tmp_path, 9) == launch.digests(uninterrupted, 9)
    assert launch.rows(tmp_path) == launch.rows(uninterrupted)
    assert results[-1].top1 == launch.rows(uninterrupted)[-1]["test/top1"]


def test_a_damaged_last_checkpoint_costs_only_one_epoch(
    tmp_path, make_config, uninterrupted, capsys
):
    launch.interrupt(make_config(), tmp_path, 7)
    _wait_for(lambda: (tmp_path / "checkpoints" / "6").is_dir())
    for file in (tmp_path / "checkpoints" / "6" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[:-50])
    launch.run(make_config(), tmp_path)
    assert "checkpoints/6 is damaged" in capsys.readouterr().out
    assert launch.digests(tmp_path, 9) == launch.digests(uninterrupted, 9)
    assert launch.rows(tmp_path) == launch.rows(uninterrupted)


def _wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_objectives_with_banks_get_the_number_of_examples_and_resume(tmp_path, make_config):
    small = {"weight": 1.0, "dim": 4}
    terms = {
        "ce": {"weight": 1.0},
        "crd": {**small, "memory": "bank", "negatives": 6},
        "rrd": {**small, "memory": "momentum", "queue_size": 6, "examples": None},
    }
    config = make_config(terms, **{"train.epochs": 2, "train.save_every": 2})
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    launch.run(config, uninterrupted)
    # Step 5 of 6 is in the second epoch.
    launch.interrupt(config, resumed, 5)
    launch.run(config, resumed)
    assert launch.digests(resumed, 6) == launch.digests(uninterrupted, 6)
    assert {"train/loss/crd", "train/loss/rrd"} <= set(launch.rows(uninterrupted)[-1])


def test_several_steps_per_dispatch_equal_single_steps_after_a_resume(tmp_path, monkeypatch):
    single, multiple = tmp_path / "single", tmp_path / "multiple"
    fields = {"train.epochs": _EPOCHS, "train.save_every": 2}
    launch.run(launch.digits("smoke,tiny", **fields), single)
    launch.interrupt(launch.digits("smoke,tiny", **fields), multiple, 2)
    counts, original = [], loop.dispatches

    def dispatches(*arguments):
        for count, batch in original(*arguments):
            counts.append(count)
            yield count, batch

    monkeypatch.setattr(loop, "dispatches", dispatches)
    launch.run(launch.digits("smoke,tiny", **fields, **{"train.steps_per_dispatch": 5}), multiple)
    # The rest of the first epoch, then one dispatch per epoch.
    assert counts == [1, 3, 3]
    _assert_close(multiple, single)


def test_metrics_contain_the_utilization_of_the_devices(tmp_path, make_config, monkeypatch):
    monkeypatch.setattr(parallel, "peak_flops", lambda kind: 1e10)
    macs = networks.summarize(networks.create("tiny", 10), (8, 8, 1)).macs
    # A teacher whose embeddings are not cached.
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "checkpoints").symlink_to(f"{make_config().teacher.checkpoint}/checkpoints")
    for cache, flops in (("off", 2 * 4 * macs), ("on", 2 * 3 * macs)):
        fields = {"teacher.checkpoint": str(teacher), "teacher.cache": cache, "train.epochs": 1}
        launch.run(make_config(**fields), tmp_path / cache)
        row = json.loads((tmp_path / cache / "metrics.jsonl").read_text().splitlines()[-1])
        rate = row["images_per_second"]
        assert row["step_milliseconds"] == pytest.approx(1000 * 8 / rate)
        assert row["model_teraflops_per_second"] == pytest.approx(rate * flops / 1e12)
        assert row["model_flop_utilisation"] == pytest.approx(rate * flops / 1e10)


def test_a_profile_is_written_and_does_not_change_the_run(
    tmp_path, make_config, uninterrupted, capsys
):
    traced = tmp_path / "traced"
    launch.run(make_config(), traced, profile=2)
    output = capsys.readouterr().out
    assert (
        f"2 steps traced in {traced}/profile; view with 'xprof --logdir={traced}/profile'" in output
    )
    assert list((traced / "profile").rglob("*.xplane.pb"))
    (path,) = re.findall(r"open (\S+) in https://ui.perfetto.dev", output)
    with gzip.open(traced / "profile" / path) as file:
        content = json.load(file)
    # Perfetto refuses files with the key "metadata".
    assert "metadata" not in content
    names = [event.get("name") for event in content["traceEvents"]]
    assert names.count("train") == 2
    assert any(event.get("args", {}).get("hlo_op") for event in content["traceEvents"])
    assert launch.rows(traced) == launch.rows(uninterrupted)
    launch.run(make_config(), traced, profile=2)
    assert "no steps traced, because the run in" in capsys.readouterr().out


def test_a_folded_teacher_gives_the_losses_of_the_unfolded_teacher(
    tmp_path, make_config, uninterrupted, monkeypatch
):
    monkeypatch.setattr(fold, "fold", lambda network, variables, image_shape: variables)
    launch.run(make_config(), tmp_path)
    assert launch.rows(tmp_path) != launch.rows(uninterrupted)
    _assert_close(tmp_path, uninterrupted)


def test_a_resident_run_on_eight_devices_has_the_losses_of_one_device(tmp_path, monkeypatch):
    config = launch.digits("smoke,tiny", **{"optimizer.learning_rate": 0.01})
    launch.run(config, tmp_path / "one")
    # Undo the fixture one_device.
    monkeypatch.undo()
    launch.run(config, tmp_path / "eight")
    rows = zip(launch.rows(tmp_path / "one"), launch.rows(tmp_path / "eight"), strict=True)
    for single, multiple in rows:
        assert multiple["train/loss"] == pytest.approx(single["train/loss"], rel=1e-4)


def test_a_nonfinite_loss_stops_the_run_and_names_objective_and_last_good_step(
    tmp_path, make_config, monkeypatch
):
    make_steps = Steps.__call__

    def call_with_nan(self, position, count, teacher, batch):
        if position.step == 4:
            params = jax.tree.map(
                lambda leaf: jax.device_put(np.full(leaf.shape, np.nan, leaf.dtype), leaf.sharding),
                position.state.params,
            )
            position.state = position.state.replace(params=params)
        return make_steps(self, position, count, teacher, batch)

    monkeypatch.setattr(Steps, "__call__", call_with_nan)
    with pytest.raises(errors.DivergedError, match="from step 5 on: ce .* checkpoint is step 3"):
        launch.run(make_config(), tmp_path)
    assert launch.digests(tmp_path, 3)


def test_a_full_disk_stops_the_run_without_losing_checkpoints(tmp_path, make_config, monkeypatch):
    original = ocp.CheckpointManager.save

    def save(self, step, *arguments, **options):
        if step == 6:
            raise OSError(28, "No space left on device")
        return original(self, step, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", save)
        message = r"\(No space left on device\); the last intact checkpoint is step 3"
        with pytest.raises(errors.DiskError, match=message):
            launch.run(make_config(), tmp_path)
    assert launch.run(make_config(), tmp_path)[-1].top1 >= 0


def test_a_run_that_waits_for_images_is_noted(tmp_path, make_config, monkeypatch, capsys):
    original = loop.dispatches

    def delayed(*arguments):
        for dispatch in original(*arguments):
            time.sleep(0.2)
            yield dispatch

    monkeypatch.setattr(loop, "dispatches", delayed)
    fields = {"data.feed": "streamed", "train.epochs": 2}
    launch.run(make_config(**fields), tmp_path)
    output = capsys.readouterr().out
    assert output.count("steps wait for images") == 1
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert 5 < row["input_wait_percent"] <= 100
