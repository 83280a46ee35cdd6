"""The choice of the best checkpoint, with and without labels and validation images."""

import json

import numpy as np
import pytest

import rrd_jax
from rrd_jax import checkpoints, data, errors
from rrd_jax.checkpoints import digests, storage
from tests import launch

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_device", "tiny_network")]

_RNG = np.random.default_rng(0)
_TRAIN = _RNG.integers(0, 256, (64, 8, 8, 1), np.uint8), np.arange(64) % 4
_TEST = _RNG.integers(0, 256, (24, 8, 8, 1), np.uint8), np.arange(24) % 4


def _train(folder, **options):
    fields = {"data.augment": "none", "train.log_every": 1} | options.pop("fields", {})
    arguments = {"epochs": 3, "batch_size": 16, "fields": fields, **options}
    return rrd_jax.train_teacher("tiny", _TRAIN, _TEST, folder, **arguments)


def _unlabelled(teacher, **fields):
    defaults = {"data.use_labels": False, "teacher.checkpoint": str(teacher)}
    return launch.digits("smoke,tiny-tiny,rrd", **{**defaults, **fields})


def test_validation_images_choose_the_epoch_and_test_images_are_only_reported(tmp_path):
    result = _train(tmp_path, val_split=0.25).metrics
    rows = launch.rows(tmp_path)
    scores = [row["val/top1"] for row in rows]
    best = int(np.argmax(scores))
    assert result["best_by"] == "val/top1"
    assert result["best_epoch"] == best + 1
    assert result["best_score"] == scores[best]
    assert result["best_top1"] == rows[best]["test/top1"]
    assert result["val"]["top1"] == scores[-1]
    assert json.loads((tmp_path / "data.json").read_text())["images"] == {
        "train": 48,
        "test": 24,
        "val": 16,
    }
    card = (tmp_path / "README.md").read_text()
    assert f"| validation top-1 | {scores[-1]:.2f} % |" in card
    assert f"| test top-1 | {rows[-1]['test/top1']:.2f} % |" in card
    about = rrd_jax.load(f"{tmp_path}@best").about
    assert about.training["chosen_by"] == "val/top1"
    assert about.metrics["top1"] == rows[best]["test/top1"]


def test_a_run_without_validation_images_is_chosen_by_the_test_images(tmp_path, capsys):
    result = _train(tmp_path, epochs=1).metrics
    assert result["best_by"] == "test/top1"
    assert result["best_top1"] == result["best_score"] == launch.rows(tmp_path)[0]["best/top1"]
    assert "val" not in result
    capsys.readouterr()
    assert rrd_jax.load(f"{tmp_path}@best").about.training["chosen_by"] == "test/top1"
    assert "optimistic" in capsys.readouterr().out


@pytest.mark.parametrize("feed", ["resident", "streamed"])
def test_the_validation_images_depend_on_the_data_and_their_seed_only(feed):
    def load(images=_TRAIN, **fields):
        source = data.Source(image_size=8, augment="none", feed=feed, **fields)
        return data.from_sources(images, _TEST, source)

    first, again = load(val_split=0.25), load(val_split=16, share=0.5, label_noise=0.5)
    chosen = first.validation.examples.indices
    np.testing.assert_array_equal(chosen, again.validation.examples.indices)
    np.testing.assert_array_equal(again.validation.examples.labels, _TRAIN[1][chosen])
    assert not set(chosen) & set(first.train.examples.indices)
    assert not set(chosen) & set(again.train.examples.indices)
    assert np.bincount(_TRAIN[1][chosen]).tolist() == [4, 4, 4, 4]
    assert set(load(val_split=8).validation.examples.indices) < set(chosen)
    assert set(load(val_split=16, noise_seed=1).validation.examples.indices) != set(chosen)
    unlabelled = load(val_split=16, use_labels=False)
    assert (len(unlabelled.train), len(unlabelled.validation)) == (48, 16)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (64, "64 of the 64 images of split 'train'"),
        (63, "leaves 3 classes without training images, such as class"),
        (0.001, "0 of the 64 images"),
        (1.5, "val_split is 1.5, but must be a share"),
        (-1, "val_split is -1"),
        (float("nan"), "val_split is nan"),
    ],
)
def test_an_impossible_validation_split_is_refused(value, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        data.from_sources(_TRAIN, _TEST, data.Source(image_size=8, val_split=value))
    assert "\n" not in str(caught.value)


def test_a_run_with_validation_images_resumes_bit_identically(tmp_path):
    fields = {"data.mock_examples": 0, "data.train_split": "train[:64]", "data.val_split": 16}
    fields |= {"data.test_split": "test[:32]", "train.epochs": 3, "train.batch_size": 24}
    launch.check_resume(launch.digits("smoke,tiny,ce", **fields), tmp_path)


def test_validation_images_choose_the_epoch_without_labels(tiny_teacher, tmp_path):
    fields = {"data.mock_examples": 0, "data.train_split": "train[:64]", "data.val_split": 0.5}
    fields |= {"data.test_split": "test[:32]", "train.batch_size": 16}
    (*_, result) = launch.run(_unlabelled(tiny_teacher, **fields), tmp_path)
    rows = launch.rows(tmp_path)
    scores = [row["val/neighbours_10"] for row in rows]
    assert result.best_by == "val/neighbours_10"
    assert (result.best_score, result.score) == (max(scores), scores[-1])
    assert all("val/loss/rrd" in row and "test/loss/rrd" in row for row in rows)


def test_an_unlabeled_run_of_version_0_2_0_continues_with_the_best_remaining_checkpoint(
    tiny_teacher, tmp_path
):
    launch.run(_unlabelled(tiny_teacher, **{"train.epochs": 2}), tmp_path)
    folder = tmp_path / "checkpoints"
    for step in storage.steps(folder):
        _as_version_0_2_0(folder / str(step) / "meta" / "metadata")
    scored = checkpoints.scores(folder)
    assert list(scored) == storage.steps(folder)
    assert rrd_jax.load(f"{tmp_path}@best").num_classes == 0
    (*_, result) = launch.run(_unlabelled(tiny_teacher, **{"train.epochs": 3}), tmp_path)
    last = launch.rows(tmp_path)[-1]["proof/neighbours_10"]
    assert result.best_score == max(last, *scored.values())


def _as_version_0_2_0(path):
    """Rewrites the JSON of a checkpoint: version 0.2.0 chose by the chosen-out loss."""
    content = json.loads(path.read_text())
    meta = content["meta"]
    for name in ("best_by", "score", "best_score"):
        meta["result"].pop(name, None)
    meta["best"] = {"loss": meta["result"]["loss"], "epoch": meta["epoch"]}
    path.write_text(json.dumps(digests.seal(meta, content["digests"])))
