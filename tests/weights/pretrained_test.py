"""Runs that start from pretrained weights, and matching of the classes of teachers."""

import dataclasses
import functools
import json
import shutil
import types

import jax
import numpy as np
import pytest

import rrd_jax
from rrd_jax import checkpoints, data, errors, networks
from rrd_jax.config import parse
from rrd_jax.data import model_info
from rrd_jax.jobs import evaluate, job
from rrd_jax.networks.resnet import ResNet
from rrd_jax.networks.vit import VisionTransformer
from rrd_jax.teacher import class_matching
from rrd_jax.training import recipe
from rrd_jax.weights import pretrained
from tests import launch

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_device", "tiny_network")]
_CE = {"ce": {"weight": 1.0}}
_NAMES = [f"class {i}" for i in range(10)]


def _write(folder, *, count=10, channels=1, size=8, names=(), model="tiny", seed=1, **meta):
    """Writes a converted network with random weights; returns its variables."""
    network, shape = networks.create(model, count), (size, size, channels)
    variables = jax.device_get(networks.init(network, jax.random.key(seed), shape))
    variables["batch_stats"] = jax.tree.map(lambda leaf: leaf + 0.1, variables["batch_stats"])
    about = {"model": model, "num_classes": count, "class_names": list(names)}
    meta = {"model": model, "num_classes": count, "image_shape": shape, "about": about, **meta}
    checkpoints.save_network(folder, variables, meta)
    return variables


def _write_names(path, names):
    path.write_text("\n".join(names))
    return str(path)


def _fields(folder, **fields):
    return {"student.checkpoint": str(folder), "train.epochs": 1, **fields}


def _start(config, dataset=None):
    return pretrained.read(*_recipe(config, dataset))


def _recipe(config, dataset=None):
    part = parse(config).student
    dataset = dataset or data.load(part.source)
    return recipe.create(part.training, dataset.num_classes, len(dataset.train)), dataset


def _weights(variables):
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def test_a_run_starts_from_weights_and_resumes_without_them(tmp_path, capsys):
    variables = _write(tmp_path / "weights")
    config = launch.digits("smoke,tiny", _CE, **_fields(tmp_path / "weights"))
    config.optimizer.learning_rate = 1e-12
    launch.run(config, tmp_path / "uninterrupted")
    assert f"[teacher] starts from {tmp_path / 'weights'}\n" in capsys.readouterr().out
    trained, meta = checkpoints.load_student(tmp_path / "uninterrupted")
    for name, leaf in _weights(variables["params"]).items():
        np.testing.assert_allclose(_weights(trained["params"])[name], leaf, atol=1e-9, rtol=0)
    origin = meta["about"]["training"]["start_from"]
    assert origin["checkpoint"] == "weights"
    assert origin["digest"] == checkpoints.digest(variables)
    assert origin["head"] == "kept"
    launch.preempt(config, tmp_path / "run", 1)
    shutil.rmtree(tmp_path / "weights")
    launch.run(config, tmp_path / "run")
    assert launch.digests(tmp_path / "run", 3) == launch.digests(tmp_path / "uninterrupted", 3)
    about = json.loads((tmp_path / "run" / "model.json").read_text())
    assert about["training"]["start_from"] == origin
    with pytest.raises(errors.InputError, match="no intact checkpoint in .*weights"):
        launch.run(config, tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_the_classifier_is_new_for_another_number_of_classes(tmp_path, capsys):
    _write(tmp_path / "weights", count=7)
    start = _start(launch.digits("smoke,tiny", _CE, **_fields(tmp_path / "weights")))
    output = capsys.readouterr().out
    assert "new classifier for 10 classes (the number of classes of the weights is 7)" in output
    assert not [name for name in start.weights if name.startswith("params/fc")]
    assert start.origin["head"] == "new"
    keep = _fields(tmp_path / "weights", **{"student.head": "keep"})
    with pytest.raises(
        errors.InputError, match="student.head is keep, but .* 10 classes: the numb"
    ):
        _start(launch.digits("smoke,tiny", _CE, **keep))


@pytest.mark.parametrize(
    ("head", "names", "is_kept"),
    [
        ("auto", _NAMES, True),
        ("auto", (), True),
        ("auto", _NAMES[::-1], False),
        ("keep", _NAMES[::-1], True),
        ("new", _NAMES, False),
    ],
)
def test_the_classifier_is_kept_for_the_same_classes(tmp_path, head, names, is_kept):
    _write(tmp_path / "weights", names=names)
    fields = {"student.head": head, "data.class_names": _write_names(tmp_path / "names", _NAMES)}
    start = _start(launch.digits("smoke,tiny", _CE, **_fields(tmp_path / "weights", **fields)))
    assert ("params/fc/kernel" in start.weights) == is_kept


def test_the_classifier_is_new_if_an_objective_replaced_it(tmp_path):
    variables = _write(tmp_path / "weights")
    start = pretrained.adapt(
        "x", variables, {"classifier": "simkd"}, *_recipe(launch.digits("smoke,tiny", _CE))
    )
    assert start.origin["head"] == "new"
    assert "simkd" in start.lines[0]


def test_both_classifiers_of_a_distilled_transformer_are_new_for_other_classes(
    tmp_path, monkeypatch
):
    small = functools.partial(VisionTransformer, patch=4, width=8, depth=1, heads=2, distilled=True)
    monkeypatch.setitem(networks.MODELS, "small", small)
    _write(tmp_path / "weights", count=7, model="small")
    config = launch.digits("smoke,small", _CE, **_fields(tmp_path / "weights"))
    config.student.backbone_rate = 0.5
    start = _start(config)
    assert not any("head" in name for name in start.weights)
    assert "params/dist_token" in start.weights
    training = parse(config).student.training
    rates = training.rates(training.network.create(10), (8, 8, 1))
    assert rates["head_dist"] == rates["head"] == {"kernel": 1.0, "bias": 1.0}
    assert rates["dist_token"] == 0.5


def test_the_backbone_has_a_separate_rate_and_frozen_parts_have_rate_zero():
    fields = {"student.freeze": "stem", "student.backbone_rate": 0.25}
    training = parse(launch.digits("smoke,tiny", _CE, **fields)).student.training
    rates = training.rates(networks.create("tiny", 10), (8, 8, 1))
    modules = {module: set(jax.tree.leaves(tree)) for module, tree in rates.items()}
    assert modules == {"conv1": {0}, "bn1": {0}, "layer1_0": {0.25}, "fc": {1}}
    assert parse(launch.digits("smoke,tiny", _CE)).student.training.rates(None, None) is None


def test_train_teacher_starts_from_the_weights_of_a_network(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)
    network = networks.create("tiny", 4)
    variables = networks.init(network, jax.random.key(3), (8, 8, 1))
    options = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-12}
    split = (images, np.arange(16) % 4)
    trained = rrd_jax.train_teacher((network, variables), split, split, num_classes=4, **options)
    for name, leaf in _weights(variables["params"]).items():
        after = _weights(trained.network.variables["params"])[name]
        np.testing.assert_allclose(after, leaf, atol=1e-6)
    split, path = (images, np.arange(16) % 3), tmp_path / "run"
    launch.run(launch.digits("smoke,tiny", _CE, **{"train.epochs": 1}), path)
    for source in (path, rrd_jax.load(path)):
        fine_tuned = rrd_jax.train_teacher(source, split, split, num_classes=3, **options)
        assert fine_tuned.network.num_classes == 3
    assert capsys.readouterr().out.count("new classifier for 3 classes") == 2


@pytest.mark.parametrize(("source_channels", "data_channels"), [(3, 1), (1, 3)])
def test_gray_images_and_three_equal_channels_give_equal_logits(
    tmp_path, source_channels, data_channels, capsys
):
    variables = _write(tmp_path / "weights", channels=source_channels)
    moments = {"data.mean": (0.5,) * data_channels, "data.std": (0.5,) * data_channels}
    config = launch.digits("smoke,tiny", _CE, **_fields(tmp_path / "weights"), **moments)
    dataset = dataclasses.replace(
        data.load(parse(config).student.source), image_shape=(8, 8, data_channels)
    )
    start = _start(config, dataset)
    assert "conv1 converted from" in capsys.readouterr().out
    fitted = jax.tree_util.tree_map_with_path(
        lambda path, leaf: start.weights[jax.tree_util.keystr(path, simple=True, separator="/")],
        variables,
    )
    grey = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
    images = {channels: np.repeat(grey, channels, -1) for channels in (1, 3)}
    apply = networks.create("tiny", 10).apply
    np.testing.assert_allclose(
        apply(fitted, images[data_channels]).logits,
        apply(variables, images[source_channels]).logits,
        atol=1e-4,
    )


def test_other_image_sizes_are_logged_and_other_networks_refused(tmp_path, monkeypatch):
    _write(tmp_path / "weights", size=12)
    start = _start(launch.digits("smoke,tiny", _CE, **_fields(tmp_path / "weights")))
    assert "image size changed from 12x12 to 8x8 pixels" in start.lines[0]
    monkeypatch.setitem(
        networks.MODELS, "wide", functools.partial(ResNet, blocks=(1,), widths=(8, 24))
    )
    with pytest.raises(errors.InputError, match="are of tiny, but config needs wide"):
        _start(launch.digits("smoke,wide", _CE, **_fields(tmp_path / "weights")))


def test_errors_for_size_dependent_parameters_name_them(tmp_path):
    model = "tests.networks.custom_nets:Positions"
    _write(tmp_path / "weights", size=12, model=model)
    config = launch.digits("smoke,tiny", _CE, **_fields(tmp_path / "weights"))
    config.student.model = model
    with pytest.raises(
        errors.InputError, match="params/positions has .* depends .*; set data.image"
    ):
        _start(config)


def test_frozen_parts_stay_bit_identical(tmp_path, capsys):
    variables = _write(tmp_path / "weights")
    freeze = {"student.freeze": "stem", "student.backbone_rate": 0.5, "optimizer.clip_norm": 1.0}
    config = launch.digits("smoke,tiny", _CE, **_fields(tmp_path / "weights", **freeze))
    launch.run(config, tmp_path / "run")
    assert (
        "parameters and their running statistics are frozen: bn1, conv1" in capsys.readouterr().out
    )
    trained, _ = checkpoints.load_student(tmp_path / "run")
    before, after = _weights(variables), _weights(trained)
    unchanged = {name for name, leaf in before.items() if np.array_equal(leaf, after[name])}
    stem = {f"params/{name}" for name in ("bn1/bias", "bn1/scale", "conv1/kernel")}
    assert unchanged == stem | {"batch_stats/bn1/mean", "batch_stats/bn1/var"}


def test_a_job_fine_tunes_its_teacher_from_a_checkpoint(tmp_path, capsys):
    _write(tmp_path / "weights", count=7)
    config = launch.digits("smoke,tiny-tiny,kd", **{"train.epochs": 1})
    config.teacher.checkpoint, config.teacher.freeze = str(tmp_path / "weights"), "stem"
    explicit = ("teacher.checkpoint", "teacher.epochs")
    results = job.run(parse(config, explicit=explicit), tmp_path / "run")
    assert [result.label for result in results] == ["teacher", "distilled, kd"]
    assert "[teacher] starts from" in capsys.readouterr().out
    about = json.loads((tmp_path / "run" / "teacher" / "model.json").read_text())
    assert about["training"]["start_from"]["head"] == "new"
    rows = evaluate.run(parse(config, explicit=explicit), tmp_path / "run")
    assert [row["run"] for row in rows] == ["teacher", "student"]
    shutil.rmtree(tmp_path / "weights")
    assert job.run(parse(config, explicit=explicit), tmp_path / "run") == results


def test_the_student_alone_starts_from_the_same_weights_unless_from_scratch():
    fields = {"baseline": True, "from_scratch": True, "student.checkpoint": "x"}
    fields |= {"student.freeze": "stem", "student.head": "new", "student.backbone_rate": 0.5}
    plan = parse(launch.digits("smoke,tiny-tiny,kd", **fields))
    alone, scratch = (plan.comparisons[name].training for name in ("alone", "scratch"))
    student = plan.student.training
    assert alone.start.checkpoint == student.start.checkpoint == "x"
    assert (student.freeze, student.backbone_rate) == ("stem", 0.5)
    assert not scratch.start
    assert (scratch.freeze, scratch.backbone_rate, scratch.start.head) == ("", 1.0, "auto")
    assert scratch.objectives == student.objectives
    assert not plan.teachers[0].part.training.start


def test_the_classes_of_a_teacher_are_matched_by_name(tmp_path, capsys):
    names = [*_NAMES[::-1], "other 0", "other 1"]
    variables = _write(tmp_path / "teacher", count=12, names=names)
    fields = {"teacher.checkpoint": str(tmp_path / "teacher"), "train.epochs": 1}
    fields["data.class_names"] = _write_names(tmp_path / "names", _NAMES)
    plan = parse(launch.digits("smoke,tiny-tiny,kd", **fields))
    setting = job.prepare(plan.student)
    _, teacher = job.load_teacher(plan, tmp_path / "run", setting)
    assert "classes matched by name" in capsys.readouterr().out
    head = variables["params"]["fc"]
    for name, leaf in teacher.variables["params"]["fc"].items():
        np.testing.assert_array_equal(leaf, head[name][..., 9::-1])
    assert teacher.reference is not None


def test_relations_do_not_need_common_classes(tmp_path, capsys):
    _write(tmp_path / "teacher", count=7)
    fields = {"teacher.checkpoint": str(tmp_path / "teacher"), "train.epochs": 1}
    for cache in ("off", "on"):
        config = launch.digits("smoke,tiny-tiny,rrd", **fields, **{"teacher.cache": cache})
        *_, result = launch.run(config, tmp_path / cache)
        assert result.agreement is None
    assert "agreement is not measured" in capsys.readouterr().out
    losses = [launch.rows(tmp_path / cache)[-1]["train/loss/rrd"] for cache in ("off", "on")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert [row["run"] for row in evaluate.run(parse(config), tmp_path / "on")] == ["student"]
    for method in ("kd", "rrd+kd"):
        config = launch.digits(f"smoke,tiny-tiny,{method}", **fields)
        message = "7 classes, the data 10, and the classes differ.* kd would compare .* method rrd"
        with pytest.raises(errors.InputError, match=message):
            launch.run(config, tmp_path / method)


def test_classes_without_names_are_compared_if_their_number_is_equal(tmp_path):
    match = class_matching.match
    assert match((), 10, _NAMES, 10).compares
    assert not match((), 11, _NAMES, 10).compares
    assert match(_NAMES, 10, _NAMES, 10).is_same
    assert match(("b", "a", "c"), 3, ("a", "b"), 2).order == (1, 0)
    assert "missing 'd'" in match(("a", "b", "c"), 3, ("a", "d"), 2).reason
    numbers = tuple(map(str, range(12)))
    assert not match(numbers, 12, numbers[:10], 10).compares
    assert match(numbers, 12, ("7", "3"), 2).order == (7, 3)
    duplicates = ("crane", "crane", "b")
    assert match(duplicates, 3, duplicates, 3).order is None
    # Numeric names are ignored if the data set has received names since.
    about = model_info.ModelInfo("tiny", 3, class_names=numbers[:3]).to_json()
    meta = {"about": about, "num_classes": 3, "dataset": "mine/1"}
    for version, names in (("mine/1", ()), ("other/1", numbers[:3])):
        named = types.SimpleNamespace(class_names=("cat", "dog", "cow"), version=version)
        assert pretrained.names_to_compare(meta, tmp_path, named) == names
