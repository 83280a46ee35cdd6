"""Jobs whose teacher is a backbone without a classifier."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import rrd_jax
from rrd_jax import errors, networks
from rrd_jax.config import parse
from rrd_jax.jobs import job
from rrd_jax.library import run_teachers
from rrd_jax.teacher import frozen
from rrd_jax.weights import files, to_torch
from tests import launch

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_device", "tiny_network")]


@pytest.fixture(scope="module")
def backbone(tiny_teacher, tmp_path_factory):
    """A file with the weights of a teacher without its classifier."""
    variables, _ = files.load(tiny_teacher, "tiny")
    entries = to_torch("tiny", variables)
    path = tmp_path_factory.mktemp("backbone") / "model.safetensors"
    weights = {n: v for n, v in entries.items() if v.ndim and not n.startswith("fc.")}
    save_file(weights, path)
    return path


def _check_loaded(config, folder):
    """Asserts that the teacher loaded from a run makes the same predictions as in the run."""
    plan = parse(config)
    setting = job.prepare(plan.student)
    _, teacher = job.load_teacher(plan, folder, setting)
    loaded = run_teachers.load_single(folder, run_teachers.teachers_of(folder)[0])
    guesses = np.argmax(loaded(setting.dataset.test.images).logits, axis=1)
    assert (guesses == teacher.predictions["prediction"]).all()


def _load_frozen(config, checkpoint, **options):
    """Returns the teacher of a config, loaded from a file, and its TeachingChoice."""
    plan = parse(config)
    setting = job.prepare(plan.student)
    (choice,), training = plan.teachers, plan.student.training
    teaching = {"teaching": choice.teaching} | options
    return frozen.load(choice.network, checkpoint, *setting, training, **teaching), choice.teaching


def _config(method, backbone, **fields):
    path = {"teacher.checkpoint": str(backbone)}
    return launch.digits(f"smoke,tiny-tiny,{method}", **path, **fields)


@pytest.mark.parametrize(("method", "probe"), [("rrd+rkd", False), ("rrd+kd", True)])
def test_a_cached_teacher_gives_the_metrics_of_a_live_teacher(method, probe, backbone, tmp_path):
    rows = []
    for cache in ("on", "off"):
        config = _config(method, backbone, **{"teacher.cache": cache, "teacher.probe": probe})
        launch.run(config, tmp_path / cache)
        rows.append(launch.rows(tmp_path / cache))
    for on, off in zip(*rows, strict=True):
        assert on.keys() == off.keys()
        assert any("agreement" in name for name in on) == probe
        for name, value in on.items():
            assert value == pytest.approx(off[name], rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("method", ["dkd+rrd", "simkd"])
def test_objectives_on_logits_are_refused_before_training(backbone, tmp_path, method):
    with pytest.raises(errors.InputError, match=r"no classifier, but .*kd would compare.*probe"):
        launch.run(_config(method, backbone), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_custom_objective_is_refused_only_if_it_reads_logits(backbone, tmp_path):
    config = _config("rrd", backbone)

    def on_embeddings(student, teacher, batch):
        return ((student.embedding - teacher.embedding) ** 2).sum(1)

    def on_logits(student, teacher, batch):
        return ((student.logits - teacher.logits) ** 2).sum(1)

    rrd_jax.distill(config, tmp_path / "a", objectives={"near": (1.0, on_embeddings)})
    with pytest.raises(errors.InputError, match=r"'near' reads teacher\.logits"):
        rrd_jax.distill(config, tmp_path / "b", objectives={"near": (1.0, on_logits)})


def test_a_probe_provides_logits_and_is_stored(backbone, tmp_path, capsys, monkeypatch):
    config = _config("kd+rrd", backbone, **{"teacher.probe": True})
    first = launch.run(config, tmp_path)
    assert [result.label for result in first] == ["teacher, linear probe", "distilled, kd+rrd"]
    assert first[-1].agreement is not None
    assert "[teacher] linear probe: " in capsys.readouterr().out
    assert len([path for path in (tmp_path / "teacher.probe").iterdir() if path.is_dir()]) == 1
    assert launch.run(config, tmp_path)[0].top1 == first[0].top1
    assert "linear probe: read from" in capsys.readouterr().out
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["training"]["teachers"][0]["classifier"] == "linear probe"
    _check_loaded(config, tmp_path)


def test_class_vectors_provide_logits_and_the_teacher_has_separate_preprocessing(
    backbone, tmp_path, capsys
):
    vectors = np.random.default_rng(0).normal(size=(10, 16)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    fields = {"class_vectors": str(tmp_path / "v.npy"), "image_size": 12}
    fields |= {"mean": (0.5,), "std": (0.25,)}
    fields = {f"teacher.{name}": value for name, value in fields.items()}
    config = _config("kd", backbone, **fields)
    results = launch.run(config, tmp_path / "run")
    assert [result.label for result in results] == ["teacher, zero-shot", "distilled, kd"]
    output = capsys.readouterr().out
    assert "12x12 pixels, bilinear from 8x8; mean 0.5, std 0.25" in output
    _check_loaded(config, tmp_path / "run")


def test_vectors_of_another_dimension_are_refused(backbone, tmp_path):
    np.save(tmp_path / "v.npy", np.ones((10, 7), np.float32))
    config = _config("kd", backbone, **{"teacher.class_vectors": str(tmp_path / "v.npy")})
    with pytest.raises(errors.InputError, match="have 7 dimensions, but .* has 16, and it has no"):
        launch.run(config, tmp_path / "run")
    both = {"teacher.class_vectors": "v.npy", "teacher.probe": True}
    with pytest.raises(errors.InputError, match="only one can compute"):
        parse(_config("kd", backbone, **both))


def test_vectors_of_the_classifiers_dimension_are_compared_with_its_outputs(tiny_teacher, tmp_path):
    """The projection of CLIP, which timm stores as the classifier, is part of the embedding."""
    np.save(tmp_path / "v.npy", np.eye(10, dtype=np.float32))
    config = _config("kd", tiny_teacher, **{"teacher.class_vectors": str(tmp_path / "v.npy")})
    projected, _ = _load_frozen(config, tiny_teacher)
    plain, _ = _load_frozen(config, tiny_teacher, teaching=None)
    # With unit vectors, the nearest vector belongs to the largest logit.
    assert (projected.predictions["prediction"] == plain.predictions["prediction"]).all()


def test_a_backbone_can_be_loaded_and_fine_tuned(backbone, tmp_path):
    loaded = rrd_jax.load(backbone, network="tiny", mean=(0.3,), std=(0.4,), image_size=8)
    images = np.zeros((3, 8, 8, 1), np.uint8)
    assert loaded.num_classes == 0
    assert loaded(images).logits == ()
    assert loaded.embed(images).shape == (3, 16)
    for call in (loaded.predict, lambda images: rrd_jax.evaluate(loaded, (images, [0, 1, 2]))):
        with pytest.raises(errors.InputError, match="no classifier"):
            call(images)
    config = launch.digits("smoke,tiny", **{"student.checkpoint": str(backbone)})
    launch.run(config, tmp_path / "tuned")
    config.student.head = "keep"
    with pytest.raises(
        errors.InputError, match="cannot be kept for 10 classes: the weights have no"
    ):
        launch.run(config, tmp_path / "kept")
    with pytest.raises(errors.InputError, match="must be a whole number above 0"):
        networks.create("my_nets:Net", 0)


def test_a_probe_replaces_a_classifier_of_other_classes(tiny_teacher, backbone, tmp_path):
    variables, _ = files.load(tiny_teacher, "tiny")
    entries = {n: v for n, v in to_torch("tiny", variables).items() if v.ndim}
    entries |= {name: entries[name][:3] for name in ("fc.weight", "fc.bias")}
    save_file(entries, tmp_path / "three.safetensors")
    predictions = []
    for path in (tmp_path / "three.safetensors", backbone):
        teacher, teaching = _load_frozen(_config("kd", path, **{"teacher.probe": True}), path)
        teacher = frozen.with_probe(teacher, teaching, tmp_path, store=False)
        assert not (tmp_path / "teacher.probe").exists()
        predictions.append(teacher.predictions)
    for name, value in predictions[0].items():
        np.testing.assert_array_equal(value, predictions[1][name])


def test_a_module_that_returns_only_an_embedding_can_be_a_teacher(tmp_path):
    class Embedder(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return {"embedding": nn.Dense(6)(x.reshape(len(x), -1))}

    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
    split = images, np.arange(32) % 4
    module = Embedder()
    teacher = module, module.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    options = {"student": "tiny", "train": split, "test": split, "epochs": 1, "batch_size": 16}
    result = rrd_jax.distill(teacher=teacher, objectives={"rrd": 1.0}, **options)
    assert result.metrics["agreement"] is None
    with pytest.raises(errors.InputError, match=r"kd.*teacher\.logits|no classifier"):
        rrd_jax.distill(teacher=teacher, objectives={"kd": 1.0}, **options)
    with pytest.raises(errors.InputError, match="returns no logits"):
        rrd_jax.train_teacher(module, split, split, epochs=1, batch_size=16)
