"""Invalid arguments of the Python API, which are refused in one line before training."""

import itertools

import flax.linen as nn
import numpy as np
import optax
import pytest

import rrd_jax
from rrd_jax import errors
from rrd_jax.jobs import loop
from rrd_jax.objectives.parts import memory

_IMAGES = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
_SPLIT = (_IMAGES, np.arange(32) % 4)


class Small(nn.Module):
    """A network with two layers."""

    num_classes: int
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width)(x.mean((1, 2))))
        return nn.Dense(self.num_classes)(x), x


def _raise_exit(learning_rate):
    raise SystemExit(3)


_VALID = {
    "student": Small(num_classes=4),
    "train": _SPLIT,
    "test": _SPLIT,
    "objectives": {"ce": 1.0},
    "epochs": 1,
    "batch_size": 16,
}
_INVALID = [
    ({"student": None}, "there is no student"),
    ({"student": Small}, "student is a class or a factory"),
    ({"student": 3}, "network 'int' is of type int"),
    ({"student": "resnet21"}, "unknown model 'resnet21'; did you mean"),
    ({"train": None, "test": None}, "no data set: data.name is empty"),
    ({"train": (_IMAGES, None)}, "32 images for split 'train', but labels None"),
    ({"train": (_IMAGES, np.arange(20))}, "32 images for split 'train', but 20 labels"),
    ({"num_classes": 4.0}, "num_classes is 4.0, but must be a whole number"),
    ({"epochs": -1}, "train.epochs is -1"),
    ({"epochs": 1.5}, "train.epochs is 1.5, but must be a whole number"),
    ({"learning_rate": optax.constant_schedule(0.1)}, "learning_rate is .* must be a number"),
    ({"fields": {"trian.epochs": 1}}, "unknown field 'trian.epochs'; did you mean 'train.epochs'"),
    ({"fields": {"train.epochs.x": 1}}, "unknown field 'train.epochs.x'"),
    ({"fields": {"train": 3}}, "'train' is 3, but is a section; set its fields, train.accumulate"),
    ({"fields": {"train.epochs": 2}}, "'train.epochs' is set by fields and by epochs="),
    ({"fields": {"data.mean": "abc"}}, "data.mean is 'abc', but must be a tuple of 1 or 3 numb"),
    ({"fields": ["data.mean"]}, "fields is .* but must be a mapping"),
    ({"config": {}}, "config is of type dict, but must be a ConfigDict"),
    ({"workdir": 3}, "workdir is of type int, but must be a path"),
    ({"workdir": ""}, "workdir is '', but must be the path"),
    ({"learning_rate": True}, "'optimizer.learning_rate' is True, but must be a number"),
    ({"val_split": True}, "'data.val_split' is True, but must be a number"),
    ({"fields": {"train.ema": np.bool_(False)}}, "'train.ema' is False, but must be a number"),
    ({"train": (_IMAGES[:, :1, :1], np.arange(len(_IMAGES)) % 4)}, "^data.resize is 1, but must"),
    ({"objectives": ["kd"]}, "objectives is .* but must be a mapping"),
    ({"objectives": {}}, "config.objectives is empty"),
    ({"objectives": {"ce": float("nan")}}, "objectives.ce.weight is nan"),
    ({"objectives": {"ce": None}}, "objective 'ce' is None, but must have a weight"),
    ({"objectives": {"ce": 0.0}}, "all weights in config.objectives are 0"),
    ({"objectives": {"ce": (1.0, len)}}, "'ce' is a Python object, but has the name of a built-in"),
    ({"objectives": {"mine": (1.0, 3)}}, "objective 'mine' is of type int"),
    ({"objectives": {"kd": 1.0}}, "needs a teacher|compares with a teacher"),
    ({"objectives": {"rrd+kd": 1.0}}, "unknown objective 'rrd.kd'"),
    ({"objectives": {3: 1.0}}, "invalid objective name 3"),
    ({"optimizer": 3}, "optimizer is of type int"),
    ({"optimizer": "adamm"}, "did you mean 'adam"),
    ({"optimizer": lambda rate: None}, "lambda.* returns NoneType, but must return"),
    ({"objectives": {"zero": (1.0, len, 2)}}, "'zero' is of type tuple"),
    ({"objectives": {"zero": 1j}}, "objective 'zero' is of type complex"),
    ({"optimizer": _raise_exit}, "(?s)optimizer _raise_exit failed.*errors_test.py.*SystemExit: 3"),
    ({"optimizer": optax.lbfgs()}, "(?s)optimizer .*failed.* 'value_fn'"),
    ({"optimizer": optax.adam(1e-3), "learning_rate": 0.1}, "learning_rate has no effect on"),
    ({"optimizer": optax.adam, "fields": {"optimizer.clip_norm": 1.0}}, "clip_norm has no effect"),
    ({"teacher": "/nowhere"}, "no intact checkpoint in /nowhere"),
    ({"teacher": (Small(num_classes=4), None)}, "teacher's variables are of type NoneType"),
]


@pytest.mark.parametrize(("arguments", "message"), _INVALID)
def test_an_invalid_argument_is_refused_in_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(errors.InputError, match=message) as caught:
        rrd_jax.distill(**{"workdir": tmp_path, **_VALID, **arguments})
    assert isinstance(caught.value, errors.UserCodeError) or "\n" not in str(caught.value)
    assert "student]" not in capsys.readouterr().out


def test_invalid_options_of_schedules_and_objectives_are_refused(tmp_path):
    fields = {"optimizer.schedule_options.decay_epochs": 0.0, "optimizer.schedule": "wsd"}
    with pytest.raises(errors.InputError, match="decay_epochs is 0.0, but must be above 0"):
        rrd_jax.distill(workdir=tmp_path, **_VALID, fields=fields)
    fields = {"objectives.ce.label_smoothing": 2.0}
    with pytest.raises(errors.InputError, match="label_smoothing is 2.0"):
        rrd_jax.distill(workdir=tmp_path, **_VALID, fields=fields)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return rrd_jax.train_teacher(
        Small(num_classes=4), _SPLIT, _SPLIT, workdir, epochs=1, batch_size=16
    )


def test_train_teacher_refuses_an_argument_of_distill():
    with pytest.raises(errors.InputError, match="unknown argument of train_teacher 'teacher'"):
        rrd_jax.train_teacher("resnet8", _SPLIT, _SPLIT, teacher="resnet8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass the object as network="),
        ({"network": Small}, "is the class Small, but must be an instance; call"),
        ({"network": Small(num_classes=4, width=4)}, r"do not fit the network: params/.* is"),
        ({"network": "nope"}, "unknown model 'nope'"),
        ({"network": Small(num_classes=4), "num_classes": 7}, "num_classes is 7, but the weights"),
        ({"network": Small(num_classes=4), "mean": (0.5,) * 3}, "mean is .* a tuple of 1 number"),
        ({"network": Small(num_classes=4), "std": (0.0,)}, "std.* is .* from 0.0001 to 1"),
    ],
)
def test_invalid_arguments_of_load_are_refused(arguments, message, trained):
    with pytest.raises(errors.InputError, match=message):
        rrd_jax.load(trained.workdir, **arguments)


@pytest.mark.parametrize("path", [3, None, ""])
def test_an_invalid_path_is_refused(path):
    with pytest.raises(errors.InputError, match="path is .*, but must be the workdir"):
        rrd_jax.load(path)


@pytest.mark.parametrize(
    "images", ["abc", None, _IMAGES[0], _IMAGES.astype(np.int32), np.zeros((2, 8, 8, 3))]
)
def test_a_network_refuses_inputs_that_are_not_images(images, trained):
    with pytest.raises(errors.InputError, match="images are .* but"):
        trained.network(images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"source": "x"}, "source is 'x'"),
        (
            {"test": (np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 4)},
            "test images have 3 channels",
        ),
    ],
)
def test_invalid_arguments_of_evaluate_are_refused(arguments, message, trained):
    with pytest.raises(errors.InputError, match=message):
        rrd_jax.evaluate(trained, **arguments)


@pytest.mark.long
def test_a_finished_workdir_refuses_other_data_and_networks(trained):
    options = {"epochs": 1, "batch_size": 16}
    relabeled = _IMAGES, np.roll(_SPLIT[1], 1)
    with pytest.raises(errors.InputError, match="holds a run on data .* but the data set is now"):
        rrd_jax.train_teacher(Small(num_classes=4), relabeled, _SPLIT, trained.workdir, **options)
    wider = Small(num_classes=4, width=16)
    with pytest.raises(errors.InputError, match="do not fit the network"):
        rrd_jax.train_teacher(wider, _SPLIT, _SPLIT, trained.workdir, **options)


@pytest.mark.long
def test_an_unfinished_workdir_refuses_another_network(tmp_path, monkeypatch):
    options = {"epochs": 2, "batch_size": 16, "workdir": tmp_path, "train": _SPLIT, "test": _SPLIT}
    original = loop.dispatches

    def dispatch_one_epoch(*arguments):
        yield from itertools.islice(original(*arguments), 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "dispatches", dispatch_one_epoch)
        with pytest.raises(KeyboardInterrupt):
            rrd_jax.train_teacher(Small(num_classes=4), **options)
    with pytest.raises(errors.InputError, match="from another network, .* in the checkpoint and"):
        rrd_jax.train_teacher(Small(num_classes=4, width=16), **options)


def test_relational_loss_refuses_a_queue():
    queue = memory.Queue(np.zeros((16, 8)), np.int32(0))
    rows, temperatures = np.zeros((4, 8)), {"temperature_student": 1.0, "temperature_teacher": 1.0}
    with pytest.raises(errors.InputError, match="memory is a Queue, .* pass its attribute rows"):
        rrd_jax.relational_loss(rows, rows, queue, **temperatures)
