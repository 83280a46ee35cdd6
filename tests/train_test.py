import itertools
import json
import pathlib
import time

import cv2
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import digits
from rrd_jax import checkpoints, data, errors, fit, networks, parallel, recipes, report, runs, train
from rrd_jax.data import feed
from rrd_jax.teacher import fold
from tests.conftest import use_one_device


def _config(argument="smoke,resnet8-resnet8", **fields):
    config = digits.get_config(argument)
    config.lock()
    config.baseline = False
    config.update_from_flattened_dict(fields)
    return config


def _checkpoint_of(folder, step):
    """Every array of a checkpoint, by digest."""
    path = folder / "checkpoints" / str(step) / "meta" / "metadata"
    return json.loads(path.read_text())["digests"]


def _rows(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in report.speeds(1, 1, 1, 1)} for row in rows]


@pytest.fixture(scope="module")
def teacher_workdir(tmp_path_factory):
    """A finished teacher, for tests that need one and do not look at its training."""
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        train.run(_config("smoke,resnet8,ce"), str(folder))
    return str(folder)


@pytest.mark.usefixtures("one_device")
def test_a_stopped_run_goes_on_and_ends_bit_for_bit_as_an_unbroken_one(
    tmp_path, teacher_workdir, monkeypatch
):
    fields = {"teacher.checkpoint": teacher_workdir, "train.epochs": 3, "train.save_every": 2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train.run(_config(**fields), str(whole))
    for stop_after in (2, 5, 6):  # inside the first epoch, inside the second, at its end
        _run_and_stop(broken, fields, stop_after, monkeypatch)
    results = train.run(_config(**fields), str(broken))
    assert _checkpoint_of(broken, 9) == _checkpoint_of(whole, 9)
    assert _rows(broken) == _rows(whole)
    assert results[-1].top1 == _rows(whole)[-1]["test/top1"]


def test_a_row_says_how_much_of_the_devices_a_run_uses(tmp_path, teacher_workdir, monkeypatch):
    use_one_device(monkeypatch)
    monkeypatch.setattr(parallel, "peak_flops", lambda kind: 1e10)
    macs = networks.summarize(networks.create("resnet8", 10), (8, 8, 1)).macs
    for cache, flops in (("off", 2 * 4 * macs), ("on", 2 * 3 * macs)):
        fields = {"teacher.checkpoint": teacher_workdir, "teacher.cache": cache}
        train.run(_config(**fields), str(tmp_path / cache))
        row = json.loads((tmp_path / cache / "metrics.jsonl").read_text().splitlines()[-1])
        rate = row["images_per_second"]
        assert row["step_milliseconds"] == pytest.approx(1000 * 8 / rate)
        assert row["model_teraflops_per_second"] == pytest.approx(rate * flops / 1e12)
        assert row["model_flop_utilisation"] == pytest.approx(rate * flops / 1e10)


def test_the_peak_of_a_device_is_known_by_its_name():
    assert parallel.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert parallel.peak_flops("TPU v5 lite") == 197e12
    assert parallel.peak_flops("cpu") == 0


@pytest.mark.usefixtures("one_device")
def test_a_trace_of_some_steps_is_written_and_changes_nothing(tmp_path, teacher_workdir, capsys):
    config = _config(**{"teacher.checkpoint": teacher_workdir})
    train.run(config, str(tmp_path / "plain"))
    train.run(config, str(tmp_path / "traced"), profile=2)
    assert f"a trace of 2 steps is in {tmp_path}/traced/profile" in capsys.readouterr().out
    assert list((tmp_path / "traced" / "profile").rglob("*.xplane.pb"))
    assert _rows(tmp_path / "traced") == _rows(tmp_path / "plain")
    train.run(config, str(tmp_path / "traced"), profile=2)
    assert "nothing is traced; the run in" in capsys.readouterr().out
    config.train.epochs = 1
    train.run(config, str(tmp_path / "short"), profile=100)
    assert "a trace of 2 steps is in" in capsys.readouterr().out  # all but the first


@pytest.mark.usefixtures("one_device")
def test_many_steps_a_call_give_what_single_steps_give_from_any_step(
    tmp_path, teacher_workdir, monkeypatch
):
    fields = {"teacher.checkpoint": teacher_workdir, "train.epochs": 3}
    train.run(_config(**fields), str(tmp_path / "single"))
    _run_and_stop(tmp_path / "many", {**fields, "train.save_every": 2}, 2, monkeypatch)
    counts, original = [], fit._Loop._batches

    def batches(run, start):
        for count, batch in original(run, start):
            counts.append(count)
            yield count, batch

    monkeypatch.setattr(fit._Loop, "_batches", batches)
    train.run(_config(**fields, **{"train.steps_per_dispatch": 5}), str(tmp_path / "many"))
    assert counts == [1, 3, 3]  # the rest of the first epoch, then whole ones
    for many, single in zip(_rows(tmp_path / "many"), _rows(tmp_path / "single"), strict=True):
        assert many == pytest.approx(single, rel=1e-5)


@pytest.mark.usefixtures("one_device")
def test_a_folded_teacher_gives_the_losses_that_it_gives_as_it_is(
    tmp_path, teacher_workdir, monkeypatch
):
    config = _config(**{"teacher.checkpoint": teacher_workdir})
    train.run(config, str(tmp_path / "folded"))
    monkeypatch.setattr(fold, "fold", lambda network, variables, image_shape: variables)
    train.run(config, str(tmp_path / "plain"))
    for folded, plain in zip(_rows(tmp_path / "folded"), _rows(tmp_path / "plain"), strict=True):
        assert folded == pytest.approx(plain, rel=1e-5)


@pytest.mark.usefixtures("one_device")
def test_a_student_that_is_computed_twice_has_the_losses_of_one_that_is_not(
    tmp_path, teacher_workdir
):
    fields = {"teacher.checkpoint": teacher_workdir}
    train.run(_config(**fields), str(tmp_path / "once"))
    train.run(_config(**fields, **{"train.remat": "all"}), str(tmp_path / "twice"))
    for once, twice in zip(_rows(tmp_path / "once"), _rows(tmp_path / "twice"), strict=True):
        assert twice == pytest.approx(once, rel=1e-5)


@pytest.mark.usefixtures("one_device")
def test_a_teacher_may_compute_in_another_precision(tmp_path, teacher_workdir):
    config = _config(**{"teacher.checkpoint": teacher_workdir, "teacher.dtype": "bfloat16"})
    _, teacher = train.get_teacher(config, tmp_path, train.prepare(config))
    assert recipes.from_config(config, "", 10, 24).student.dtype == np.float32
    kernels = [leaf for leaf in jax.tree.leaves(teacher.folded()["params"]) if leaf.ndim == 4]
    assert {str(kernel.dtype) for kernel in kernels} == {"bfloat16"}
    assert all(leaf.sharding.is_fully_replicated for leaf in kernels)
    assert {leaf.dtype for leaf in jax.tree.leaves(teacher.variables)} == {np.dtype(np.float32)}


def test_a_resident_run_on_eight_devices_has_the_losses_of_one(tmp_path, monkeypatch):
    config = _config("smoke,resnet8", **{"optimizer.learning_rate": 0.01})
    train.run(config, str(tmp_path / "eight"))
    use_one_device(monkeypatch)
    train.run(config, str(tmp_path / "one"))
    for eight, one in zip(_rows(tmp_path / "eight"), _rows(tmp_path / "one"), strict=True):
        assert eight["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)


@pytest.mark.usefixtures("one_device")
def test_a_run_on_the_users_own_images_goes_on_only_with_those(tmp_path, data_dir, monkeypatch):
    images, rng = tmp_path / "images", np.random.default_rng(0)
    for split, label, i in itertools.product(("train", "val"), ("cat", "dog"), range(8)):
        path = images / split / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (9, 7, 3), np.uint8))
    fields = {
        "data.name": "image_folder",
        "data.manual_dir": str(images),
        "data.dir": data_dir,
        "data.mock_examples": 0,
        "data.test_split": "validation",
        "data.mean": (0.5, 0.5, 0.5),
        "data.std": (0.5, 0.5, 0.5),
    }

    def start(folder):
        return train.run(_config("smoke,resnet8", **fields), str(folder))

    _run_and_stop(tmp_path / "run", fields, 3, monkeypatch, "smoke,resnet8")
    cv2.imwrite(
        str(images / "train" / "cat" / "new.png"), rng.integers(0, 256, (9, 7, 3), np.uint8)
    )
    with pytest.raises(
        errors.InputError, match="holds a run on image_folder/.*are now image_folder"
    ):
        start(tmp_path / "run")
    (images / "train" / "cat" / "new.png").unlink()
    (result,) = start(tmp_path / "run")
    assert result.model == "resnet8"


def _run_and_stop(folder, fields, stop_after, monkeypatch, argument="smoke,resnet8-resnet8"):
    _train_and_stop(folder, _config(argument, **fields), stop_after, monkeypatch)


def _train_and_stop(folder, config, stop_after, monkeypatch):
    """Stops a run between two steps, as Ctrl-C does."""

    class Stop(BaseException):
        pass

    original = fit._Loop._batches

    def batches(self, start):
        for step, batch in enumerate(original(self, start), start):
            if step == stop_after:
                raise Stop
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(fit._Loop, "_batches", batches)
        with pytest.raises(Stop):
            train.run(config, str(folder))


def _wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.usefixtures("one_device")
def test_a_corrupt_newest_checkpoint_costs_its_epoch_and_no_more(
    tmp_path, teacher_workdir, capsys, monkeypatch
):
    fields = {"teacher.checkpoint": teacher_workdir, "train.epochs": 3}
    whole = tmp_path / "whole"
    train.run(_config(**fields), str(whole))
    broken = tmp_path / "broken"
    _run_and_stop(broken, fields, 7, monkeypatch)
    _wait_for(lambda: (broken / "checkpoints" / "6").is_dir())
    for file in (broken / "checkpoints" / "6" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[:-50])
    train.run(_config(**fields), str(broken))
    assert "checkpoints/6 is damaged" in capsys.readouterr().out
    assert _checkpoint_of(broken, 9) == _checkpoint_of(whole, 9)
    assert _rows(broken) == _rows(whole)


@pytest.mark.usefixtures("one_device")
def test_the_whole_job_ends_with_a_table_of_three_runs(tmp_path, capsys):
    config = _config("smoke,resnet8-resnet8,rrd+kd")
    config.baseline = True
    results = train.run(config, str(tmp_path))
    assert [r.label for r in results] == ["teacher", "student alone", "distilled, rrd+kd"]
    assert results[0].agreement is None
    assert results[1].agreement is not None
    text = capsys.readouterr().out
    for result in results:
        folder = pathlib.Path(result.checkpoint)
        assert checkpoints.read_meta(folder)["result"] == result._asdict()
        assert f"{result.top1:.2f}" in text.split("| run")[1]
    for name in ("config.json", "metrics.jsonl", "tensorboard", "results.json"):
        assert (tmp_path / name).exists()
    row = _rows(tmp_path)[-1]
    assert {"train/loss/ce", "train/loss/kd", "train/loss/rrd", "test/agreement"} <= set(row)
    assert row["train/loss"] == pytest.approx(
        row["train/loss/ce"] + row["train/loss/kd"] + row["train/loss/rrd"], rel=1e-5
    )


@pytest.mark.usefixtures("one_device")
def test_a_workdir_of_another_config_is_refused_with_the_fields(tmp_path, teacher_workdir):
    fields = {"teacher.checkpoint": teacher_workdir}
    train.run(_config(**fields), str(tmp_path))
    with pytest.raises(errors.InputError, match=r"optimizer.learning_rate 0.05 there, 0.1 here"):
        train.run(_config(**fields, **{"optimizer.learning_rate": 0.1}), str(tmp_path))
    assert _checkpoint_of(tmp_path, 6)  # nothing is lost
    train.run(_config(**fields, **{"train.log_every": 3}), str(tmp_path))


def test_all_methods_of_a_config_share_a_trained_teacher(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    for method in ("ce", "kd", "rrd", "rrd+kd"):
        config = digits.get_config(method)
        config.teacher.model = "resnet8x4"
        with train.claim(tmp_path, recipes.teacher_config(config, config.teacher)):
            pass


def test_a_damaged_config_file_says_how_to_go_on(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "config.json").write_text('{"seed": ')
    with (
        pytest.raises(errors.InputError, match="config.json is damaged .* delete it to go on"),
        train.claim(tmp_path, _config()),
    ):
        pass


@pytest.mark.usefixtures("one_device")
def test_a_loss_that_is_not_finite_stops_with_the_steps_and_the_last_good_one(
    tmp_path, teacher_workdir, monkeypatch
):
    original = fit._Loop._batches

    def batches(self, start):
        for step, (count, batch) in enumerate(original(self, start), start + 1):
            poison = {"image": np.full(batch["image"].shape, np.nan, np.float32)}
            yield count, batch | poison if step >= 5 else batch

    monkeypatch.setattr(fit._Loop, "_batches", batches)
    with pytest.raises(errors.DivergedError, match="within steps 4 to 6 .* step 3 is the last"):
        train.run(_config(**{"teacher.checkpoint": teacher_workdir}), str(tmp_path))
    assert _checkpoint_of(tmp_path, 3)


@pytest.mark.usefixtures("one_device")
def test_the_teacher_must_fit_the_data_and_the_config(tmp_path, teacher_workdir):
    with pytest.raises(errors.InputError, match="is resnet8 for 10 classes .* need resnet14"):
        train.run(
            _config("smoke,resnet14-resnet8", **{"teacher.checkpoint": teacher_workdir}),
            str(tmp_path / "a"),
        )
    fields = {"teacher.checkpoint": teacher_workdir, "data.name": "cifar100", "data.image_size": 8}
    fields |= {"data.mean": (0.5, 0.5, 0.5), "data.std": (0.2, 0.2, 0.2)}
    with pytest.raises(errors.InputError, match="10 classes and 1 image channels.*100 classes"):
        train.run(_config(**fields), str(tmp_path / "b"))
    with pytest.raises(errors.InputError, match="no intact checkpoint under /nonexistent"):
        train.run(_config(**{"teacher.checkpoint": "/nonexistent"}), str(tmp_path / "c"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.batch_size": 25}, "batch_size 25 is larger than .* of 24 images"),
        ({"train.batch_size": 0}, "train.batch_size is 0"),
        ({"train.epochs": 0}, "train.epochs is 0"),
        ({"train.accumulate": 0}, "train.accumulate is 0"),
        ({"train.accumulate": 3}, "8 is not a multiple of the 1 devices, times the 3 of train.acc"),
        ({"train.ema": 1.0}, "train.ema is 1.0"),
        ({"train.remat": "some"}, "unknown train.remat 'some'"),
        ({"optimizer.clip_norm": -1.0}, "optimizer.clip_norm is -1.0"),
        ({"objectives.rrd.chunk": -1}, "chunk is -1"),
        ({"objectives.rrd.queue_size": 0}, "queue_size is 0"),
        ({"objectives.rrd.preset": "sharp"}, "known: sharp_student, sharp_teacher"),
        ({"teacher.model": ""}, "objective 'kd' compares with a teacher"),
        ({"data.name": "digitz", "data.mock_examples": 0}, "unknown data set 'digitz'"),
        ({"data.augment": "crop"}, "did you mean 'crop_flip'"),
        ({"dtype": "float16"}, "known: auto, float32, bfloat16"),
        ({"teacher.dtype": "half"}, "unknown dtype 'half'; known: auto, float32, bfloat16"),
        ({"space_to_depth": True}, "start with a 7x7 convolution, not for 'resnet8'"),
        ({"seed": -1}, "seed is -1"),
        ({"data.pad": -1}, "data.pad is -1"),
        ({"data.std": (0.0,)}, r"data.std\[0\] is 0"),
        ({"data.mean": (0.5, 0.5, 0.5)}, "data.mean has 3 values .* have 1 channels"),
        ({"data.image_size": 0}, "data.image_size is 0"),
        ({"optimizer.milestones": (150.0,)}, "fractions of the run"),
    ],
)
@pytest.mark.usefixtures("one_device")
def test_bad_fields_are_one_line_and_touch_nothing(fields, message, tmp_path):
    with pytest.raises(errors.InputError, match=message) as caught:
        train.run(_config(**fields), str(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_batch_must_split_over_the_devices(tmp_path):
    with pytest.raises(errors.InputError, match="12 is not a multiple of the 8 devices"):
        train.run(_config(**{"train.batch_size": 12}), str(tmp_path))


@pytest.mark.usefixtures("one_device")
def test_a_full_disk_is_said_and_loses_nothing(tmp_path, teacher_workdir, monkeypatch):
    original = ocp.CheckpointManager.save

    def save(self, step, *arguments, **options):
        if step == 6:
            raise OSError(28, "No space left on device")
        return original(self, step, *arguments, **options)

    fields = {"teacher.checkpoint": teacher_workdir}
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", save)
        with pytest.raises(
            errors.InputError, match=r"\(No space left on device\); step 3 is the last good one"
        ):
            train.run(_config(**fields), str(tmp_path))
    assert train.run(_config(**fields), str(tmp_path))[-1].top1 >= 0


def test_evaluation_counts_every_example_once_on_any_number_of_devices():
    labels = np.arange(11, dtype=np.int32)
    source = [{"image": np.full((1, 1, 1), i, np.uint8), "label": i} for i in labels]
    split = feed.Resident(source, size=1, channels=1)

    def predict(variables, images, labels):
        losses = labels * 2.0
        return {"prediction": images[:, 0, 0, 0], "rank": labels, "loss": losses, "label": labels}

    for devices in (1, 8):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        found = runs.evaluate(jax.jit(predict), None, split, 4, mesh)
        np.testing.assert_array_equal(found["prediction"], labels)
        np.testing.assert_array_equal(found["rank"], labels)
        np.testing.assert_array_equal(found["loss"], labels * 2.0)
        np.testing.assert_array_equal(found["label"], labels)


def test_a_teacher_may_have_its_own_training_split():
    config = digits.get_config()
    own = recipes.teacher_config(config, config.teacher)
    assert (config.data.train_split, own.data.train_split) == ("train[:200]", "train")
    assert (own.student.model, own.teacher.model) == ("resnet8x4", "")
    assert own.train.epochs == 15
    assert list(own.objectives) == ["ce"]
    assert isinstance(data.DATASETS, dict)


@pytest.mark.usefixtures("one_device")
def test_objectives_with_banks_get_the_number_of_examples_and_go_on_where_they_stopped(
    tmp_path, teacher_workdir, monkeypatch
):
    fields = {"teacher.checkpoint": teacher_workdir, "train.epochs": 2, "train.save_every": 2}
    config = _config(**fields)
    small = {"weight": 1.0, "dim": 4}
    with config.unlocked():
        config.objectives = {
            "ce": {"weight": 1.0},
            "crd": {**small, "memory": "bank", "negatives": 6},
            "rrd": {**small, "memory": "momentum", "queue_size": 6, "examples": None},
        }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train.run(config, str(whole))
    _train_and_stop(broken, config, 5, monkeypatch)  # 24 images in batches of 8, two epochs
    train.run(config, str(broken))
    assert _checkpoint_of(broken, 6) == _checkpoint_of(whole, 6)
    assert {"train/loss/crd", "train/loss/rrd"} <= set(_rows(whole)[-1])
