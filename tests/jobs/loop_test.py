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

pytestmark = pytest.mark.usefixtures("one_device", "tiny_network")
_EPOCHS = 3  # of 3 steps


@pytest.fixture(scope="module")
def make_config(tiny_teacher):
    """Makes the config of a run by RRD and KD, with a trained teacher."""

    def make(objectives=None, **fields):
        fields = {"teacher.checkpoint": str(tiny_teacher), "train.epochs": _EPOCHS, **fields}
        return launch.digits("smoke,tiny-tiny", objectives, **fields)

    return make


@pytest.fixture(scope="module")
def whole(make_config, tiny_network, tmp_path_factory):
    """The workdir of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        launch.run(make_config(), folder)
    return folder


def _assert_close(folder, other):
    """Up to rounding: KD is 16 times a small difference of logarithms of about 2, in float32."""
    for row, other_row in zip(launch.rows(folder), launch.rows(other), strict=True):
        assert row == pytest.approx(other_row, rel=1e-5, abs=5e-6)


def test_a_stopped_run_goes_on_and_ends_bit_for_bit_as_an_unbroken_one(
    tmp_path, make_config, whole
):
    config = make_config(**{"train.save_every": 2})
    launch.interrupt(config, tmp_path, 2)  # inside the first epoch
    launch.interrupt(config, tmp_path, 3)  # inside the second
    launch.preempt(config, tmp_path, 6)  # at its end
    results = launch.run(config, tmp_path)
    assert launch.digests(tmp_path, 9) == launch.digests(whole, 9)
    assert launch.rows(tmp_path) == launch.rows(whole)
    assert results[-1].top1 == launch.rows(whole)[-1]["test/top1"]


def test_a_corrupt_newest_checkpoint_costs_its_epoch_and_no_more(
    tmp_path, make_config, whole, capsys
):
    launch.interrupt(make_config(), tmp_path, 7)
    _wait_for(lambda: (tmp_path / "checkpoints" / "6").is_dir())
    for file in (tmp_path / "checkpoints" / "6" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[:-50])
    launch.run(make_config(), tmp_path)
    assert "checkpoints/6 is damaged" in capsys.readouterr().out
    assert launch.digests(tmp_path, 9) == launch.digests(whole, 9)
    assert launch.rows(tmp_path) == launch.rows(whole)


def _wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.long
def test_objectives_with_banks_get_the_number_of_examples_and_go_on_where_they_stopped(
    tmp_path, make_config
):
    small = {"weight": 1.0, "dim": 4}
    terms = {
        "ce": {"weight": 1.0},
        "crd": {**small, "memory": "bank", "negatives": 6},
        "rrd": {**small, "memory": "momentum", "queue_size": 6, "examples": None},
    }
    config = make_config(terms, **{"train.epochs": 2, "train.save_every": 2})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    launch.run(config, whole)
    launch.interrupt(config, broken, 5)  # 24 images in batches of 8, two epochs
    launch.run(config, broken)
    assert launch.digests(broken, 6) == launch.digests(whole, 6)
    assert {"train/loss/crd", "train/loss/rrd"} <= set(launch.rows(whole)[-1])


@pytest.mark.long
def test_many_steps_a_call_give_what_single_steps_give_from_any_step(tmp_path, monkeypatch):
    single, many = tmp_path / "single", tmp_path / "many"
    fields = {"train.epochs": _EPOCHS, "train.save_every": 2}
    launch.run(launch.digits("smoke,tiny", **fields), single)
    launch.interrupt(launch.digits("smoke,tiny", **fields), many, 2)
    counts, original = [], loop.dispatches

    def dispatches(*arguments):
        for count, batch in original(*arguments):
            counts.append(count)
            yield count, batch

    monkeypatch.setattr(loop, "dispatches", dispatches)
    launch.run(launch.digits("smoke,tiny", **fields, **{"train.steps_per_dispatch": 5}), many)
    assert counts == [1, 3, 3]  # the rest of the first epoch, then whole ones
    _assert_close(many, single)


@pytest.mark.long
def test_a_row_says_how_much_of_the_devices_a_run_uses(tmp_path, make_config, monkeypatch):
    monkeypatch.setattr(parallel, "peak_flops", lambda kind: 1e10)
    macs = networks.summarize(networks.create("tiny", 10), (8, 8, 1)).macs
    teacher = tmp_path / "teacher"  # whose embeddings are not kept yet
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


@pytest.mark.long
def test_a_trace_of_some_steps_is_written_and_changes_nothing(tmp_path, make_config, whole, capsys):
    traced = tmp_path / "traced"
    launch.run(make_config(), traced, profile=2)
    said = capsys.readouterr().out
    assert (
        f"2 steps traced in {traced}/profile; view with 'xprof --logdir={traced}/profile'" in said
    )
    assert list((traced / "profile").rglob("*.xplane.pb"))
    (path,) = re.findall(r"open (\S+) in https://ui.perfetto.dev", said)
    with gzip.open(traced / "profile" / path) as file:
        content = json.load(file)
    assert "metadata" not in content  # Perfetto refuses it
    names = [event.get("name") for event in content["traceEvents"]]
    assert names.count("train") == 2
    assert any(event.get("args", {}).get("hlo_op") for event in content["traceEvents"])
    assert launch.rows(traced) == launch.rows(whole)
    launch.run(make_config(), traced, profile=2)
    assert "no steps traced, because the run in" in capsys.readouterr().out


@pytest.mark.long
def test_a_folded_teacher_gives_the_losses_that_it_gives_as_it_is(
    tmp_path, make_config, whole, monkeypatch
):
    monkeypatch.setattr(fold, "fold", lambda network, variables, image_shape: variables)
    launch.run(make_config(), tmp_path)
    assert launch.rows(tmp_path) != launch.rows(whole)
    _assert_close(tmp_path, whole)


def test_a_resident_run_on_eight_devices_has_the_losses_of_one(tmp_path, monkeypatch):
    config = launch.digits("smoke,tiny", **{"optimizer.learning_rate": 0.01})
    launch.run(config, tmp_path / "one")
    monkeypatch.undo()  # of `one_device`
    launch.run(config, tmp_path / "eight")
    rows = zip(launch.rows(tmp_path / "one"), launch.rows(tmp_path / "eight"), strict=True)
    for one, eight in rows:
        assert eight["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_its_objective_step_and_the_last_good_one(
    tmp_path, make_config, monkeypatch
):
    make_steps = Steps.__call__

    def poisoned(self, position, count, teacher, batch):
        if position.step == 4:
            params = jax.tree.map(
                lambda leaf: jax.device_put(np.full(leaf.shape, np.nan, leaf.dtype), leaf.sharding),
                position.state.params,
            )
            position.state = position.state.replace(params=params)
        return make_steps(self, position, count, teacher, batch)

    monkeypatch.setattr(Steps, "__call__", poisoned)
    with pytest.raises(errors.DivergedError, match="from step 5 on: ce .* step 3 is the last"):
        launch.run(make_config(), tmp_path)
    assert launch.digests(tmp_path, 3)


def test_a_full_disk_is_said_and_loses_nothing(tmp_path, make_config, monkeypatch):
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


@pytest.mark.long
def test_a_run_whose_images_come_slowly_says_so(tmp_path, make_config, monkeypatch, capsys):
    plain = loop.dispatches

    def slowly(*arguments):
        for call in plain(*arguments):
            time.sleep(0.2)
            yield call

    monkeypatch.setattr(loop, "dispatches", slowly)
    fields = {"data.feed": "streamed", "train.epochs": 2}
    launch.run(make_config(**fields), tmp_path)
    said = capsys.readouterr().out
    assert said.count("steps wait for images") == 1
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert 5 < row["input_wait_percent"] <= 100
