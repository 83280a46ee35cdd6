"""Evaluation of embeddings on separate labelled images during training (`eval.labelled`)."""

import io
import json

import numpy as np
import PIL.Image
import pytest
from sklearn import linear_model, preprocessing
from sklearn.neighbors import KNeighborsClassifier

from rrd_jax import data, errors
from rrd_jax.config import parse
from rrd_jax.data.images import transforms
from rrd_jax.data.subsets import labelled_subset
from rrd_jax.evaluation import alignment, predictions
from rrd_jax.jobs import job
from rrd_jax.teacher import frozen
from tests import launch
from tests.conftest import use_one_device
from tests.data import folders

pytestmark = [pytest.mark.usefixtures("tiny_network", "one_device")]
_SHADES = {"bright": 150, "dark": 100, "middling": 125}


def _fill(folder, number, size=8):
    """Writes noisy images with one shade per class."""
    rng = np.random.default_rng(number)
    for name, shade in _SHADES.items():
        for i in range(number):
            pixels = np.clip(shade + 60 * rng.standard_normal((size, size, 3)), 0, 255)
            file = io.BytesIO()
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
            folders.put(folder / name / f"{i}.png", file.getvalue())


def _config(teacher, location, root, **fields):
    defaults = {
        "data.use_labels": False,
        "data.dir": str(root),
        "teacher.checkpoint": str(teacher),
        "train.epochs": 2,
        "eval.labelled": str(location),
        "eval.labelled_per_class": 8,
    }
    return launch.digits("smoke,tiny-tiny,rrd", **defaults | fields)


@pytest.fixture(scope="module")
def evaluated_run(tiny_teacher, tmp_path_factory):
    """Workdir, plan and setting of a run without labels, evaluated on a few labelled images."""
    root = tmp_path_factory.mktemp("evaluated")
    for split, number in (("train", 12), ("test", 10)):
        _fill(root / "images" / split, number)
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        config = _config(tiny_teacher, root / "images", root / "index")
        launch.run(config, root / "run")
        plan = parse(config)
        return root / "run", plan, job.open_data(plan, root / "run")


@pytest.mark.long
def test_each_evaluation_has_metrics_of_student_random_weights_and_teacher(evaluated_run):
    classified = {f"{prefix}{name}" for prefix in ("", "random_", "teacher_") for name in _METRICS}
    for row in launch.rows(evaluated_run[0]):
        names = {name.removeprefix("proof/") for name in row if name.startswith("proof/")}
        assert classified < names
    *_, result = json.loads((evaluated_run[0] / "results.json").read_text())
    header, cells = alignment.table({result["label"]: result["proof"]})
    assert header[-2:] == ("20-NN top-1", "probe top-1")
    assert [cell[0] for cell in cells] == ["random weights", "distilled, rrd", "teacher"]
    first, last = launch.rows(evaluated_run[0])
    assert first["proof/random_probe"] == last["proof/random_probe"]


# Metrics for 24 labelled images.
_METRICS = ("knn_10", "knn_20", "probe")


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.long
def test_metrics_equal_those_of_scikit_learn(role, evaluated_run, tiny_teacher):
    folder, plan, (dataset, mesh) = evaluated_run
    training = plan.student.training
    choice = training.network if role == "student" else plan.teachers[0].network
    path = folder if role == "student" else tiny_teacher
    terms = training.create_objectives(24) if role == "student" else None
    network = frozen.load(choice, path, dataset, mesh, training, terms)
    embed = predictions.compile_embed(network.network, training.normalize, mesh)
    (rows, labels), (queries, truth) = (
        predictions.collect_embeddings(embed, network.variables, split, 7, mesh)
        for split in (dataset.labelled_subset.train, dataset.labelled_subset.test)
    )
    assert np.bincount(labels).tolist() == [8, 8, 8]
    assert np.bincount(truth).tolist() == [10, 10, 10]
    last = launch.rows(folder)[-1]
    prefix = "proof/" if role == "student" else "proof/teacher_"
    for k in (10, 20):
        peer = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
        )
        peer.fit(rows.astype(np.float64), labels)
        expected = 100 * np.mean(peer.predict(queries.astype(np.float64)) == truth)
        assert last[f"{prefix}knn_{k}"] == pytest.approx(expected)
    scaler = preprocessing.StandardScaler().fit(rows)
    peer = linear_model.LogisticRegression(C=1.0, max_iter=5000, tol=1e-6)
    peer.fit(scaler.transform(rows), labels)
    expected = 100 * peer.score(scaler.transform(queries), truth)
    # One of 30 images is 3.3 percent; chance level for three classes is 33 percent.
    assert last[f"{prefix}probe"] == pytest.approx(expected, abs=3.4)
    assert last[f"{prefix}probe"] > 40


def _open(location, tmp_path, per_class=0, channels=1, **fields):
    source = data.Source("digits", image_size=8, dir=str(tmp_path / "index"), **fields)
    blank = np.zeros((4, 8, 8, channels), np.uint8), np.zeros(4, int)
    like = data.from_sources(blank, blank, data.Source(image_size=8, use_labels=False))
    return labelled_subset.open_labelled_subset(str(location), per_class, source, like)


def test_a_folder_of_classes_is_split_like_an_image_folder(tmp_path):
    _fill(tmp_path / "images", 20, size=12)
    opened = _open(tmp_path / "images", tmp_path, augment="random_resized", resize=10, channels=3)
    reference = data.load(
        data.Source("image_folder", manual_dir=str(tmp_path / "images"), dir=str(tmp_path / "b"))
    )
    assert opened.version == reference.version
    assert opened.test.examples.paths == reference.test.examples.paths
    assert opened.image_shape == (8, 8, 3)
    # The images are resized like the run's test images.
    assert opened.test.resize == 10
    larger = _open(tmp_path / "images", tmp_path, 5)
    smaller = _open(tmp_path / "images", tmp_path, 2)
    assert np.bincount(larger.train.labels).tolist() == [5, 5, 5]
    assert len(larger.test) == len(reference.test)
    contents = {image.tobytes() for image in larger.train.images}
    assert {image.tobytes() for image in smaller.train.images} < contents


def test_images_are_read_with_the_channels_of_the_run(tmp_path):
    _fill(tmp_path / "images", 20)
    grey, colored = (_open(tmp_path / "images", tmp_path, channels=c) for c in (1, 3))
    weights = np.array([0.299, 0.587, 0.114])
    assert grey.train.images.shape[-1] == 1
    assert "converted to grayscale" in grey.summary.warnings[-1]
    assert not any("channels" in text for text in colored.summary.warnings)
    expected = colored.train.images @ weights
    np.testing.assert_allclose(grey.train.images[..., 0], expected, atol=1.5)


def test_a_hugging_face_data_set_is_evaluated_on_its_test_split(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(_SHADES))}
    )
    parts = {}
    for split, number in (("train", 4), ("test", 2)):
        _fill(tmp_path / split, number)
        rows = [
            {"image": str(path), "label": path.parent.name}
            for path in sorted((tmp_path / split).rglob("*.png"))
        ]
        parts[split] = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    opened = _open(f"hf:{tmp_path / 'set'}", tmp_path, 3)
    assert np.bincount(opened.train.labels).tolist() == [3, 3, 3]
    assert (len(opened.test), opened.class_names) == (6, tuple(_SHADES))
    colored = transforms.decode((tmp_path / "test/bright/0.png").read_bytes(), 3)
    expected = colored @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(opened.test.images[0, ..., 0], expected, atol=1.5)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        (
            "./nowhere",
            r"eval\.labelled is '\./nowhere': the folder does not exist; name a data set",
        ),
        ("nowhere", r"eval\.labelled is 'nowhere': unknown data set 'nowhere'"),
        ("hf:nowhere", r"eval\.labelled is 'hf:nowhere': .* does not exist"),
        ("{}/flat", "none in the folder of a class"),
        ("{}/flat/0.jpg", r"the path is a file, not a folder; for a Parquet file"),
        ("{}/one", "has only one class, 'cat'"),
        ("{}/untested", "has no images for split 'test'"),
    ],
)
def test_labelled_images_that_cannot_be_used_are_refused_before_training(
    location, message, tiny_teacher, tmp_path
):
    folders.put(tmp_path / "flat" / "0.jpg")
    folders.fill(tmp_path / "one", ("cat",))
    folders.fill(tmp_path / "untested", number=1)
    if location.startswith("hf:"):
        pytest.importorskip("datasets")
    config = _config(tiny_teacher, location.format(tmp_path), tmp_path / "index")
    with pytest.raises(errors.InputError, match=message) as caught:
        launch.run(config, tmp_path / "run")
    assert str(caught.value).startswith("eval.labelled is")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_run_with_labels_can_be_evaluated_on_another_data_set(
    tiny_teacher, data_dir, tmp_path, capsys
):
    fields = {"data.use_labels": True, "eval.knn": True, "train.epochs": 1}
    config = _config(tiny_teacher, "digits", data_dir, **fields)
    with config.unlocked():
        # Random images replace the data set.
        config.data.name = "fashion_mnist"
        config.eval.labelled_per_class = 1
    launch.run(config, tmp_path)
    output = "".join(capsys.readouterr()).replace("\n", " ")
    assert "eval.knn (eval.labelled sets the images)" in output
    assert "10 images of 10 classes, 797 test images, from digits/" in output
    assert "k-NN with k = 20, 100, 200 skipped: number of labeled images is 10" in output
    assert {"proof/knn_10", "proof/probe"} <= launch.rows(tmp_path)[-1].keys()
