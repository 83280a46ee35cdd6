"""Frequent mistakes in configs: each error is one line that names the field and the remedy."""

import re

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from rrd_jax import errors, objectives
from rrd_jax.config import defaults, describe, explain, methods, parse, unused, validation
from rrd_jax.config.describe import objective_entries
from rrd_jax.terminal import cli
from tests import launch

_INF = float("inf")


def _join_words(words: str) -> str:
    """Returns a pattern that matches the words, separated by |, in their order."""
    return ".*".join(map(re.escape, words.split("|")))


def _options(**fields):
    return {f"optimizer.options.{name}": value for name, value in fields.items()}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"teacher.learning_rate": 0.0}, "teacher.learning_rate is 0.0|above 0"),
        ({"teacher.epochs": 0}, "teacher.epochs is 0|whole number from 1"),
        ({"teacher.weight": -1.0}, "teacher.weight is -1.0|above 0"),
        ({"train.save_every": -1}, "train.save_every is -1|from 0"),
        ({"objectives.rrd.weight": _INF}, "objectives.rrd.weight is inf"),
        ({"objectives.rrd.temperature_student": 1e-30}, "temperature_student is 1e-30|from 0.0001"),
        ({"objectives.kd.temperature": 0.0}, "objectives.kd.temperature is 0.0"),
        ({"objectives.kd.warmup": -1}, "objectives.kd.warmup is -1"),
        ({"data.image_size": 1_000_000}, "data.image_size is 1000000|32767"),
        ({"data.pad": 100_000}, "data.pad is 100000"),
        ({"data.resize": -4}, "data.resize is -4"),
        ({"data.jitter": (0.4,)}, "data.jitter is (0.4,)|a tuple of 4 numbers"),
        ({"data.erase": 1.1}, "data.erase is 1.1"),
        ({"data.mock_examples": -5}, "data.mock_examples is -5"),
        ({"data.mean": (123.675,)}, "data.mean[0] is 123.675|from 0 to 1"),
        ({"data.mean": (0.5, 0.5)}, "data.mean is (0.5, 0.5)|1 or 3"),
        ({"data.std": (_INF,)}, "data.std[0] is inf"),
        ({"optimizer.decay": 2.0}, "optimizer.decay is 2.0"),
        ({"teacher.model": "", "teacher.checkpoint": "x"}, "'x', but teacher.model is empty"),
        ({"train.epochs": 2**31}, "train.epochs is 2147483648|to 2147483647"),
        (
            {"train.accumulate": 3},
            "train.batch_size is 8, but must be a multiple of train.accumulate, 3",
        ),
        ({"train.batch_size": 2**31 - 1}, "train.batch_size 2147483647 x data.image|of memory"),
        ({"objectives.rrd.weight": -1.0}, "objectives.rrd.weight is -1.0|from 0"),
        ({"objectives.rrd.initial": "foo"}, "'rrd': unknown initial 'foo'; known: unit, reference"),
        ({"objectives.rrd.queue_size": 10**12}, "objectives.rrd.queue_size is 1000000000000"),
        (
            {"objectives.rrd.queue_size": 2 * 10**9},
            "objectives.rrd.queue_size 2000000000 x dim 128 x|= 2.05 TB, but the run has only|GB",
        ),
        ({"objectives.rrd.momentum": 1.0}, "objectives.rrd.momentum is 1.0|[0, 1)"),
        ({"data.image_size": 32767}, "data.image_size 32767 x width 32767 x channels 1 x 4"),
        ({"data.pad": 9}, "data.pad is 9, but must be at most data.image_size, 8"),
        (
            {"data.augment": "random_resized", "data.image_size": 320, "data.resize": 256},
            "data.resize is 256, less than data.image_size 320",
        ),
        ({"data.augment": "random_resized", "teacher.cache": "on"}, "teacher.cache is on, but"),
        ({"teacher.cache_place": "host"}, "cache_place is host, but train steps draw the views"),
        ({"data.policy": "rand", "teacher.cache": "on"}, "views do not repeat"),
        (
            {"data.policy": "rand_increasing", "data.policy_magnitude": 12.0},
            "data.policy_magnitude is 12, but must be from 0 to 10",
        ),
        ({"data.policy": "randaugment"}, "unknown data.policy 'randaugment'|trivial"),
        ({"data.jitter": (0.4, 0.4, 0.4, 0.6)}, "data.jitter is (0.4|the last at most 0.5"),
        ({"data.mean": ("abc",)}, "data.mean[0] is 'abc'|a tuple of 1 or 3 numbers"),
        ({"data.mean": (0.5, 0.5, 0.5)}, "with 3 channels|with 1; set"),
        ({"data.train_split": "train[5:2]"}, "data.train_split is 'train[5:2]'|has no images"),
        ({"data.test_split": "test[:0%]"}, "data.test_split is 'test[:0%]'|has no images"),
        ({"data.train_split": "train["}, "data.train_split is 'train['|name a split"),
        ({"data.train_split": "train[:150%]"}, "exceeds 100%"),
        ({"teacher.train_split": "train[9:1]"}, "teacher.train_split is 'train[9:1]'"),
        ({"data.name": "a\nb"}, "data.name is 'a\\nb'|on one line"),
        ({"optimizer.milestones": ("abc",)}, "milestones[0] is 'abc'|fractions of the run"),
        ({"optimizer.milestones": (0.5, 0.2)}, "optimizer.milestones is (0.5, 0.2)|ascending"),
        ({"optimizer.milestones": (0.5, 1.0)}, "optimizer.milestones[1] is 1.0|below 1"),
        ({"optimizer.name": "set_to_zero"}, "unknown optimizer.name 'set_to_zero'"),
        ({"optimizer.name": "adamw", **_options(eps=_INF)}, "options.eps is inf, |at least 0"),
        ({"optimizer.name": "noisy_sgd", **_options(eta=-1.0)}, "optimizer.options.eta is -1.0"),
        ({"optimizer.name": "scale", **_options(step_size=0)}, "step_size is 0|above 0"),
    ],
)
def test_an_invalid_value_is_refused_before_data_are_read(fields, words):
    with pytest.raises(errors.InputError, match=_join_words(words)) as caught:
        parse(launch.digits(**fields))
    assert "\n" not in str(caught.value)


def _misspell(config):
    config.train.epoch = 3


def _add(config):
    config.learning_rate = 0.1


def _replace(config):
    config.train = ConfigDict({"epochs": 3})


def _remove(config):
    del config.data


def _set_number(config):
    config.optimizer = 3


def _use_number_as_name(config):
    config.student.options = ConfigDict({1: 2, "a": 3})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _misspell,
            "unknown field 'train.epoch'; did you mean 'train.epochs'|--print_config lists",
        ),
        (_add, "unknown field 'learning_rate'; did you mean|'optimizer.learning_rate'"),
        (_replace, "train lacks batch_size|set fields one by one"),
        (_remove, "the config has no section 'data'"),
        (_set_number, "optimizer is 3, but is a section"),
        (_use_number_as_name, "student.options has field names that are not strings"),
    ],
)
def test_a_launch_file_that_breaks_the_structure_of_a_config_is_refused(change, words):
    config = launch.digits()
    with config.unlocked(), config.ignore_type(), config.train.unlocked():
        change(config)
    with pytest.raises(errors.InputError, match=_join_words(words)):
        parse(config)


def _start(argv, holder):
    cli.parse_flags(argv, holder, explain)
    cli.guard(lambda: parse(holder.value))


_TWO = ":smoke,resnet8+resnet8-resnet8,kd"


@pytest.mark.parametrize(
    ("argument", "flag", "words"),
    [
        ("", "foo=1", "--config.foo: unknown field 'foo'; --print_config lists all fields"),
        ("", "learning_rate=1", "did you mean|'optimizer.learning_rate'"),
        ("", "lr=1", "did you mean 'optimizer.learning_rate'"),
        ("", "train.learning_rate=1", "did you mean|'optimizer.learning_rate'"),
        ("", "train.epochs.x=1", "unknown field 'train.epochs.x'; did you mean 'train.epochs'"),
        ("", "train.epochs=abc", "--config.train.epochs is 'abc', but must be a whole number"),
        ("", "train.epochs=1.5", "--config.train.epochs is '1.5', but must be a whole number"),
        ("", "teacher.epochs=x", "--config.teacher.epochs is 'x'|omit the flag for None"),
        ("", "data.flip=2", "--config.data.flip is '2', but must be True or False"),
        ("", "train=3", "--config.train is a section"),
        ("", "optimizer.options=abc", "--config.optimizer.options is 'abc', but must be a dict"),
        ("", "[=1", "--config.[ is not a field"),
        ("", "objectives.kd.tau=1", "unknown field 'objectives.kd.tau'|known: standardize"),
        ("", "objectives.crd.dim=1", "but not 'crd'; add it to the method"),
        ("", "objectives.rrds.dim=1", "but not 'rrds'; did you mean 'rrd'?"),
        ("", "teacher[0].weight=2", "has one teacher; write --config.teacher.weight"),
        (_TWO, "teacher.weight=2", "has 2 teachers; write teacher[0] to teacher[1]"),
        (_TWO, "teacher[5].weight=2", "has 2 teachers"),
        (_TWO, "teacher[1].weight=-2", "teacher[1].weight is -2.0"),
        ("", "optimizer.milestones=abc", "optimizer.milestones[0] is 'abc'"),
        ("", "data.mean=(nan,)", "data.mean[0] is '(nan,)'"),
        ("", "seed=99999999999999999999", "seed is 99999999999999999999|to 2147483647"),
        (":resnet8-resnet8,rrd,kd", "seed=1", "'rrd' and 'kd' each name a method"),
        (":resnet8-resnet8,rrd,rrd", "seed=1", "'rrd' and 'rrd' each name a method"),
        ("x", "seed=1", "--config=configs/digits.pyx does not exist"),
    ],
)
def test_an_invalid_command_line_ends_with_one_error_line(
    argument, flag, words, monkeypatch, capsys
):
    argv = ["program", f"--config=configs/digits.py{argument}", f"--config.{flag}"]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    monkeypatch.setattr(flags, "FLAGS", values)
    with pytest.raises(SystemExit):
        _start(argv, holder)
    message = capsys.readouterr().err
    assert re.search(_join_words(words), message), message
    assert message.startswith("error: ")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--epochs=3", "unknown flag --epochs; .* --config.teacher.epochs or --config.train.e"),
        ("-data.manual_dir", "did you mean --config.data.manual_dir\\?$"),
        ("--nothing=1", "^$"),
    ],
)
def test_an_unknown_flag_suggests_the_field_of_that_name(flag, message):
    assert re.search(message, explain(["program", "--config=configs/digits.py", flag, "x"]))


@pytest.mark.parametrize(
    ("fields", "entry"),
    [
        ({"data.augment": "none", "data.pad": 2}, "data.pad (data.augment is none)"),
        ({"data.resize": 64}, "data.resize (data.augment is crop_flip)"),
        ({"data.mix_alpha": 0.5}, "data.mix_alpha (data.mix is none)"),
        ({"data.mix": "cutmix", "data.cutmix_alpha": 0.5}, "data.cutmix_alpha (data.mix is cutmix"),
        ({"data.policy": "trivial", "data.policy_noise": 0.5}, "data.policy_noise (data.policy is"),
        ({"data.jitter_probability": 0.8}, "data.jitter_probability (data.jitter is all 0)"),
        ({"data.grey": 0.2}, "data.grey (images have one channel)"),
        ({"data.erase_with": "mean"}, "data.erase_with (data.erase is 0)"),
        ({"data.feed": "resident", "data.workers": 2}, "data.workers (data.feed is resident)"),
        ({"optimizer.schedule": "cosine", "optimizer.decay": 0.5}, "optimizer.decay ("),
        ({"teacher.weight": 2.0}, "teacher.weight (there is one teacher)"),
        ({"student.head": "new"}, "student.head (student.checkpoint is empty)"),
        ({"teacher.fine_tune": True}, "teacher.fine_tune (teacher.checkpoint is empty)"),
        ({"data.views.teacher": "weak"}, "data.views.teacher (no augmentation follows the crop)"),
        ({"data.views.seed": 3}, "data.views.seed (data.views.count is 0)"),
        ({"data.crop_area": 0.2}, "data.crop_area (data.augment is crop_flip)"),
        ({"teacher.cache": "off", "teacher.cache_dtype": "float32"}, "teacher.cache_dtype (tea"),
        ({"teacher.checkpoint": "x", "teacher.freeze": "stem"}, "teacher.freeze (teacher.check"),
        ({"teacher.checkpoint": "x", "teacher.epochs": 3}, "teacher.epochs (teacher.checkpoint is"),
        ({"objectives.kd.weight": 0.0, "objectives.kd.temperature": 2.0}, "kd.temperature (objec"),
        (
            {"objectives.rrd.memory": "momentum", "objectives.rrd.initial": "reference"},
            "objectives.rrd.initial (objectives.rrd.memory is momentum)",
        ),
    ],
)
def test_a_field_without_effect_is_noted(fields, entry, capsys):
    unused.note(validation.validate(launch.digits(**fields)), fields)
    output = capsys.readouterr().out
    assert output.startswith("note: unused config fields: ")
    assert entry in output
    assert output.count("\n") == 1


def test_a_policy_with_uniform_magnitudes_reads_its_number_of_operators_alone(capsys):
    fields = {"data.policy": "rand_uniform", "data.policy_operators": 3, "data.policy_noise": 0.5}
    unused.note(validation.validate(launch.digits(**fields)), fields)
    note = "note: unused config fields: data.policy_noise (data.policy is rand_uniform)"
    assert capsys.readouterr().out.strip() == note


def test_a_test_split_within_the_training_images_is_warned_about(capsys):
    unused.note(validation.validate(launch.digits(**{"data.test_split": "train[:10]"})), ())
    assert "warning: data.test_split is 'train[:10]'" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(path.stem for path in launch.CONFIGS.glob("*.py")))
def test_launch_files_are_valid_and_print_no_notes(name, capsys):
    parse(launch.get_config(name, "smoke"), explicit=())
    assert capsys.readouterr().out == ""


def test_every_field_is_printed_with_its_meaning_at_80_columns():
    config = launch.digits(**{"train.epochs": 3})
    text = describe(config)
    assert max(map(len, text.splitlines())) < 80
    assert "* train.epochs = 3 [240]\n      Whole number from 1 to" in text
    assert "objectives.rrd.queue_size = 20 ['auto']" in text
    assert "Number of memory rows K >= 1" in text
    assert describe(defaults())


@pytest.mark.parametrize("name", objectives.RECORDS)
def test_every_option_of_an_objective_is_printed_with_its_meaning(name):
    options = methods.fields(objectives.RECORDS[name])
    assert not [entry.path for entry in objective_entries(name, options) if not entry.meaning]
