import pytest

from rrd_jax import errors
from rrd_jax.config import parse
from tests import launch


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.batch_size": 0}, "train.batch_size is 0"),
        ({"train.epochs": 0}, "train.epochs is 0"),
        ({"train.accumulate": 0}, "train.accumulate is 0"),
        ({"train.ema": 1.0}, "train.ema is 1.0"),
        ({"train.remat": "some"}, "unknown train.remat 'some'"),
        ({"optimizer.clip_norm": -1.0}, "optimizer.clip_norm is -1.0"),
        ({"objectives.rrd.chunk": -1}, "chunk is -1"),
        ({"objectives.rrd.queue_size": 0}, "queue_size is 0"),
        ({"objectives.rrd.preset": "sharp"}, "known: sharp_student, sharp_teacher"),
        ({"teacher.model": ""}, "objective 'kd' compares with a teacher"),
        ({"teacher.cache": "yes"}, "unknown teacher.cache 'yes'; known: auto, on, off"),
        ({"data.augment": "crop"}, "did you mean 'crop_flip'"),
        ({"dtype": "float16"}, "known: auto, float32, bfloat16"),
        ({"teacher.dtype": "half"}, "unknown dtype 'half'; known: auto, float32, bfloat16"),
        ({"space_to_depth": True}, "start with a 7x7 convolution, not for 'resnet8'"),
        ({"seed": -1}, "seed is -1"),
        ({"data.pad": -1}, "data.pad is -1"),
        ({"data.std": (0.0,)}, r"data.std\[0\] is 0"),
        ({"data.image_size": 0}, "data.image_size is 0"),
        ({"optimizer.milestones": (150.0,)}, "fractions of the run"),
    ],
)
def test_a_bad_field_is_one_line(fields, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        parse(launch.digits(**fields))
    assert "\n" not in str(caught.value)


def test_teachers_with_caches_of_their_own_are_refused():
    config = launch.get_config("digits", "smoke,resnet8+resnet8-resnet8,kd")
    config.teacher[1].cache = "off"
    with pytest.raises(errors.InputError, match="caches are auto and off; they must be the same"):
        parse(config)


def test_two_objectives_that_train_the_student_first_are_refused():
    weights = {"ce": {"weight": 1.0}, "ab": {"weight": 1.0}, "fsp": {"weight": 1.0}}
    with pytest.raises(errors.InputError, match="ab and fsp each train the student before"):
        parse(launch.digits(objectives=weights))


def test_an_average_of_a_student_that_another_classifies_for_is_refused():
    terms = {"ce": {"weight": 0.0}, "simkd": {"weight": 1.0}}
    with pytest.raises(errors.InputError, match="the average would leave out what 'simkd'"):
        parse(launch.digits(objectives=terms, **{"train.ema": 0.9}))


def test_a_teacher_has_a_training_split_epochs_and_a_loss_of_its_own():
    config = launch.get_config("digits")
    job = parse(config)
    (teacher,) = job.teachers
    assert job.student.source.train_split == "train[:200]"
    assert teacher.part.source.train_split == "train"
    assert teacher.part.training.network.model == "resnet8x4"
    assert teacher.part.training.epochs == 15
    assert [choice.name for choice in teacher.part.training.objectives] == ["ce"]
    assert teacher.part.fields["teacher"]["model"] == ""


def test_parsing_changes_no_config():
    config = launch.digits()
    before = config.to_json_best_effort()
    parse(config)
    assert config.to_json_best_effort() == before
