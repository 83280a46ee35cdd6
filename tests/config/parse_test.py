"""Parsing of configs into jobs."""

import pytest

from rrd_jax import errors
from rrd_jax.config import parse
from rrd_jax.run_folder import workdir
from tests import launch


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objectives.rrd.preset": "sharp"}, "known: sharp_student, sharp_teacher"),
        ({"teacher.model": ""}, "objective 'kd' needs a teacher; set config.teacher.model"),
        ({"data.augment": "crop"}, "did you mean 'crop_flip'"),
        ({"space_to_depth": True}, "'resnet8' does not start with a 7x7"),
        ({"optimizer.name": "adamq"}, "unknown optimizer.name 'adamq'; did you mean 'adam'"),
        ({"optimizer.name": "adam", "optimizer.momentum": 0.5}, "momentum is 0.5, but only sgd"),
        ({"optimizer.name": "adam", "optimizer.nesterov": True}, "nesterov is True, but only sgd"),
        ({"optimizer.options": {"b1": 0.8}}, "unknown option 'optimizer.options.b1' of optimizer"),
        ({"optimizer.schedule": "cosine_decay"}, "did you mean 'cosine'"),
        # The teacher has one epoch here, the student two.
        ({"optimizer.warmup_epochs": 1.5}, "warmup_epochs is 1.5, but must be at most the 1"),
        ({"optimizer.final_learning_rate": 0.1}, "final_learning_rate is 0.1.*'milestones'"),
        ({"optimizer.schedule_options": {"x": 1}}, "'optimizer.schedule_options.x' of schedule"),
        (
            {"optimizer.layer_decay": 0.7, "student.model": "tests.networks.custom_nets:GroupNorm"},
            "layer_decay is 0.7, but '.*GroupNorm' has no numbered blocks",
        ),
        ({"optimizer.warmup_start": 0.01}, "warmup_start is 0.01, but .*warmup_epochs is 0"),
        (
            {"optimizer.warmup_start": 0.5, "optimizer.warmup_epochs": 0.5},
            "warmup_start is 0.5, but must be at most optimizer.learning_rate, 0.05",
        ),
    ],
)
def test_an_invalid_field_is_refused_in_one_line(fields, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        parse(launch.digits(**fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"ce": 1.0}, r"objectives.ce is 1.0, but must be a dict .* \{'weight': 1.0\}"),
        ({"ce": {"weight": "x"}}, "objectives.ce.weight is 'x'"),
        ({"ce": {"weight": 0.0}, "kd": {"weight": 0.0}}, "all weights in .* 0 \\(ce, kd\\)"),
        ({"kd": {"temperature": "x"}}, "objectives.kd.temperature is 'x', but must be a number"),
        ({"mine": {"factory": 3}}, "objectives.mine.factory is 3, but must be text"),
        (
            {"ce": {"weight": 1.0}, "ab": {"weight": 1.0}, "fsp": {"weight": 1.0}},
            "ab and fsp each train the student before",
        ),
        ({"simkd": {"weight": 1.0}}, "train.ema is .* must be 0 with 'simkd'"),
    ],
)
def test_invalid_objectives_of_a_launch_file_are_refused(terms, message):
    with pytest.raises(errors.InputError, match=message):
        parse(launch.digits(objectives=terms, **{"train.ema": 0.9}))


def test_teachers_with_different_cache_settings_are_refused():
    config = launch.get_config("digits", "smoke,resnet8+resnet8-resnet8,kd")
    config.teacher[1].cache = "off"
    with pytest.raises(errors.InputError, match="teachers' cache is auto and off; set one"):
        parse(config)


def test_a_teacher_has_a_separate_training_split_epochs_and_loss():
    job = parse(launch.get_config("digits"))
    (teacher,) = job.teachers
    assert job.student.source.train_split == "train[:200]"
    assert teacher.part.source.train_split == "train"
    assert teacher.part.training.network.model == "resnet8x4"
    assert teacher.part.training.epochs == 15
    assert [choice.name for choice in teacher.part.training.objectives] == ["ce"]
    assert teacher.part.fields["teacher"]["model"] == ""


def test_fields_determine_the_optimizer_and_its_schedule():
    config = launch.digits()
    config.optimizer.options.b1 = 0.8
    config.optimizer.schedule_options.decay_epochs = 1
    config.optimizer.update(name="adamw", schedule="wsd", warmup_epochs=0.5, layer_decay=0.9)
    training = parse(config).student.training
    optimizer = training.optimizer
    assert (optimizer.name, optimizer.options) == ("adamw", {"b1": 0.8})
    assert (optimizer.schedule_name, optimizer.layer_decay) == ("wsd", 0.9)
    schedule = optimizer.schedule(training.epochs, steps_per_epoch=4)
    assert [float(schedule(step) / 0.05) for step in (0, 1, 2, 4)] == [0, 0.5, 1, 1]
    assert float(schedule(6)) < 0.05


def test_label_smoothing_applies_to_the_student_and_its_baseline_but_not_to_the_teacher():
    job = parse(launch.digits(**{"baseline": True, "objectives.ce.label_smoothing": 0.1}))
    parts = (job.student, job.comparisons["alone"], job.teachers[0].part)
    student, alone, teacher = (part.training.objectives[0] for part in parts)
    assert student.options["label_smoothing"] == alone.options["label_smoothing"] == 0.1
    assert not teacher.options.get("label_smoothing")


def test_parsing_does_not_change_the_config():
    config = launch.digits()
    before = config.to_json_best_effort()
    parse(config)
    assert config.to_json_best_effort() == before


def test_network_names_of_other_libraries_are_translated():
    config = launch.get_config("imagenet_r34_r18", "vit_b_32-regnet_y_400mf,kd")
    plan = parse(config, platform="cpu")
    assert config.student.model == "regnet_y_400mf"
    assert plan.student.training.network.model == "regnety_004"
    assert plan.student.fields["student"]["model"] == "regnety_004"
    assert plan.teachers[0].network.model == "vit_base_patch32_224"


def test_drop_path_applies_only_to_networks_that_are_trained():
    config = launch.get_config("cifar100", "vit_nano_32-vit_nano_32,kd")
    config.student.drop_path, config.teacher.drop_path = 0.1, 0.2
    plan = parse(config)
    assert plan.student.training.network.create(10).drop_path == 0.1
    (teacher,) = plan.teachers
    assert teacher.part.training.network.create(10).drop_path == 0.2
    assert teacher.network.create(10).drop_path == 0
    config.teacher.checkpoint = "somewhere"
    (teacher,) = parse(config).teachers
    assert teacher.part.training.network.create(10).drop_path == 0
    config.teacher.checkpoint, config.teacher.model = "", "resnet8"
    with pytest.raises(errors.InputError, match=r"^teacher.drop_path is 0.2, but 'resnet8' does"):
        parse(config)


@pytest.mark.parametrize(
    ("name", "fields", "images", "rows"),
    [
        ("rrd", {}, 1_000_000, 16_384),
        ("rrd", {"preset": "seed"}, 1_000_000, 65_536),
        ("rrd", {"preset": "compress"}, 1_000_000, 128_000),
        ("seed", {}, 1_000_000, 65_536),
        ("compress", {}, 1_000_000, 128_000),
        # An epoch pushes 7 batches of 64 images.
        ("rrd", {}, 500, 448),
        ("compress", {}, 500, 448),
        # A bank has a row for each image.
        ("rrd", {"memory": "momentum"}, 500, 16_384),
        ("rrd", {"queue_size": 512}, 200, 512),
    ],
)
def test_a_memory_of_automatic_size_holds_at_most_an_epoch(name, fields, images, rows):
    config = launch.get_config("cifar100", f"resnet8x4-resnet8,{name}")
    config.objectives[name].update(fields)
    part = parse(config).student.with_rows(images)
    (choice,) = [c for c in part.training.objectives if c.name == name]
    assert choice.options["queue_size"] == rows
    assert part.fields["objectives"][name]["queue_size"] == rows
    path = f"objectives.{name}.queue_size"
    resumed = parse(config, recorded={"objectives": {name: {"queue_size": 99}}}).student
    assert workdir.flatten(resumed.fields)[path] == fields.get("queue_size", 99)


def test_rematerialization_accepts_a_custom_teacher_unless_it_is_trained():
    config = launch.get_config("digits", "smoke,resnet8-resnet8,kd")
    config.teacher.model = "tests.networks.custom_nets:GroupNorm"
    config.train.remat = "convolutions"
    with pytest.raises(errors.InputError, match=r"train\.remat .* custom network"):
        parse(config)
    config.teacher.checkpoint = "weights.pth"
    assert parse(config).student.training.remat == "convolutions"
