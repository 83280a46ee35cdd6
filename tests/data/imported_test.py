"""Custom data sets, given by import path or as objects."""

import io
import pickle
import sys
import types

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow_datasets as tfds

from rrd_jax import data, errors
from rrd_jax.config import parse
from rrd_jax.data.feeds import feed
from rrd_jax.data.images import reader, transforms
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.data.sources import split_expressions
from tests import launch

_RNG = np.random.default_rng(0)
_IMAGES = _RNG.integers(0, 256, (40, 8, 8, 3), np.uint8)
_LABELS = np.arange(40) % 10
_MODULE = """
import io, threading
import numpy as np
import PIL.Image

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
LABELS = np.arange(40) % 10

def pairs(split, count: int = 40):
    first = 0 if split == "train" else 4
    return [(IMAGES[i], LABELS[i]) for i in range(first, count)]

def dicts(split):
    return [{"image": image, "label": label} for image, label in pairs(split)]

# A lock cannot be pickled.
class Locked:
    num_classes = 10
    def __init__(self, split):
        self.lock = threading.Lock()
        self.rows = pairs(split)
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, i):
        with self.lock:
            return self.rows[i]

class Both:
    train = pairs("train")
    test = pairs("test")

mapping = {"train": pairs("train"), "test": pairs("test")}
columns = {"train": {"image": IMAGES, "label": LABELS}, "test": (IMAGES[4:], LABELS[4:])}
object_of_splits = Both()
single = pairs("train")

def factory(): return mapping
class Opener:
    def __init__(self):
        self.train, self.test = single, pairs("test")
def misspelt(): return {"trian": single, "test": single}
class Untested:
    train = single
def iterable(split): return iter(pairs(split))
def empty(split): return []
def unlabelled(split): return [{"image": image} for image in IMAGES]
def misnamed(split): return [{"img": image, "label": 0} for image in IMAGES]
def triples(split): return [(image, 0, 0) for image in IMAGES]
def worded(split): return [(image, "cat") for image in IMAGES]
def normalised(split): return [(image / 127.5 - 1, 0) for image in IMAGES]
def flat(split): return [(image.reshape(-1), 0) for image in IMAGES]
def garbage(split): return [(b"no image", 0)] * 9
def raises(split): raise KeyError(split)
class Failing(Locked):
    def __getitem__(self, i):
        return self.rows[i] if i != 5 else 1 / 0
class Beyond(Locked):
    num_classes = 4
class Unmeasured(Locked):
    def __len__(self):
        raise RuntimeError("no length")
class Ends(Locked):
    def __getitem__(self, i):
        raise SystemExit(3)
class BadClasses(Locked):
    @property
    def num_classes(self):
        raise RuntimeError("no classes")
class Ten(Locked):
    num_classes = "ten"
def huge(split): return [(image, 10**9 + i) for i, image in enumerate(IMAGES)]
class Random(Locked):
    def __getitem__(self, i):
        return np.random.randint(0, 256, (8, 8, 3), np.uint8), 0
"""


@pytest.fixture(autouse=True)
def my_data(tmp_path, monkeypatch):
    """A user module with data sets in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    (tmp_path / "my_data.py").write_text(_MODULE)
    yield
    sys.modules.pop("my_data", None)


def _load(name, **fields):
    options = {"image_size": 8, "augment": "none"} | fields
    return data.load(data.Source(f"my_data:{name}", **options))


_FORMS = ("pairs", "dicts", "Locked", "Both", "mapping", "columns", "object_of_splits", "factory")


@pytest.mark.parametrize("name", [*_FORMS, "Opener"])
def test_sources_of_all_forms_are_read(name):
    dataset = _load(name)
    assert (dataset.num_classes, dataset.image_shape) == (10, (8, 8, 3))
    np.testing.assert_array_equal(dataset.train.images, _IMAGES)
    np.testing.assert_array_equal(dataset.train.labels, _LABELS)
    np.testing.assert_array_equal(dataset.test.images, _IMAGES[4:])


@pytest.mark.parametrize(
    ("mode", "kind", "orientation"),
    [
        ("RGB", "JPEG", 6),
        ("L", "PNG", 2),
        ("RGB", "TIFF", 8),
        ("CMYK", "JPEG", 5),
        ("LA", "JPEG2000", 1),
    ],
)
def test_encoded_and_pil_images_are_read_as_by_predict(mode, kind, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    file, exif = io.BytesIO(), PIL.Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} if orientation > 1 else {}
    PIL.Image.fromarray(pixels, "RGBA").convert(mode).save(file, kind, **options)
    content = file.getvalue()
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(file))
    forms = (content, bytearray(content), PIL.Image.open(file), upright)
    rows = [(form, label) for form in forms for label in (0, 1)]
    source = data.Source(image_size=9, augment="none")
    dataset = data.from_sources(rows, rows, source)
    channels = dataset.image_shape[-1]
    half = (0.5,) * channels
    expected = reader.read(content, Preprocessing(9, channels, half, half))
    for image in dataset.train.images:
        np.testing.assert_array_equal(image, expected)


def test_the_orientation_is_part_of_the_version():
    image, exif, versions = PIL.Image.new("RGB", (8, 8)), PIL.Image.Exif(), set()
    for orientation in (1, 6):
        exif[0x0112] = orientation
        file = io.BytesIO()
        image.save(file, "PNG", exif=exif)
        dataset = data.from_sources(
            [(file.getvalue(), 0), (image, 1)] * 2,
            source=data.Source(image_size=8, test_split="train"),
        )
        versions.add(dataset.version)
    assert len(versions) == 2


@pytest.mark.parametrize("masked", ["images", "labels"])
def test_masked_values_are_refused(masked):
    arrays = {"images": _IMAGES, "labels": _LABELS}
    arrays[masked] = np.ma.masked_equal(arrays[masked], arrays[masked].flat[0])
    with pytest.raises(errors.InputError, match=f"the {masked} of split 'train' .* are masked"):
        data.from_sources(tuple(arrays.values()), (_IMAGES, _LABELS), data.Source(image_size=8))
    if masked == "images":
        with pytest.raises(errors.InputError, match="values are masked"):
            reader.read(arrays[masked][0], Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3))


def test_options_are_checked_against_the_signature():
    assert len(_load("pairs", options={"count": 12}).train) == 12
    with pytest.raises(errors.InputError, match="'data.options.count' of .* must be of type int"):
        _load("pairs", options={"count": "many"})
    with pytest.raises(errors.InputError, match="^unknown option 'data.options.cuont'.*'count'"):
        _load("pairs", options={"cuont": 3})
    with pytest.raises(errors.InputError, match=r"takes no data.options \(count\)"):
        _load("mapping", options={"count": 3})
    with pytest.raises(errors.InputError, match=r"'digits' takes no data.options \(count\)"):
        data.load(data.Source("digits", options={"count": 3}))


def test_split_expressions_are_resolved_before_the_function_is_called():
    dataset = _load("pairs", train_split="train[:90%]", test_split="train[90%:]+test[:2]")
    np.testing.assert_array_equal(dataset.train.images, _IMAGES[:36])
    expected = np.concatenate([_IMAGES[36:], _IMAGES[4:6]])
    np.testing.assert_array_equal(dataset.test.images, expected)
    parts = _load("single", train_split="train[:30]", test_split="train[30:]")
    assert (len(parts.train), len(parts.test)) == (30, 10)


_EXPRESSIONS = ("train", "train[:3]", "train[-3:]", "train[1:-2]", "train[:33%]", "train[33%:66%]")


@pytest.mark.parametrize("expression", [*_EXPRESSIONS, "train[-15%:]", "train[50%:]+test[:2]"])
def test_split_expressions_follow_tfds(expression):
    for count in (7, 1797):
        info = tfds.core.SplitInfo(name="train", shard_lengths=[count], num_bytes=0)
        infos = {"train": info, "test": info.replace(name="test")}
        expected = tfds.core.ReadInstruction.from_spec(expression).to_absolute(infos)
        rows = [(part.name, list(part.rows(count))) for part in split_expressions.parse(expression)]
        assert rows == [(w.splitname, list(range(count))[w.from_ : w.to]) for w in expected]


def _encoded(image, kind="PNG"):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "form",
    [
        _encoded,
        PIL.Image.fromarray,
        lambda image: PIL.Image.fromarray(image).convert("RGBA"),
        lambda image: image.astype(np.int64),
        lambda image: image.transpose(2, 0, 1),
        lambda image: image.transpose(2, 0, 1).astype(np.float32) / 255,
        lambda image: image / 255.0,
    ],
    ids=["png", "pil", "rgba", "int64", "chw", "float chw", "float"],
)
def test_images_of_all_forms_have_the_same_pixels(form):
    source = [(form(image), label) for image, label in zip(_IMAGES, _LABELS, strict=True)]
    dataset = data.from_sources(source, source[:5], data.Source(image_size=8))
    np.testing.assert_array_equal(dataset.train.images, _IMAGES)


def test_arrays_and_parts_of_arrays_are_sources():
    source = data.Source(image_size=8, train_split="train[:30]", test_split="train[30:]")
    dataset = data.from_sources((_IMAGES, _LABELS), source=source)
    np.testing.assert_array_equal(dataset.test.images, _IMAGES[30:])
    assert dataset.num_classes == 10
    streamed = data.Source(image_size=8, resize=9, augment="random_resized")
    dataset = data.from_sources((_IMAGES, _LABELS), (_IMAGES, _LABELS), streamed, num_classes=12)
    assert isinstance(dataset.train, feed.Streamed)
    assert dataset.num_classes == 12
    with pytest.raises(
        errors.InputError, match="returned 40 images for split 'train', but 39 labels"
    ):
        data.from_sources((_IMAGES, _LABELS[1:]), (_IMAGES, _LABELS))
    small = data.Source(image_size=8, train_split="train[:2]", test_split="train[2:4]")
    for source in [(_IMAGES, _LABELS), list(zip(_IMAGES, _LABELS, strict=True))]:
        assert data.from_sources(source, source=small).num_classes == 10


def test_grayscale_images_stay_grayscale_unless_other_images_have_colors():
    grey = [(image[..., 0], i % 2) for i, image in enumerate(_IMAGES)]
    options = data.Source(image_size=8)
    assert data.from_sources(grey, grey, options).image_shape == (8, 8, 1)
    both = [*grey, (_encoded(_IMAGES[1][..., 0]), 1), (_encoded(_IMAGES[0]), 1)]
    dataset = data.from_sources(both, grey, options)
    assert dataset.image_shape == (8, 8, 3)
    np.testing.assert_array_equal(dataset.train.images[:40], np.repeat(_IMAGES[..., :1], 3, -1))
    np.testing.assert_array_equal(dataset.train.images[40], np.repeat(_IMAGES[1][..., :1], 3, -1))
    np.testing.assert_array_equal(dataset.train.images[41], _IMAGES[0])
    with_color_image = [*grey[:1], (_IMAGES[0], 0), *grey[:20]]
    with pytest.raises(
        errors.InputError, match="example 1 of .* has 3 channels, but the images checked"
    ):
        _ = data.from_sources(with_color_image, grey, options).train.images


def _with(**attributes):
    source = type("Source", (list,), attributes)
    return source((image, i % 3) for i, image in enumerate(_IMAGES))


@pytest.mark.parametrize(
    ("source", "classes"),
    [
        (_with(), 3),
        (_with(classes=["a", "b", "c", "d"]), 4),
        (_with(dataset=types.SimpleNamespace(classes=["a"], num_classes=5)), 5),
        (_with(features={"label": types.SimpleNamespace(num_classes=6)}), 6),
        (_with(dataset=types.SimpleNamespace(classes=list("abcdefg"))), 7),
        (_with(targets=[i % 3 for i in range(40)]), 3),
        # These targets differ from the labels of the examples.
        (_with(targets=[9] * 40), 3),
    ],
)
def test_the_number_of_classes_comes_from_attributes_or_labels(source, classes):
    dataset = data.from_sources(source, source)
    assert dataset.num_classes == classes
    assert dataset.class_names == (tuple("abcdefg"[:classes]) if classes in (4, 7) else ())


def test_large_sources_must_provide_the_number_of_classes():
    large = _with() * 3000
    with pytest.raises(errors.InputError, match="120000 examples are too many .* num_classes"):
        data.from_sources(large, large)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("iterable", "returned a value of type list_iterator for split 'train', but must"),
        ("empty", "has no examples in split 'train'"),
        ("unlabelled", "example 0 of .* of data set 'my_data:unlabelled': the label is None"),
        ("misnamed", "the example is a mapping with 'img', 'label'; expected a dict with 'image'"),
        ("triples", r"the example is a tuple of 3; expected a dict .* or a pair \(image, label\)"),
        ("worded", "the label is 'cat', but must be an integer"),
        ("normalised", "the image has values of type float64 from -.* give uint8, or floats in"),
        ("flat", r"the image is a ndarray of shape \(192,\) and type uint8; expected"),
        ("garbage", "not an image, or an unsupported format"),
        ("Beyond", "example 5 of .* has label 5, but there are 4 classes, from 0 to 3"),
        ("Random", "example 0 of .* changes between two reads; .* use data.augment"),
        ("Ten", "num_classes is 'ten', but must be a whole number"),
        ("huge", "has label 1000000039, but labels must be class ind.* num_classes"),
        ("Untested", "has no split 'test': no attribute of that name"),
        ("misspelt", "has no split 'train'; available splits: trian, test"),
        ("pears", "has no 'pears'; did you mean 'pairs'"),
    ],
)  # fmt: skip
def test_an_invalid_source_is_refused_in_one_line_when_opened(name, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        _load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "opening split 'train' of .*my_data.py.*KeyError: 'train'"),
        ("Failing", "example 5 of split 'train' of data set .*my_data.py.*ZeroDivisionError"),
        ("Unmeasured", "the length of split 'train' .*my_data.py.*RuntimeError: no length"),
        ("Ends", "example 0 of .*my_data.py.*SystemExit: 3"),
        (
            "BadClasses",
            "reading 'num_classes' of the data set .*my_data.py.*RuntimeError: no classes",
        ),
    ],
)
def test_a_source_that_raises_shows_its_traceback(name, message):
    with pytest.raises(errors.UserCodeError, match=f"(?s){message}"):
        _load(name)


def test_mock_examples_are_the_first_of_the_source():
    dataset = _load("pairs", mock_examples=24)
    np.testing.assert_array_equal(dataset.train.images, _IMAGES[:24])


def test_config_options_reach_the_sources_of_student_and_teacher():
    config = launch.digits("smoke,resnet8-resnet8,rrd+kd", **{"data.name": "my_data:pairs"})
    config.data.options.count = 12
    job = parse(config)
    assert job.student.source.options == (("count", 12),)
    assert job.teachers[0].part.source == job.student.source


def test_the_version_changes_with_the_data():
    def version(*arrays):
        return data.from_sources(arrays, arrays).version

    changed = [(255 - _IMAGES, _LABELS), (_IMAGES, _LABELS[::-1]), (_IMAGES[:20], _LABELS[:20])]
    versions = {version(*arrays) for arrays in [(_IMAGES, _LABELS), *changed]}
    assert len(versions) == 4
    assert version(_IMAGES, _LABELS) in versions


def test_a_source_is_hashable():
    source = data.Source("my_data:pairs", options={"b": [1, 2], "a": 1})
    assert hash(source) == hash(data.Source("my_data:pairs", options={"a": 1, "b": (1, 2)}))


# workers_test counts the remaining processes, so it must not run at the same time.
@pytest.mark.xdist_group("workers")
@pytest.mark.long
def test_worker_processes_return_the_same_batches_for_sources_that_cannot_be_pickled():
    def batches(workers):
        dataset = _load("Locked", feed="streamed", workers=workers, keep="off")
        return list(dataset.train.train_batches(8, seed=0, start=0, stop=3))

    for a, b in zip(batches(0), batches(2), strict=True):
        for name, values in a.items():
            np.testing.assert_array_equal(b[name], values)
    source = _load("Locked").train.examples.rows.parts[0][0].source
    from_objects = data.from_sources(source, source)
    with pytest.raises(errors.InputError, match="cannot be sent to worker .* data.workers=0"):
        pickle.dumps(from_objects.train.examples)


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_resumed_run_on_custom_data_equals_an_uninterrupted_run(tmp_path):
    fields = {
        **{"data.name": "my_data:pairs", "data.options.count": 40, "data.mock_examples": 0},
        **{"data.mean": (0.5,) * 3, "data.std": (0.25,) * 3, "train.save_every": 2},
    }
    config = launch.digits("smoke,tiny,ce", **fields)
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    launch.run(config, uninterrupted)
    launch.preempt(config, resumed, 3)
    sys.modules["my_data"].LABELS[:] = 9 - _LABELS
    with pytest.raises(errors.InputError, match="holds a run on my_data:pairs .*, but the data"):
        launch.run(config, resumed)
    del sys.modules["my_data"]
    launch.run(config, resumed)
    assert launch.rows(uninterrupted) == launch.rows(resumed)
    assert launch.digests(uninterrupted, 10) == launch.digests(resumed, 10)


def test_torch_data_sets_and_tensors_are_sources():
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    tensors = torch.from_numpy(_IMAGES).permute(0, 3, 1, 2)
    pairs = torch.utils.data.TensorDataset(tensors, torch.from_numpy(_LABELS))
    dataset = data.from_sources(pairs, torch.utils.data.Subset(pairs, range(4)))
    np.testing.assert_array_equal(transforms.pad_or_resize(_IMAGES[0], 32), dataset.train.images[0])
    assert (len(dataset.test), dataset.num_classes) == (4, 10)
    transform = torchvision.transforms.ToTensor()
    fake = torchvision.datasets.FakeData(9, (3, 8, 8), 5, transform=transform)
    plain = torchvision.datasets.FakeData(9, (3, 8, 8), 5)
    splits = [data.from_sources(s, s, data.Source(image_size=8)).train for s in (fake, plain)]
    np.testing.assert_array_equal(splits[0].images, splits[1].images)
