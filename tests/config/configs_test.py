"""Config files: complete smoke jobs, published recipes, pairs and methods."""

import runpy

import cv2
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.config import parse
from rrd_jax.training import recipe
from tests import launch

# Teacher and student of each config file.
_CONFIGS = {
    "digits": "resnet8x4-resnet8",
    "fashion_mnist": "resnet32x4-resnet8",
    "cifar10": "resnet32x4-resnet8x4",
    "cifar100": "resnet32x4-resnet8x4",
    "stl10": "resnet32x4-resnet8x4",
    "tiny_imagenet": "vgg13-vgg8",
    "imagenet_r34_r18": "resnet34-resnet18",
    "imagenet_r50_mobilenetv1": "resnet50-mobilenetv1",
    "image_folder": "resnet34-resnet18",
    "vit_to_resnet": "vit_base_patch16_224-resnet50",
    "dinov2_to_mobilenetv4": "vit_base_patch14_reg4_dinov2-mobilenetv4_conv_medium",
    "convnext_to_efficientnet": "convnext_base-efficientnet_b0",
}
# Small pairs for complete jobs, whose programs compile fast. Configs of other families than ResNets
# keep a network of their family.
_SMALL = dict.fromkeys(("fashion_mnist", "cifar10", "cifar100", "stl10"), "resnet8-resnet8") | {
    "imagenet_r34_r18": "resnet18-resnet8",
    "imagenet_r50_mobilenetv1": "resnet8-mobilenetv1",
    "image_folder": "resnet8-resnet8",
    "vit_to_resnet": "vit_tiny_patch16_224-resnet8",
    "dinov2_to_mobilenetv4": "vit_small_patch14_dinov2-resnet8",
    "convnext_to_efficientnet": "convnext_atto-resnet8",
}
# Of configs that differ in the data set or in the networks only, one suffices.
_KINDS = [
    name
    for name in _CONFIGS
    if name
    not in (
        *("fashion_mnist", "cifar10", "stl10", "tiny_imagenet"),
        *("imagenet_r50_mobilenetv1", "vit_to_resnet"),
    )
]


def _config(name, argument=""):
    config = launch.get_config(name, argument)
    config.lock()
    return config


def _make_smoke_config(name, folder):
    """Returns the config of a short job; writes images for `image_folder`."""
    config = _config(name, ",".join(filter(None, ("smoke", _SMALL.get(name)))))
    if name == "image_folder":
        for label in ("train/cat", "train/dog", "test/cat"):
            path = folder / "images" / label / "image.png"
            path.parent.mkdir(parents=True)
            cv2.imwrite(str(path), np.zeros((9, 7, 3), np.uint8))
        config.data.manual_dir = str(folder / "images")
        config.data.dir = str(folder / "data")
    return config


@pytest.mark.long
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", _KINDS)
def test_the_complete_smoke_job_of_each_kind_of_config_runs(name, tmp_path):
    config = _make_smoke_config(name, tmp_path)
    # One job with a baseline suffices.
    config.baseline = name == "digits"
    results = launch.run(config, tmp_path / "run")
    labels = ["teacher", "student alone", f"distilled, {config.method}"]
    assert [r.label for r in results] == [x for x in labels if config.baseline or "alone" not in x]
    assert results[0].model == config.teacher.model
    assert results[-1].model == config.student.model


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", _CONFIGS)
def test_every_config_builds_its_networks_and_objectives(name):
    plan = parse(_config(name))
    models = [teacher.network.model for teacher in plan.teachers]
    assert "-".join([*models, plan.student.training.network.model]) == _CONFIGS[name]
    parts = [plan.student, *(teacher.part for teacher in plan.teachers)]
    for part in [*parts, *plan.comparisons.values()]:
        objects = recipe.create(part.training, num_classes=10, examples=1000)
        assert objects.student.num_classes == 10
        method = plan.student.training.label.removeprefix("distilled, ").split("+")
        assert set(objects.objectives) == ({"ce", *method} if part is plan.student else {"ce"})


def test_the_config_without_labels_trains_any_pair_without_labels():
    config = _config("unlabelled")
    with pytest.raises(errors.InputError, match=r"set teacher\.checkpoint to trained"):
        parse(config)
    config.teacher.checkpoint = "dinov2_vits14_pretrain.pth"
    plan = parse(config)
    assert [choice.name for choice in plan.student.training.objectives] == ["rrd"]
    assert plan.student.source.kind == "folder"
    assert not plan.student.source.use_labels
    models = "vit_small_patch14_dinov2", "mobilenetv4_conv_small"
    assert (plan.teachers[0].network.model, plan.student.training.network.model) == models
    plan = parse(_config("unlabelled", "resnet8x4-resnet8,smoke,crd"))
    assert [choice.name for choice in plan.student.training.objectives] == ["crd"]
    assert plan.teachers[0].part.source.use_labels
    assert not plan.student.source.use_labels
    # The image size of a smoke job is a multiple of the transformer's patch size.
    assert _config("unlabelled", "smoke,vit_small_patch14_dinov2-resnet18").data.image_size == 28


def test_the_dense_config_evaluates_patches_without_labels():
    config = _config("dense")
    config.teacher.checkpoint = "dinov2_vits14_pretrain.pth"
    plan = parse(config)
    assert plan.student.training.alignment.compares_patches
    assert not plan.student.source.use_labels
    (choice,) = plan.student.training.objectives
    assert choice.options["over"] == "both"
    plan = parse(_config("dense", "drawings,embed"))
    assert plan.student.training.alignment.dense == plan.student.source.name == "drawings"
    assert plan.teachers[0].part.source.use_labels
    # The image size of a smoke job is a multiple of the transformer's patch size.
    assert _config("dense", "smoke,vit_small_patch14_dinov2-resnet18").data.image_size % 14 == 0


def test_the_recipes_of_foundation_models_parse():
    config = _config("dinov3_to_convnext")
    config.teacher.checkpoint = "dinov3.safetensors"
    plan = parse(config)
    assert plan.student.training.objectives[0].options["preset"] == "lightly"
    assert plan.student.training.optimizer.learning_rate == pytest.approx(1.443e-4, rel=1e-3)
    config = _config("agglomerate")
    for teacher in config.teacher:
        teacher.checkpoint = "teacher.safetensors"
    training = parse(config).student.training
    assert training.teacher_weights == (0.5, 0.5)
    assert training.drop_teachers == 0.5
    assert training.objectives[0].options["standardize"] == "running"
    student = _config("agglomerate", "vit_small_patch14_dinov2+resnet50-repvit_m1_1").student
    assert student.model == "repvit_m1_1"


def test_a_config_string_selects_pair_and_method():
    config = _config("cifar100", "resnet56-resnet20,kd")
    assert (config.teacher.model, config.student.model) == ("resnet56", "resnet20")
    weights = {name: options.weight for name, options in config.objectives.items()}
    assert weights == {"ce": 0.1, "kd": 0.9}
    assert config.name == "cifar100-resnet56-resnet20-kd"


def _benchmark_pairs():
    """Returns the teacher and student of each row of the table in the config file's docstring."""
    text = runpy.run_path(str(launch.CONFIGS / "cifar100.py"))["__doc__"]
    rows = [line.split()[:2] for line in text.split("\n") if len(line.split()) > 2]
    return [row for row in rows if {*row} <= {*networks.MODELS}]


@pytest.mark.parametrize(("teacher", "student"), _benchmark_pairs())
def test_benchmark_pairs_have_the_published_learning_rates(teacher, student):
    config = _config("cifar100", f"{teacher}-{student},rrd")
    assert (config.teacher.model, config.student.model) == (teacher, student)
    small = "mobilenet" in student or "shufflenet" in student
    assert config.optimizer.learning_rate == (0.01 if small else 0.05)
    assert parse(config).teachers[0].part.training.optimizer.learning_rate == 0.05


def test_recipes_equal_the_published_recipes():
    cifar, imagenet = _config("cifar100"), _config("imagenet_r34_r18")
    for config, epochs, batch, rate, decay, milestones in (
        (cifar, 240, 64, 0.05, 5e-4, [150, 180, 210]),
        (imagenet, 100, 256, 0.1, 1e-4, [30, 60, 90]),
    ):
        assert (config.train.epochs, config.train.batch_size) == (epochs, batch)
        optimizer = config.optimizer
        assert (optimizer.learning_rate, optimizer.weight_decay) == (rate, decay)
        assert [round(m * epochs) for m in optimizer.milestones] == milestones
    rows = [
        parse(config).student.with_rows(images).fields["objectives"]["rrd"]["queue_size"]
        for config, images in ((cifar, 50_000), (imagenet, 1_281_167))
    ]
    assert rows == [16384, 16384]


def test_one_network_trains_alone_and_several_teachers_form_a_list():
    for argument in ("resnet32x4", "ce,resnet32x4"):
        config = _config("cifar100", argument)
        assert (config.teacher.model, config.student.model) == ("", "resnet32x4")
        assert list(config.objectives) == ["ce"]
    config = launch.get_config("cifar100", "wrn_40_2+resnet56-shufflenetv1_cifar,kd")
    assert [teacher.model for teacher in config.teacher] == ["wrn_40_2", "resnet56"]
    assert [teacher.learning_rate for teacher in config.teacher] == [0.05, 0.05]
    config.teacher[0].checkpoint = "elsewhere"
    assert not config.teacher[1].checkpoint
    parse(config)


def test_small_data_sets_and_smoke_reduce_the_memory_of_any_method():
    assert _config("digits", "crd+rrd+kd").objectives.crd.negatives == 1024
    chosen = _config("fashion_mnist", "crd+rrd+kd").objectives
    assert chosen.crd.negatives == chosen.rrd.queue_size == 4096
    chosen = _config("cifar100", "smoke,crd+rrd+ft").objectives
    assert (chosen.crd.negatives, chosen.rrd.queue_size, chosen.ft.epochs) == (20, 20, 1)


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("resnet9-resnet8", "resnet"),
        ("rrds", "rrd"),
        ("crd+kdd", "kd"),
        ("smok", "smoke"),
        ("resnet8+kd", "resnet8"),
        ("-", ""),
    ],
)
def test_an_unknown_option_is_refused_with_suggestions(option, nearest):
    with pytest.raises(errors.InputError) as caught:
        _config("cifar100", option)
    message = str(caught.value)
    assert f"invalid config option '{option}'" in message
    assert "python -m rrd_jax.networks lists networks" in message
    assert "python -m rrd_jax.objectives" in message
    assert (f"did you mean '{nearest}" in message) == bool(nearest)
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.usefixtures("one_device")
def test_any_config_accepts_an_image_folder():
    config = _config("imagenet_r34_r18", "folder,rrd")
    assert config.name == "imagenet_r34_r18-resnet34-resnet18-rrd-folder"
    source = parse(config).student.source
    assert (source.name, source.test_split) == ("image_folder", "test")
    with pytest.raises(
        errors.InputError, match=r"invalid config option 'foldr'; did you mean 'folder'"
    ):
        _config("imagenet_r34_r18", "foldr")
