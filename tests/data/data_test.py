import gzip
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn import datasets as sklearn_datasets

from rrd_jax import data, errors
from rrd_jax.data.builders import local, registry
from rrd_jax.data.feeds import feed
from rrd_jax.data.images import transforms

_OPTIONS = {"image_size": 8, "resize": 10, "augment": "none"}


def _load(name, **fields):
    return data.load(data.Source(name, **fields))


def test_digits_contain_each_image_of_scikit_learn_once(data_dir):
    digits = _load("digits", dir=data_dir, **_OPTIONS)
    assert digits.num_classes == 10
    assert digits.image_shape == (8, 8, 1)
    assert (len(digits.train), len(digits.test)) == (1000, 797)
    images = np.concatenate([digits.train.images, digits.test.images]).reshape(-1, 64)
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    real = sklearn_datasets.load_digits()
    actual = sorted(zip(map(bytes, images), labels.tolist(), strict=True))
    scaled = np.round(real.data * (255 / 16)).astype(np.uint8)
    assert actual == sorted(zip(map(bytes, scaled), real.target.tolist(), strict=True))


def test_stored_examples_equal_those_of_tfds_without_unused_features(data_dir):
    examples = _load("digits", dir=data_dir, **_OPTIONS).test.examples
    expected = local.Digits(data_dir=data_dir).as_data_source("test")
    assert len(examples) == len(list(examples)) == len(expected)
    for example, reference in zip(examples, expected, strict=True):
        assert set(example) == {"image", "label"}
        np.testing.assert_array_equal(transforms.decode(example["image"], 1), reference["image"])
        assert example["label"] == reference["label"]


class _Plain(local.Digits):
    """Digits without labels."""

    name = "plain"

    def _info(self):
        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "id": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        def unlabelled(split, examples):
            for i, example in examples:
                yield i, {"image": example["image"], "id": f"{split}{i}"}

        splits = super()._split_generators(dl_manager)
        return {split: unlabelled(split, examples) for split, examples in splits.items()}


def test_a_data_set_without_labels_loads_if_labels_are_unused(data_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.DATASETS, "plain", _Plain)
    dataset = _load("plain", dir=str(tmp_path), use_labels=False, **_OPTIONS)
    digits = _load("digits", dir=data_dir, use_labels=False, **_OPTIONS)
    assert (dataset.num_classes, dataset.labelled) == (0, False)
    np.testing.assert_array_equal(dataset.test.images, digits.test.images)
    assert dataset.test.examples[3]["file_name"] == b"test3"
    mocked = _load("plain", dir=str(tmp_path), use_labels=False, mock_examples=4, **_OPTIONS)
    assert mocked.train.images.shape == (4, 8, 8, 1)
    with pytest.raises(errors.InputError, match="'image' and a class 'label'"):
        _load("plain", dir=str(tmp_path), **_OPTIONS)


def test_splits_are_parts_of_a_fixed_random_order(data_dir):
    dataset = _load("digits", dir=data_dir, **_OPTIONS)
    order = np.random.RandomState(0).permutation(1797)
    real = sklearn_datasets.load_digits()
    np.testing.assert_array_equal(dataset.train.labels, real.target[order[:1000]])
    np.testing.assert_array_equal(dataset.test.labels, real.target[order[1000:]])
    splits = {"train_split": "train[:25%]", "test_split": "train[25%:]"}
    parts = _load("digits", dir=data_dir, **splits, **_OPTIONS)
    assert len(parts.train) == 250
    images = np.concatenate([parts.train.images, parts.test.images])
    np.testing.assert_array_equal(images, dataset.train.images)


def test_examples_in_both_splits_cause_a_warning(data_dir):
    source = [(np.zeros((4, 4, 1), np.uint8), i % 10) for i in range(1000)]
    for train_split, test_split, shared in (
        ("train[:50%]", "train[50%:]", 0),
        ("train", "test+train", 1000),
    ):
        splits = {"train_split": train_split, "test_split": test_split}
        prepared = _load("digits", dir=data_dir, **splits, **_OPTIONS)
        arrays = data.from_sources(source, source[:797], data.Source(**splits, **_OPTIONS))
        for dataset in (prepared, arrays):
            warnings = [w for w in dataset.summary.warnings if "examples are both in" in w]
            assert len(warnings) == bool(shared)
            assert not shared or warnings[0].startswith(f"{shared:,} ")


@pytest.mark.long
@pytest.mark.skipif(
    not pathlib.Path(local.FASHION_MNIST_DIR).is_dir(),
    reason="Debian's dataset-fashion-mnist is not installed",
)
def test_the_plain_builder_reads_fashion_mnist_of_debian(data_dir):
    _load(
        "fashion_mnist", dir=data_dir, train_split="train[:3]", test_split="test[:3]",
        image_size=32, resize=32, augment="crop_flip",
    )  # fmt: skip
    plain = tfds.builder("fashion_mnist", data_dir=data_dir, file_format="array_record")
    assert {name: s.num_examples for name, s in plain.info.splits.items()} == {
        "train": 60000,
        "test": 10000,
    }
    actual = np.stack([e["image"] for e in plain.as_data_source("test[:50]")])
    path = pathlib.Path(local.FASHION_MNIST_DIR) / "t10k-images-idx3-ubyte.gz"
    expected = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)
    np.testing.assert_array_equal(actual, expected.reshape(-1, 28, 28, 1)[:50])


def test_a_changed_fashion_mnist_file_is_refused_by_its_sha256(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for content, message in (
        (gzip.compress(b"x" * 100), "sha256"),
        (gzip.compress(b"x" * 100)[:-9], "cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(errors.InputError, match=message):
            _load("fashion_mnist", dir=str(tmp_path / "tfds"), manual_dir=str(tmp_path), **_OPTIONS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digitz", "did you mean 'digits'.*known: digits, drawings, fashion_mnist"),
        (
            "cifar100",
            "not prepared under .*; put cifar-100-binary.tar.gz .https://www.cs.toronto.edu/.* into"
            " .*, then run `python -m rrd_jax.data.prepare --name=cifar100 --data_dir=.* --manual_",
        ),
        ("imagenet2012", "put ILSVRC2012_img_train.tar .* and ILSVRC2012_img_val.tar "),
        ("svhn_cropped", r"with `pip install -e '.\[prepare\]'`, run `python -m rrd_jax.data.pr"),
    ],
)
def test_errors_for_unknown_and_unprepared_data_sets_name_the_remedy(name, message, tmp_path):
    with pytest.raises(errors.InputError, match=message):
        _load(name, dir=str(tmp_path), **_OPTIONS)


def test_random_crops_while_decoding_need_the_streamed_feed():
    with pytest.raises(errors.InputError, match="data.feed.*resident.*random_resized"):
        data.Source("digits", feed="resident", augment="random_resized")


def test_errors_for_unknown_and_empty_splits_list_the_available_splits(data_dir):
    for split in ("trian", "train[:0]", "train[:x]"):
        with pytest.raises(
            errors.InputError, match="cannot be read .* available splits: train, test$"
        ):
            _load("digits", dir=data_dir, train_split=split, **_OPTIONS)


def test_mocked_imagenet_streams_and_mocked_cifar_is_resident_unless_chosen(tmp_path):
    options = {"dir": str(tmp_path), "image_size": 16, "resize": 18, "mock_examples": 6}
    imagenet = _load("imagenet2012", test_split="validation", augment="random_resized", **options)
    assert isinstance(imagenet.train, feed.Streamed)
    assert (imagenet.num_classes, imagenet.image_shape) == (1000, (16, 16, 3))
    batch = next(iter(imagenet.train.train_batches(4, 0, 0, 1)))
    assert batch["image"].shape == (4, 16, 16, 3)
    assert batch["image"].dtype == np.uint8
    cifar = _load("cifar100", augment="crop_flip", **options)
    assert isinstance(cifar.train, feed.Resident)
    assert cifar.num_classes == 100
    streamed = _load("cifar100", augment="crop_flip", feed="streamed", workers=0, **options)
    assert isinstance(streamed.train, feed.Streamed)
    for a, b in zip(cifar.test.test_batches(4), streamed.test.test_batches(4), strict=True):
        assert a["image"].shape == b["image"].shape
    with pytest.raises(errors.InputError, match="has features .* and a class 'label'"):
        _load("ag_news_subset", dir=str(tmp_path), mock_examples=2, **_OPTIONS)
