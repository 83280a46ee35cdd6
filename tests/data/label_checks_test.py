"""Checks of labels and class names."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import rrd_jax
from rrd_jax import data, errors
from rrd_jax.data import label_checks
from tests import fuzz

_CLASSES = np.arange(40) % 4


def test_plausible_labels_and_names_cause_no_warning():
    assert label_checks.check_splits([("train", _CLASSES), ("test", _CLASSES)], 4) == []
    assert label_checks.check_names(["a", "b"], 2, "data") == []


def test_a_part_of_a_split_may_lack_classes_of_a_few_test_images():
    rows = np.array([0, 1, 2] * 8 + [3])
    (warning,) = label_checks.check_splits(
        [("train[:9]", _CLASSES[_CLASSES < 3]), ("test", rows)], 3
    )
    assert "1 of 25 images of split 'test' belong to 1 class without images" in warning
    with pytest.raises(errors.InputError, match="20 of 40 images .*labels are 0 to 1 .* 0 to 3"):
        label_checks.check_splits([("train", _CLASSES[_CLASSES < 2]), ("test", _CLASSES)], 4)
    # A split in the order of classes.
    parts = [("train[:90%]", np.arange(36) // 4), ("train[90%:]", np.full(4, 9))]
    with pytest.raises(errors.InputError, match="4 of 4 images"):
        label_checks.check_splits(parts, 10)


_LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=12).map(np.array)


@fuzz.seeded
@hypothesis.given(_LABELS, _LABELS, st.sampled_from(("train", "train[:9]")))
@fuzz.settings(200)
def test_labels_without_a_message_have_all_classes_in_all_splits(training, test, split):
    try:
        warnings = label_checks.check_splits([(split, training), ("test", test)], 5)
    except errors.InputError:
        assert len(set(training)) < 2 or set(test) - set(training)
        return
    if not warnings:
        assert set(training) == set(test) == set(range(5))


@fuzz.seeded
@hypothesis.given(_LABELS, st.floats(0.01, 0.99) | st.integers(1, 13), st.integers(0, 3))
@fuzz.settings(100)
def test_a_validation_split_is_refused_or_divides_the_images(labels, value, seed):
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    source = data.Source(image_size=4, augment="none", val_split=value, noise_seed=seed)
    try:
        dataset = data.from_sources((images, labels), (images, labels), source, num_classes=5)
    except errors.InputError:
        return
    parts = (dataset.train.examples, dataset.validation.examples)
    assert sorted(np.concatenate([part.indices for part in parts])) == [*range(len(labels))]
    assert set(parts[0].true_labels) == set(labels)
    expected = round(value * len(labels)) if value < 1 else value
    assert len(dataset.validation) == expected


@pytest.mark.parametrize(
    ("split", "repeated"),
    [("train+train", 40), ("train[:50%]+train[40%:]", 4), ("train[:20]+train[20:]", 0)],
)
def test_validation_images_are_not_trained_on(split, repeated):
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1) * np.ones((1, 4, 4, 1), np.uint8)
    source = data.Source(image_size=4, augment="none", val_split=0.2, train_split=split)
    pair = images, _CLASSES
    if repeated:
        with pytest.raises(errors.InputError, match=f"contains {repeated} of its images twice"):
            data.from_sources(pair, pair, source)
    else:
        dataset = data.from_sources(pair, pair, source)
        parts = (set(np.ravel(part.images)) for part in (dataset.train, dataset.validation))
        assert not set.intersection(*parts)


@pytest.mark.parametrize(
    ("field", "value"), [("per_class", 2), ("imbalance", 4), ("label_noise", 0.2)]
)
def test_fields_that_need_labels_are_refused_without_labels(field, value):
    with pytest.raises(errors.InputError, match=f"data.{field} is {value}, which needs labels"):
        data.Source(use_labels=False, **{field: value})


def test_missing_classes_are_named():
    names = ["ant", "bee", "cat", "dog"]
    splits = [("train", _CLASSES), ("test", _CLASSES[_CLASSES != 2]), ("validation", np.array([0]))]
    assert label_checks.check_splits(splits, 4, names) == [
        "classes without images in split 'test': 1 of 4 (cat)",
        "classes without images in split 'validation': 3 of 4 (bee, cat, dog)",
    ]


def test_millions_of_classes_without_images_are_counted():
    splits = [("train", np.array([0, 1, 7])), ("test", np.array([7, 1]))]
    assert label_checks.check_splits(splits, 2**31 - 1) == [
        "classes without images in split 'train': 2,147,483,644 of 2,147,483,647 (2, 3, 4, 5, 6 and"
        " 2,147,483,639 more)",
        "classes without images in split 'test': 1 of 2,147,483,647 (0)",
    ]


def test_classes_that_are_never_predicted_are_named():
    predictions = np.where(_CLASSES == 3, 0, _CLASSES)
    message = label_checks.never_predicted(predictions, _CLASSES, ["a", "b", "c", "d"])
    assert message == "1 class is never predicted for 40 test images (d)"
    assert not label_checks.never_predicted(predictions[:20], _CLASSES[:20])
    assert not label_checks.never_predicted(_CLASSES, _CLASSES)


@pytest.mark.long
@pytest.mark.usefixtures("one_device")
def test_evaluate_checks_the_order_of_classes(capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (80, 8, 8, 1), np.uint8)
    labels = np.arange(80) % 4
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 180

    def source(shift, names):
        attributes = {"class_names": names, "num_classes": 4}
        numbers = ((labels + shift) % 4).tolist()
        return type("Source", (list,), attributes)(zip(images, numbers, strict=True))

    names = ["a", "b", "c", "d"]
    split = source(0, names)
    fields = {"data.augment": "none", "optimizer.schedule": "constant"}
    network = rrd_jax.train_teacher("resnet8", split, split, epochs=4, batch_size=16, fields=fields)
    assert rrd_jax.evaluate(network, split)["top1"] > 60
    capsys.readouterr()
    assert rrd_jax.evaluate(network, source(1, []))["top1"] < 40
    assert "% with permuted classes" in capsys.readouterr().out
    with pytest.raises(errors.InputError, match="label 0 is 'a' for .* 'd' for the test images"):
        rrd_jax.evaluate(network, source(1, ["d", "a", "b", "c"]))
