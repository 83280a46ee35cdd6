"""Hugging Face data sets on disk."""

import pickle
import sys

import numpy as np
import PIL.Image
import pytest

from rrd_jax import data, errors

datasets = pytest.importorskip("datasets")
_IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
_LABELS = [i % 3 for i in range(20)]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _set(**columns):
    features = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list("abcd"))}
    features |= dict.fromkeys(columns, datasets.ClassLabel(names=["x", "y", "z"]))
    values = {"picture": [PIL.Image.fromarray(image) for image in _IMAGES], "kind": _LABELS}
    return datasets.Dataset.from_dict(values | columns, features=datasets.Features(features))


def _load(path, **fields):
    options = {"image_size": 8, "augment": "none"} | fields
    return data.load(data.Source(f"hf:{path}", **options))


def _check(dataset):
    assert (dataset.num_classes, dataset.image_shape) == (4, (8, 8, 3))
    np.testing.assert_array_equal(dataset.train.images, _IMAGES)
    np.testing.assert_array_equal(dataset.train.labels, _LABELS)
    np.testing.assert_array_equal(dataset.test.images, _IMAGES[:4])
    assert isinstance(dataset.train.examples[0]["image"], bytes)


def test_saved_splits_are_read(tmp_path):
    table = _set()
    parts = datasets.DatasetDict(train=table, test=table.select(range(4)))
    parts.save_to_disk(tmp_path / "set")
    _check(_load(tmp_path / "set"))


def test_a_saved_set_without_splits_is_the_training_split(tmp_path):
    _set().with_format("numpy").save_to_disk(tmp_path / "set")
    _check(_load(tmp_path / "set", test_split="train[:20%]"))
    with pytest.raises(
        errors.InputError, match=r"unknown split 'test'.*available splits: train, or parts such as"
    ):
        _load(tmp_path / "set")


@pytest.mark.parametrize("test", ["test-00000-of-00001.parquet", "data/test/0000.parquet"])
def test_names_of_parquet_files_determine_the_splits(tmp_path, test):
    folder = tmp_path / "set"
    (folder / test).parent.mkdir(parents=True)
    _set().select(range(12)).to_parquet(folder / "train-00000-of-00002.parquet")
    _set().select(range(12, 20)).to_parquet(folder / "train-00001-of-00002.parquet")
    _set().select(range(4)).to_parquet(folder / test)
    _check(_load(folder))


def test_a_single_parquet_file_of_another_program_is_the_training_split(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    encoded = [row["picture"]["bytes"] for row in _set().cast_column(
        "picture", datasets.Image(decode=False))]  # fmt: skip
    table = pyarrow.table({"content": encoded, "label": _LABELS, "other": _LABELS})
    parquet.write_table(table, tmp_path / "some.parquet")
    dataset = _load(tmp_path / "some.parquet", test_split="train[:4]")
    assert dataset.num_classes == 3
    np.testing.assert_array_equal(dataset.train.images, _IMAGES)


def test_an_option_selects_the_label_column(tmp_path):
    _set(coarse=_LABELS).save_to_disk(tmp_path / "set")
    with pytest.raises(errors.InputError, match="kind and coarse can be the label.*options.label"):
        _load(tmp_path / "set")
    splits = {"test_split": "train[:4]"}
    assert _load(tmp_path / "set", options={"label": "coarse"}, **splits).num_classes == 3
    with pytest.raises(errors.InputError, match="'picture' is not a ClassLabel or an integer"):
        _load(tmp_path / "set", options={"label": "picture"})
    with pytest.raises(errors.InputError, match="unknown option 'data.options.lable'"):
        _load(tmp_path / "set", options={"lable": "coarse"})


def test_splits_with_different_class_orders_are_refused(tmp_path):
    parts = {}
    for split, names in {"train": "abcd", "test": "bacd"}.items():
        feature = datasets.ClassLabel(names=list(names))
        parts[split] = _set().cast_column("kind", feature)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    with pytest.raises(errors.InputError, match="label 0 is 'a' in split 'train' and 'b' in split"):
        _load(tmp_path / "set")


def test_a_set_can_be_sent_to_worker_processes(tmp_path):
    _set().save_to_disk(tmp_path / "set")
    examples = _load(tmp_path / "set", test_split="train").train.examples
    assert list(pickle.loads(pickle.dumps(examples))) == list(examples)


def test_missing_or_invalid_sets_are_refused_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(errors.InputError, match="nowhere does not exist; write hf:PATH"):
        _load(tmp_path / "nowhere")
    with pytest.raises(errors.InputError, match="is not a folder of datasets' save_to_disk"):
        _load(tmp_path)
    _set().to_parquet(tmp_path / "train-00001-of-00003.parquet")
    with pytest.raises(
        errors.InputError, match="2 of the files .* are missing, such as number 00000"
    ):
        _load(tmp_path)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(errors.InputError, match="cannot be opened") as caught:
        _load(tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(errors.InputError, match=r"pip install 'rrd_jax\[hf\]'"):
        _load(tmp_path)


def test_a_column_of_images_suffices_without_labels(tmp_path):
    table = _set()
    table.remove_columns("kind").to_parquet(tmp_path / "train.parquet")
    with pytest.raises(errors.InputError, match="can be the label"):
        _load(tmp_path / "train.parquet", test_split="train[:20%]")
    table.save_to_disk(tmp_path / "labelled")
    for name in ("train.parquet", "labelled"):
        dataset = _load(tmp_path / name, test_split="train[:20%]", use_labels=False)
        assert (dataset.num_classes, dataset.class_names, dataset.labelled) == (0, (), False)
        np.testing.assert_array_equal(dataset.train.images, _IMAGES)
        assert not dataset.train.labels.any()
