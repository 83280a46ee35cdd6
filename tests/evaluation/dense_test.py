"""Evaluation of patches during training (`eval.dense`, `eval.patches`)."""

import json

import jax
import numpy as np
import PIL.Image
import pytest
from sklearn import linear_model, preprocessing

from experiments.page import elements, html, run_page
from rrd_jax import errors, library, networks, parallel
from rrd_jax.config import parse
from rrd_jax.data.builders import drawings
from rrd_jax.evaluation import alignment, segmentation
from rrd_jax.jobs import job
from rrd_jax.predict import patch_figure
from rrd_jax.teacher import dense_probe, frozen
from rrd_jax.teacher.dense_probe import DenseProbe
from tests import launch
from tests.conftest import use_one_device
from tests.data import masked

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("tiny_network", "one_device")]


def _patch_data(seed=0, images=10, per_image=24, width=6, classes=3):
    """Returns patches whose features depend on the classes of their pixels."""
    rng = np.random.default_rng(seed)
    count = images * per_image
    shares = rng.dirichlet(np.full(classes, 0.3), count)
    counts = np.stack([rng.multinomial(rng.integers(1, 17), share) for share in shares])
    mixing = rng.standard_normal((classes, width)) * 3 + 1
    features = shares @ mixing + rng.standard_normal((count, width)) + 5
    image = np.repeat(np.arange(images), per_image)
    return dense_probe.PatchData(features.astype(np.float32), counts.astype(np.int32), image)


def _peer(data, penalty):
    """Returns scikit-learn's probe with a row for each patch and class."""
    scaler = preprocessing.StandardScaler().fit(data.features.astype(np.float64))
    rows, labels = np.nonzero(data.counts)
    weights = data.counts[rows, labels]
    features = scaler.transform(data.features.astype(np.float64))[rows]
    peer = linear_model.LogisticRegression(C=1 / (penalty * weights.sum()), tol=1e-9, max_iter=5000)
    return scaler, peer.fit(features, labels, sample_weight=weights)


def _logits(head, features):
    return features.astype(np.float64) @ head["kernel"] + head["bias"]


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_the_probe_equals_that_of_scikit_learn(penalty):
    data, mesh = _patch_data(), parallel.make_mesh()
    fitted = dense_probe.fit(data, mesh, penalties=(penalty,))
    scaler, peer = _peer(data, penalty)
    new = _patch_data(seed=1).features
    expected = peer.predict_proba(scaler.transform(new.astype(np.float64)))
    probabilities = np.exp(_logits(fitted.head, new))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=2e-3)


def test_the_penalty_with_the_lowest_loss_on_held_out_images_is_chosen():
    data, mesh = _patch_data(images=6, per_image=8, width=20), parallel.make_mesh()
    is_held_out = data.image == 4
    fit_part = dense_probe.PatchData(*(array[~is_held_out] for array in data))
    losses = {}
    for penalty in dense_probe.PENALTIES:
        # Features are standardized with all images.
        scaler, _ = _peer(data, penalty)
        rows, labels = np.nonzero(fit_part.counts)
        weights = fit_part.counts[rows, labels]
        peer = linear_model.LogisticRegression(
            C=1 / (penalty * weights.sum()), tol=1e-6, max_iter=1000
        )
        peer.fit(scaler.transform(fit_part.features)[rows], labels, sample_weight=weights)
        log = peer.predict_log_proba(scaler.transform(data.features[is_held_out]))
        counts = data.counts[is_held_out]
        losses[penalty] = -(counts * log).sum() / counts.sum()
    chosen = dense_probe.fit(data, mesh).penalty
    assert chosen == min(losses, key=losses.get)
    assert chosen > 1e-5


def test_the_probe_is_the_same_on_several_devices(monkeypatch):
    data = _patch_data()
    single = dense_probe.fit(data, parallel.make_mesh())
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    several = dense_probe.fit(data, mesh)
    assert single.penalty == several.penalty
    np.testing.assert_allclose(single.head["kernel"], several.head["kernel"], atol=5e-3)


def test_classes_without_pixels_are_never_predicted():
    data = _patch_data()
    wider = data._replace(counts=np.pad(data.counts, ((0, 0), (0, 2))))
    head = dense_probe.fit(wider, parallel.make_mesh()).head
    assert _logits(head, data.features).argmax(axis=1).max() < 3


def _config(teacher, location, root, **fields):
    defaults = {
        "data.use_labels": False,
        "data.dir": str(root / "index"),
        "teacher.checkpoint": str(teacher),
        "train.epochs": 2,
        "eval.dense": str(location),
    }
    return launch.digits("smoke,tiny-tiny,rrd", **defaults | fields)


@pytest.fixture(scope="module")
def evaluated_run(tiny_teacher, tmp_path_factory):
    """Workdir, plan and setting of a run without labels, evaluated on images with masks."""
    root = tmp_path_factory.mktemp("evaluated")
    masked.fill(root / "set" / "train", 20, size=(8, 8))
    masked.fill(root / "set" / "val", 10, size=(10, 8), start=20)
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        config = _config(tiny_teacher, root / "set", root)
        launch.run(config, root / "run")
        plan = parse(config)
        return root / "run", plan, job.open_data(plan, root / "run")


_COMPARED = ("patch_neighbours_10", "patch_cka")


def test_each_evaluation_has_metrics_of_student_random_weights_and_teacher(evaluated_run):
    first, last = launch.rows(evaluated_run[0])
    names = {f"proof/{p}{name}" for p in ("", "random_") for name in (*_COMPARED, "miou")}
    names |= {"proof/teacher_miou", "proof/miou_absent"}
    assert names <= first.keys()
    assert names <= last.keys()
    assert first["proof/random_miou"] == last["proof/random_miou"]
    *_, result = json.loads((evaluated_run[0] / "results.json").read_text())
    header, cells = alignment.table({result["label"]: result["proof"]})
    assert header[-1] == "probe mIoU"
    assert [cell[-1] != "-" for cell in cells] == [True] * 3


def test_a_run_has_pictures_of_its_patches_which_its_page_shows(evaluated_run):
    folder = evaluated_run[0]
    names = ["epoch-0001.png", "epoch-0002.png"]
    assert sorted(path.name for path in (folder / "patches").iterdir()) == names
    with PIL.Image.open(folder / "patches" / names[0]) as picture:
        assert picture.size == (8 * 96, 3 * 96)
    page = run_page.page(run_page.read(folder))
    (element,) = [e for e in page.sections[0].elements if isinstance(e, elements.Picture)]
    assert [label for label, _ in element.images] == ["epoch 1", "epoch 2"]
    assert html.render(page).count("data:image/png;base64,") == 2


def test_the_picture_of_predict_shows_student_and_teacher(evaluated_run, tmp_path):
    folder, *_ = evaluated_run
    student, teachers = library.load(folder), patch_figure.load_teachers(str(folder))
    paths = sorted(map(str, (folder.parent / "set" / "train" / "images").iterdir()))
    (tmp_path / "broken.png").write_bytes(b"")
    files, images, unread = patch_figure.read_images(
        [str(tmp_path / "broken.png"), *paths], student.predictor.about.preprocessing
    )
    assert len(files) == len(images) == 12
    assert list(unread) == [str(tmp_path / "broken.png")]
    maps = {
        role: patch_figure.patches_of(network, images, role)
        for role, network in ({"student": student} | teachers).items()
    }
    assert list(maps) == ["student", "teacher"]
    patch_figure.draw(tmp_path / "patches.png", files, images, maps, (0.5, 0.5))
    with PIL.Image.open(tmp_path / "patches.png") as picture:
        assert picture.width > 300


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_the_metric_equals_that_of_scikit_learn_on_the_same_patches(
    role, evaluated_run, tiny_teacher
):
    folder, plan, (dataset, mesh) = evaluated_run
    training, subset = plan.student.training, dataset.masked_subset
    choice = training.network if role == "student" else plan.teachers[0].network
    path = folder if role == "student" else tiny_teacher
    terms = training.create_objectives(24) if role == "student" else None
    network = frozen.load(choice, path, dataset, mesh, training, terms)
    dense = DenseProbe(network.network, subset, mesh, training, role)
    data = dense.collect(network.variables)
    _, peer = _peer(data, dense_probe.fit(data, mesh).penalty)
    scaler = preprocessing.StandardScaler().fit(data.features.astype(np.float64))
    kernel = peer.coef_.T / scaler.scale_[:, None]
    head = {"kernel": kernel, "bias": peer.intercept_ - scaler.mean_ @ kernel}
    head = {name: value.astype(np.float32) for name, value in head.items()}
    expected = segmentation.mean_iou(dense.confusion(network.variables, head))[0]
    prefix = "proof/" if role == "student" else "proof/teacher_"
    assert launch.rows(folder)[-1][f"{prefix}miou"] == pytest.approx(expected, abs=1)


def test_all_pixels_of_the_test_masks_are_counted_once(evaluated_run):
    _, plan, (dataset, mesh) = evaluated_run
    subset, training = dataset.masked_subset, plan.student.training
    network = training.network.create(0)
    dense = DenseProbe(network, subset, mesh, training, "student")
    variables = networks.init(network, jax.random.key(0), dataset.image_shape)
    width = dense.collect(variables).features.shape[1]
    head = {
        "kernel": np.zeros((width, 4), np.float32),
        "bias": np.array([0, 1, 0, 0], np.float32),
    }
    masks = np.stack([subset.test.read(i)["mask"] for i in range(10)])
    expected = np.zeros((4, 4), np.int64)
    expected[:, 1] = np.bincount(masks[masks != 255], minlength=4)
    np.testing.assert_array_equal(dense.confusion(variables, head), expected)


def test_patches_are_compared_without_masks(tiny_teacher, tmp_path):
    config = _config(tiny_teacher, "", tmp_path, **{"eval.patches": True, "train.epochs": 1})
    launch.run(config, tmp_path / "run")
    (row,) = launch.rows(tmp_path / "run")
    assert {f"proof/{p}{name}" for p in ("", "random_") for name in _COMPARED} <= row.keys()
    assert not [name for name in row if "miou" in name]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("./nowhere", r"eval\.dense is '\./nowhere': the folder does not exist; name a folder"),
        ("nowhere", r"eval\.dense is 'nowhere': unknown data set 'nowhere'"),
        ("digits", r"has features .*, but needs 'image' and a mask"),
        ("hf:nowhere", r"name a folder of images and masks, or a data set of TFDS"),
        ("{}/set/images/0.png", "the path is a file"),
        ("{}/set/images", "has no image with a mask"),
        ("{}/small", "too few for training and testing"),
    ],
)
def test_masks_that_cannot_be_used_are_refused_before_training(
    location, message, tiny_teacher, data_dir, tmp_path
):
    masked.fill(tmp_path / "set", 10)
    masked.fill(tmp_path / "small", 1)
    fields = {"data.dir": str(data_dir)} if location == "digits" else {}
    config = _config(tiny_teacher, location.format(tmp_path), tmp_path, **fields)
    with pytest.raises(errors.InputError, match=message) as caught:
        launch.run(config, tmp_path / "run")
    assert str(caught.value).startswith("eval.dense is")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_generated_drawings_have_masks_that_fit_their_labels():
    image, mask, label = drawings.draw(np.random.default_rng((0, 7)))
    again = drawings.draw(np.random.default_rng((0, 7)))
    np.testing.assert_array_equal(image, again[0])
    assert image.shape == (*mask.shape, 3)
    visible = np.bincount(mask[mask != 255], minlength=7)
    assert visible[1:].argmax() == label
    assert 0 < (mask == 255).mean() < 0.3
    assert set(np.unique(mask)) <= {*range(7), 255}
