"""Predictors: images of any kind, batches, class names, exported files and several teachers."""

import dataclasses
import types

import jax
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

import rrd_jax
from rrd_jax import errors, exports, networks
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.library import Loaded, Predictor, array_datasets, run_teachers
from rrd_jax.weights import to_torch
from tests.data import folders
from tests.networks import custom_nets as nets

_RNG = np.random.default_rng(0)
_ABOUT = ModelInfo(
    "mean",
    3,
    class_names=("dark", "grey", "light"),
    preprocessing=Preprocessing(4, 3, (0.5,) * 3, (0.5,) * 3),
)


class _Mean:
    """A classifier by brightness that records the shapes of its batches."""

    about, runtime = _ABOUT, "brightness 1.0"

    def __init__(self):
        self.shapes = []

    def __call__(self, images):
        self.shapes.append(images.shape)
        assert images.dtype == np.uint8
        mean = images.reshape(len(images), -1).mean(-1, dtype=np.float32) / 255
        logits = -20 * np.abs(mean[:, None] - np.array([0, 0.5, 1], np.float32))
        return {"logits": logits, "embedding": mean[:, None]}


@pytest.fixture
def mean():
    """A Predictor and the list of the shapes of its batches."""
    compute = _Mean()
    return Predictor(compute, _ABOUT, compute.runtime), compute.shapes


def _images(*levels):
    return np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])


def test_batches_have_one_shape_and_padding_is_removed(mean):
    predictor, shapes = mean
    images = _RNG.integers(0, 256, (10, 4, 4, 3), np.uint8)
    result = predictor.predict(images, batch_size=4)
    assert shapes == [(4, 4, 4, 3)] * 3
    np.testing.assert_array_equal(result.logits, _Mean()(images)["logits"])
    np.testing.assert_array_equal(result.embeddings, predictor.embed(images))
    assert len(result) == 10
    assert result.files == tuple(map(str, range(10)))


def test_predictions_have_class_names_and_probabilities(mean):
    result = mean[0].predict(_images(255, 0, 128))
    assert result.names == ["light", "dark", "grey"]
    np.testing.assert_array_equal(result.labels, [2, 0, 1])
    np.testing.assert_allclose(result.probabilities.sum(-1), 1, rtol=1e-6)
    first, second = result.top(2)[0]
    assert (first.name, first.label, second.name) == ("light", 2, "grey")
    assert first.probability == pytest.approx(1 / (1 + np.exp(-10) + np.exp(-20)), rel=1e-6)
    assert [len(guesses) for guesses in result.top(9)] == [3] * 3
    with pytest.raises(errors.InputError, match="count is 0"):
        result.top(0)


def test_images_of_any_kind_are_accepted(mean, tmp_path):
    predictor, _ = mean
    light = np.full((9, 5, 3), 255, np.uint8)
    path = tmp_path / "a" / "light.png"
    folders.put(path)
    PIL.Image.fromarray(light).save(path)
    for images, files in [
        (light, ("0",)),
        (light[..., 0], ("0",)),
        (PIL.Image.fromarray(light), ("0",)),
        (path.read_bytes(), ("0",)),
        (path, (str(path),)),
        (tmp_path, (str(path),)),
        (f"{tmp_path}/*/*.png", (str(path),)),
        ([light, path, PIL.Image.fromarray(light)], ("0", str(path), "2")),
        ((image for image in [light] * 3), ("0", "1", "2")),
        ([path, str(tmp_path)], (str(path),) * 2),
    ]:
        result = predictor.predict(images)
        assert result.files == files
        assert result.names == ["light"] * len(files)
    for empty in ([], np.zeros((0, 4, 4, 3), np.uint8)):
        result = predictor.predict(empty)
        assert (len(result), result.probabilities.shape, result.top()) == (0, (0, 3), [])


def test_an_unreadable_image_is_an_error_or_is_skipped_and_reported(mean, tmp_path):
    predictor, _ = mean
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"hello")
    images = [*_images(0, 255), broken, *_images(128)]
    with pytest.raises(errors.InputError, match="broken.jpg cannot be used: not an image"):
        predictor.predict(images)
    with pytest.raises(errors.InputError, match="image 1 cannot be used: the image is 3.5, but"):
        predictor.predict([_images(0)[0], 3.5])
    result = predictor.predict(images, batch_size=2, skip_unread=True)
    assert result.names == ["dark", "light", "grey"]
    assert result.files == ("0", "1", "3")
    assert [file for file, _ in result.unread] == [str(broken)]
    alone = predictor.predict([broken], skip_unread=True)
    assert (len(alone), len(alone.unread), alone.logits.shape) == (0, 1, (0, 3))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (3, {}, "images are 3, but must be an array"),
        ({"image": 3}, {}, "images are a mapping with"),
        (_images(0), {"batch_size": 0}, "batch_size is 0"),
        (np.ma.masked_equal(_images(0, 1), 1), {}, "images: .* values are masked"),
        ("/not/there", {}, "'/not/there' does not exist"),
    ],
)
def test_invalid_images_and_options_are_refused(mean, images, options, message):
    with pytest.raises(errors.InputError, match=message):
        mean[0].predict(images, **options)


def test_logits_that_are_not_finite_are_refused_with_the_position_of_the_image():
    def compute(images):
        return {"logits": np.where(images[:, 0, 0, :1] == 7, np.nan, np.ones((1, 3), np.float32))}

    predictor = Predictor(compute, _ABOUT, "none")
    assert predictor.predict(_images(1, 2)).embeddings is None
    with pytest.raises(errors.InputError, match="'mean' has no embedding"):
        predictor.embed(_images(1, 2))
    with pytest.raises(errors.InputError, match="for image 1 is not finite"):
        predictor.predict(_images(1, 7))


def test_embeddings_that_are_not_finite_are_refused():
    def compute(images):
        rows = np.ones((len(images), 3), np.float32)
        return {"logits": rows, "embedding": np.where(images[:, 0, 0, :1] == 7, np.inf, rows)}

    predictor = Predictor(compute, _ABOUT, "none")
    assert predictor.embed(_images(1, 2)).shape == (2, 3)
    for call in (predictor.predict, predictor.embed):
        with pytest.raises(errors.InputError, match="the embedding of 'mean' for image 1"):
            call(_images(1, 7))


def test_a_long_iterator_is_read_batch_by_batch(mean):
    read = 0

    def images():
        nonlocal read
        for _ in range(1000):
            read += 1
            yield _images(0)[0]

    for index, part in enumerate(mean[0].batches(images(), batch_size=10), 1):
        assert len(part) == 10
        assert read <= 10 * (index + 3)


@pytest.fixture
def exported(monkeypatch, tmp_path):
    """An exported file of a format for the test."""
    form = types.SimpleNamespace(
        name="mean", extra="", modules=(), recognizes=lambda path: path.suffix == ".mean",
        open=lambda path, threads: _Mean(),
    )  # fmt: skip
    monkeypatch.setattr(exports, "FORMATS", ("mean",))
    monkeypatch.setattr(exports, "get_format", lambda name: form)
    path = tmp_path / "a.mean"
    path.touch()
    return path


@pytest.mark.usefixtures("one_device")
def test_an_exported_file_predicts_and_is_evaluated_like_a_network(exported):
    loaded = rrd_jax.load(exported, class_names=("a", "b", "c"))
    assert loaded.predict(_images(0, 255)).names == ["a", "c"]
    assert loaded.about.class_names == ("a", "b", "c")
    test = _images(0, 128, 255, 0), np.array([0, 1, 2, 2])
    assert rrd_jax.evaluate(exported, test)["top1"] == 75
    with pytest.raises(errors.InputError, match="omit mean"):
        rrd_jax.load(exported, mean=(0.1, 0.1, 0.1))
    with pytest.raises(errors.InputError, match="is an exported file .*brightness"):
        rrd_jax.distill(teacher=loaded, student="resnet8", train=test, test=test)


def test_a_network_without_preprocessing_names_the_missing_arguments():
    network = rrd_jax.networks.adapt(nets.GroupNorm(10), "mine")
    with pytest.raises(errors.InputError, match="pass mean, std, image_size"):
        Loaded(network, {}, "mine", 10).predict(_images(0))


def test_several_teachers_with_equal_classes_predict_their_weighted_mean(mean):
    first, _ = mean
    other = Predictor(lambda images: {"logits": 0 * _Mean()(images)["logits"]}, _ABOUT, "none")
    average = run_teachers.weighted_mean([first, other], [3.0, 1.0])
    expected = 0.75 * first.predict(_images(255, 0)).logits
    np.testing.assert_allclose(average.predict(_images(255, 0)).logits, expected, rtol=1e-6)
    assert (average.name, average.about.class_names) == ("mean+mean", _ABOUT.class_names)
    renamed = dataclasses.replace(_ABOUT, class_names=("light", "grey", "dark"))
    with pytest.raises(errors.InputError, match="differ in their classes"):
        run_teachers.weighted_mean([first, dataclasses.replace(other, about=renamed)], [1.0, 1.0])


@pytest.mark.usefixtures("one_device")
def test_a_weight_file_predicts_with_explicit_preprocessing(tmp_path):
    network = rrd_jax.networks.create("resnet8", 3)
    variables = rrd_jax.networks.init(network, jax.random.key(0), (8, 8, 3))
    path, names = tmp_path / "w.safetensors", tmp_path / "names.txt"
    safetensors.numpy.save_file(to_torch("resnet8", jax.device_get(variables)), path)
    names.write_bytes("\ufeffeins\r\nzwei, drei\r\n\u00e4\r\n".encode())
    options = {"network": "resnet8", "mean": (0.5,) * 3, "std": (0.2,) * 3}
    with pytest.raises(errors.InputError, match="pass image_size"):
        rrd_jax.load(path, **options).predict(_images(0))
    loaded = rrd_jax.load(path, **options, image_size=8, resize=10, class_names=names)
    assert loaded.about.class_names == ("eins", "zwei, drei", "\u00e4")
    by_label = rrd_jax.load(path, **options, class_names={2: "c", 0: "a", 1: "b"})
    assert by_label.about.class_names == ("a", "b", "c")
    with pytest.raises(errors.InputError, match=r"of shape \(0, 8, 8, 3\)"):
        loaded(np.zeros((0, 8, 8, 3), np.uint8))
    actual = loaded.about.preprocessing
    assert (actual.image_shape, actual.resize, actual.mean) == ((8, 8, 3), 10, (0.5,) * 3)
    images = _RNG.integers(0, 256, (3, 10, 10, 3), np.uint8)
    expected = loaded(images[:, 1:9, 1:9]).logits
    np.testing.assert_allclose(loaded.predict(images).logits, expected, rtol=1e-5, atol=1e-6)
    for invalid, message in [
        ({"background": "red"}, "background is 'red', but must be white"),
        ({"class_names": ["a"]}, "class_names has 1 names, but there are 3 classes"),
        ({"class_names": tmp_path}, "which cannot be read: Is a directory"),
        ({"class_names": {"a", "b", "c"}}, "must be a list of names"),
        ({"class_names": {"c": 2, "a": 0, "b": 1}}, "the labels are a, b, c .*, not 0, 1, 2"),
        ({"image_size": 8, "resize": 4}, "resize is 4, but must be at least image_size, 8"),
        ({"image_size": 0}, "image_size is 0"),
        ({"num_classes": 4}, "num_classes is 4, but .* for 3 classes"),
    ]:
        with pytest.raises(errors.InputError, match=message):
            rrd_jax.load(path, **options, **invalid)


@pytest.mark.parametrize("axes", [(), (1,)])
def test_arrays_without_an_axis_of_channels_are_grayscale_images(axes, mean, capsys):
    images = _RNG.integers(0, 256, (32, 8, 8), np.uint8)
    split = images.reshape(*images.shape, *axes), np.arange(32) % 4
    config = rrd_jax.config.defaults()
    dataset = array_datasets.open_and_describe(config, {}, split, split, None, None)
    assert config.data.image_size == 8
    np.testing.assert_array_equal(dataset.train.images, images[..., None])
    config.data.image_size = 16
    array_datasets.open_and_describe(config, {}, split, split, None, None)
    assert "data.image_size is 16 in the config, but the images are" in capsys.readouterr().out
    assert config.data.image_size == 8
    about = dataclasses.replace(_ABOUT, preprocessing=Preprocessing(8, 1, (0.5,), (0.5,)))
    predictor = dataclasses.replace(mean[0], about=about)
    expected = predictor.predict(images[..., None]).logits
    np.testing.assert_array_equal(predictor.predict(split[0]).logits, expected)
    with pytest.raises(errors.InputError, match=r"\(3, 8, 8\), which may be 3 grayscale"):
        predictor.predict(images[:3])


@pytest.mark.usefixtures("one_device")
@pytest.mark.long
def test_test_images_of_evaluate_are_prepared_as_those_of_predict(capsys):
    images = _RNG.integers(0, 256, (32, 24, 20, 4), np.uint8)
    split = images, np.arange(32) % 4
    fields = {"data.augment": "random_resized", "data.image_size": 8, "data.background": "#8040ff"}
    trained = rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16, fields=fields)
    network = trained.network
    assert network.about.preprocessing.resize == 9
    top1 = 100 * np.mean(network.predict(images).labels == split[1])
    assert rrd_jax.evaluate(network, test=split)["top1"] == pytest.approx(top1)
    assert rrd_jax.evaluate(trained)["top1"] == trained.metrics["top1"] == pytest.approx(top1)
    assert rrd_jax.load(trained.workdir, image_size=16).about.preprocessing.resize == 18
    capsys.readouterr()
    rrd_jax.load(trained.workdir, resize=40)
    assert "the central 8 x 8 of 40 x 40 pixels, 4 %" in capsys.readouterr().out


def test_the_logits_of_a_teacher_follow_the_classes_of_its_student():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    inputs = Preprocessing(8, 1, (0.5,), (0.5,))
    network = networks.create("resnet8", 3)
    variables = network.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    about = ModelInfo("resnet8", 3, class_names=("a", "b", "c"), preprocessing=inputs)
    teacher = Loaded(
        network, variables, "resnet8", 3, (8, 8, 1), inputs.mean, inputs.std, about=about
    )
    student = ModelInfo("resnet8", 2, class_names=("c", "a"))
    original, matched = (
        teacher.predict(images),
        run_teachers.with_student_classes(teacher, student).predict(images),
    )
    assert matched.class_names == ("c", "a")
    np.testing.assert_allclose(matched.logits, original.logits[:, [2, 0]], rtol=1e-5, atol=1e-6)
    others = dataclasses.replace(student, class_names=("x", "y"))
    assert run_teachers.with_student_classes(teacher, others) is teacher
