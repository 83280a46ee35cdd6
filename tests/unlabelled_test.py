"""Training without labels: losses, refused options, messages, and image folders."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import rrd_jax
from rrd_jax import data, errors, networks, objectives
from rrd_jax.config import parse
from rrd_jax.objectives.batch import Batch
from rrd_jax.objectives.parts import banks, negatives
from rrd_jax.weights import to_torch
from tests import launch, tiny
from tests.data import folders

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_device", "tiny_network")]


def _config(teacher="", method="rrd", **fields):
    defaults = {"data.use_labels": False, "teacher.checkpoint": str(teacher or "somewhere")}
    return launch.digits(f"smoke,tiny-tiny,{method}", **{**defaults, **fields})


def test_a_student_without_labels_has_no_classifier_and_is_selected_by_its_neighbors(
    tiny_teacher, tmp_path, capsys
):
    *_, result = launch.run(_config(tiny_teacher), tmp_path / "a")
    output = capsys.readouterr().out
    assert "cross-entropy (ce) omitted" in output
    assert "held-out loss" in output
    assert result.top1 is None
    assert result.agreement is None
    rows = launch.rows(tmp_path / "a")
    assert [row["test/loss"] for row in rows] == [row["test/loss/rrd"] for row in rows]
    assert result.loss == rows[-1]["test/loss"]
    scores = [row["proof/neighbours_10"] for row in rows]
    assert result.best_by == "proof/neighbours_10"
    assert result.score == scores[-1]
    assert result.best_score == max(scores)
    assert result.best_epoch == 1 + scores.index(max(scores))
    assert not any("top1" in name for row in rows for name in row)
    card = (tmp_path / "a" / "README.md").read_text()
    assert "Image embeddings: `tiny`" in card
    assert "classif" not in card.replace("without a classifier", "")
    student = rrd_jax.load(tmp_path / "a")
    assert student.num_classes == 0
    assert student.embed(np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, 16)
    best = rrd_jax.load(f"{tmp_path / 'a'}@best")
    assert best.num_classes == 0


def test_a_student_without_labels_resumes_and_can_be_fine_tuned(tiny_teacher, tmp_path, capsys):
    launch.check_resume(_config(tiny_teacher), tmp_path)
    overrides = {"student.checkpoint": str(tmp_path / "uninterrupted"), "train.epochs": 1}
    launch.run(launch.digits("smoke,tiny,ce", **overrides), tmp_path / "tuned")
    assert "starts from" in capsys.readouterr().out
    assert rrd_jax.load(tmp_path / "tuned").num_classes == 10
    overrides["student.checkpoint"] = str(tmp_path / "tuned")
    launch.run(_config(tiny_teacher, **overrides), tmp_path / "again")
    assert rrd_jax.load(tmp_path / "again").num_classes == 0


def test_labels_do_not_change_the_student(tiny_teacher, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 8, 1), np.uint8)
    digests = []
    for number, labels in enumerate((np.arange(24) % 10, np.full(24, 3))):
        folder = tmp_path / str(number)
        pair = (images, labels)
        rrd_jax.distill(_config(tiny_teacher), folder, train=pair, test=pair)
        digests.append(launch.digests(folder, 6)["params"])
    assert digests[0] == digests[1]


def test_kd_needs_no_labels(tiny_teacher, tmp_path):
    *_, result = launch.run(_config(tiny_teacher, "kd"), tmp_path)
    assert result.top1 is None
    assert 0 <= result.agreement <= 100
    assert result.loss > 0
    assert rrd_jax.load(tmp_path).num_classes == 10
    fields = json.loads((tmp_path / "config.json").read_text())
    assert list(fields["objectives"]) == ["kd"]


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("ce+rrd", {}, r"ce needs labels; use objectives without: kd, dist, .*rrd"),
        ("dkd+rrd", {}, r"dkd needs labels; use objectives without: kd"),
        ("ab", {}, r"ab needs labels"),
        (
            "rrd",
            {"teacher.checkpoint": ""},
            r"teacher\.checkpoint to trained .*teacher\.use_labels",
        ),
        ("rrd", {"teacher.model": "", "teacher.checkpoint": ""}, "there is no teacher"),
        ("rrd", {"teacher.probe": True}, r"teacher\.probe is True"),
        ("rrd", {"eval.knn": True}, r"eval\.knn is True, which needs labels"),
        ("rrd", {"data.per_class": 5}, r"data\.per_class is 5"),
        ("rrd", {"data.imbalance": 10.0}, r"data\.imbalance is 10"),
        ("rrd", {"data.label_noise": 0.2}, r"data\.label_noise is 0\.2"),
    ],
)
def test_objectives_and_fields_that_need_labels_are_refused(method, fields, message):
    with pytest.raises(
        errors.InputError, match=r"teacher\.use_labels is False, but training a teacher needs"
    ):
        parse(launch.digits("smoke,tiny-tiny,kd", **{"teacher.use_labels": False}))
    with pytest.raises(errors.InputError, match=message) as caught:
        parse(_config(method=method, **fields))
    assert "\n" not in str(caught.value)


def test_the_student_alone_is_left_out(capsys):
    plan = parse(_config(baseline=True))
    assert not plan.comparisons
    assert "(ce) and the student alone (baseline) omitted" in capsys.readouterr().out


def test_a_users_objective_is_refused_only_if_it_reads_labels(tiny_teacher, tmp_path):
    def on_labels(student, teacher, batch):
        return jnp.where(batch.label == 1, 1.0, 0.5) * student.embedding.sum(1)

    with pytest.raises(errors.InputError, match="'near' reads labels, but data.use_labels"):
        rrd_jax.distill(_config(tiny_teacher), tmp_path, objectives={"near": (1.0, on_labels)})
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", list(objectives.RECORDS))
def test_objectives_read_labels_only_if_their_record_needs_labels(name):
    """The other objectives accept batches without labels and networks without logits."""
    record = objectives.RECORDS[name]
    options = {"examples": 64, "batch_size": 16}
    factory_options = {key: v for key, v in options.items() if objectives.takes(name, key)}
    objective = objectives.create(name, **factory_options)
    shape = (16, 16, 3)
    classes = 10 if record.needs_classes or record.needs_labels else 0
    student, teacher = (
        networks.summarize(networks.create(model, classes), shape).outputs
        for model in ("resnet8", "resnet14")
    )
    integers = jax.ShapeDtypeStruct((16,), jnp.int32)
    batch = Batch(jax.ShapeDtypeStruct((16, *shape), jnp.float32), None, integers, integers)
    # ab and fsp do not read labels, but train the student on labels alone after their stage.
    if record.needs_labels and name not in ("ab", "fsp"):
        with pytest.raises(errors.InputError):
            objectives.check(name, objective, student, teacher, batch)
    else:
        objectives.check(name, objective, student, teacher, batch)


def test_a_bank_without_labels_treats_each_image_as_a_separate_class():
    rows = jnp.eye(4)
    start = banks.init(jax.random.key(0), 4, 4)
    batch = Batch(None, None, jnp.asarray([2, 0, 3, 1], jnp.int32))
    options = {"temperature": 1.0, "count": 3, "momentum": 0.5}
    *_, moved = banks.step(start, jax.random.key(1), rows, rows, batch, **options)
    np.testing.assert_array_equal(moved.met.labels, np.arange(4))
    drawn = negatives.draw(jax.random.key(2), moved.met, batch.index, 3)
    for index, others in zip(batch.index.tolist(), drawn.tolist(), strict=True):
        assert sorted([index, *others]) == [0, 1, 2, 3]


@pytest.fixture
def photographs(tmp_path):
    """A folder of nested images in several formats, and a weights file of a teacher's backbone."""
    root = tmp_path / "my images"
    for i in range(30):
        folders.put(root / f"flat {i}.jpg")
        folders.put(root / "a b" / "deep" / f"{i}.webp", folders.encoded("WEBP"))
    folders.put(root / "a b" / "broken.png", b"\x89PNG")
    network = tiny.NETWORK(num_classes=0)
    variables = networks.init(network, jax.random.key(0), (8, 8, 3))
    entries = to_torch("tiny", jax.device_get(variables))
    file = tmp_path / "teacher.safetensors"
    save_file({name: value for name, value in entries.items() if value.ndim}, file)
    return root, file


def _folder_config(root, file):
    config = launch.get_config("unlabelled", "tiny-tiny")
    config.data.manual_dir, config.teacher.checkpoint = str(root), str(file)
    config.data.dir = str(root.parent / "index")
    config.data.image_size, config.data.resize, config.teacher.image_size = 8, 10, None
    config.train.epochs, config.train.batch_size = 2, 8
    # The hash of the paths may assign too few images to the test split for a batch.
    config.data.test_split = "test+train[:8]"
    config.objectives.rrd.queue_size = 20
    return config


def test_a_folder_of_images_and_a_backbone_are_enough_for_a_student(photographs, tmp_path, capsys):
    root, file = photographs
    *_, result = launch.run(_folder_config(root, file), tmp_path / "run")
    output = capsys.readouterr().out
    assert "broken.png" in output
    assert "held-out loss" in output
    assert np.isfinite(result.loss)
    student = rrd_jax.load(tmp_path / "run")
    assert student.embed(str(root / "flat 0.jpg")).shape == (1, 16)
    folders.put(root / "new.jpg")
    # A run cannot be resumed with other images.
    with pytest.raises(errors.InputError, match="image_folder/"):
        launch.run(_folder_config(root, file), tmp_path / "run")
    assert "1 added, 0 removed" in capsys.readouterr().out


def test_the_short_job_trains_a_teacher_with_labels_for_a_student_without(tmp_path):
    config = launch.get_config("unlabelled", "tiny-tiny,smoke")
    config.data.image_size = 8
    config.data.train_split, config.data.test_split = "train[:60]", "test[:60]"
    config.train.epochs = config.teacher.epochs = 1
    config.train.batch_size = 20
    teacher, student = launch.run(config, tmp_path)
    assert teacher.top1 is not None
    assert student.top1 is None
    assert student.loss is not None
    fields = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert fields["data"]["use_labels"]


@pytest.mark.parametrize("kind", ["pairs", "images", "dicts", "array"])
def test_sources_may_have_no_labels_and_labels_are_not_checked(kind):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    sources = {
        "pairs": [(image, "no number") for image in images],
        "images": list(images),
        "dicts": [{"image": image, "file_name": "x"} for image in images],
        "array": images,
    }
    source = data.Source(image_size=8, use_labels=False)
    dataset = data.from_sources(sources[kind], sources[kind], source)
    assert (dataset.num_classes, dataset.labelled) == (0, False)
    np.testing.assert_array_equal(dataset.train.images, images)
    with pytest.raises(errors.InputError):
        data.from_sources(sources[kind], sources[kind], data.Source(image_size=8))
