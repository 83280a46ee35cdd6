"""Whole commands: a second start with another teacher, settings or code, and futile runs."""

import json
import re

import jax
import pytest

from rrd_jax import checkpoints, errors
from tests import launch

pytestmark = pytest.mark.long

_PAIR = "--config=configs/digits.py:resnet8-resnet8,smoke,rrd+kd"
_FLAGS = ("--config.baseline=False", "--config.train.epochs=1")
_MODULE = """
import flax.linen as nn
import jax
import jax.numpy as jnp
from act import act


class Small(nn.Module):
    num_classes: int = 10
    stopped: bool = False

    @nn.compact
    def __call__(self, x):
        x = act(nn.Conv(4, (3, 3), strides=2)(x)).mean((1, 2))
        x = jax.lax.stop_gradient(x) if self.stopped else x
        logits = nn.Dense(self.num_classes)(x)
        return (jax.lax.stop_gradient(logits) if self.stopped else logits), x


def constant(student, teacher, batch):
    return jnp.sum(teacher.logits, axis=-1)


def silenced(student, teacher, batch):
    return 0 * jnp.sum(student.logits, axis=-1)
"""


@pytest.fixture(scope="module")
def runs(commands, tmp_path_factory):
    """Two teachers, A and B, and a run in `run` with teacher A."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("A", 0), ("B", 1)):
        teacher = ("--config=configs/digits.py:resnet8,smoke", f"--config.seed={seed}")
        outcome = commands.run(*teacher, *_FLAGS[1:], f"--workdir={folder / name}")
        assert outcome.code == 0, outcome.err
    teacher = f"--config.teacher.checkpoint={folder / 'A'}"
    outcome = commands.run(_PAIR, *_FLAGS, teacher, f"--workdir={folder / 'run'}")
    assert outcome.code == 0, outcome.err
    (folder / "link").symlink_to(folder / "run")
    weights = f"--output={folder / 'A.safetensors'}"
    export = (f"--workdir={folder / 'A'}", weights, "--format=safetensors")
    assert commands.run(*export, module="rrd_jax.export").code == 0
    return folder


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("B", "has learnt from another teacher: .*B has other weights than .*A; pass --config"),
        ("run", "cannot be its own teacher"),
        ("link/checkpoints", "cannot be its own teacher"),
        ("", "teacher.checkpoint is empty, which trains another teacher; pass --config.*=.*A"),
    ],
)
def test_a_resumed_run_keeps_its_teacher(commands, runs, teacher, message):
    stored = (runs / "run/config.json").read_text()
    path = runs / teacher if teacher else ""
    flags = (f"--config.teacher.checkpoint={path}", "--config.train.epochs=2")
    outcome = commands.run(_PAIR, *_FLAGS[:1], *flags, f"--workdir={runs / 'run'}")
    assert re.search(message, outcome.check_refused(2)), outcome.err
    assert (runs / "run/config.json").read_text() == stored


def test_the_same_weights_in_another_place_or_format_are_the_same_teacher(commands, runs):
    for teacher in ("A.safetensors", "A@last"):
        flag = f"--config.teacher.checkpoint={runs / teacher}"
        outcome = commands.run(_PAIR, *_FLAGS, flag, f"--workdir={runs / 'run'}")
        assert outcome.code == 0, outcome.err


def _params(folder, step):
    path = folder / "checkpoints" / str(step) / "meta" / "metadata"
    return json.loads(path.read_text())["digests"]["params"]


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_run_does_not_depend_on_the_random_generator_but_on_the_precision(tmp_path):
    config = launch.digits("smoke,tiny-tiny,rrd", baseline=False, **{"teacher.epochs": 1})
    launch.run(config, tmp_path / "unbroken")
    config.train.epochs = 1
    launch.run(config, tmp_path / "resumed")
    config.train.epochs = 2
    refused = pytest.raises(errors.InputError, match="precision is highest, but .* with None")
    with jax.default_matmul_precision("highest"), refused:
        launch.run(config, tmp_path / "resumed")
    with jax.default_prng_impl("rbg"), jax.threefry_partitionable(False):
        launch.run(config, tmp_path / "resumed")
    assert _params(tmp_path / "resumed", 6) == _params(tmp_path / "unbroken", 6)


@pytest.fixture
def modules(tmp_path):
    """A folder with a network and objectives, and a module that they import."""
    (tmp_path / "custom.py").write_text(_MODULE)
    (tmp_path / "act.py").write_text("import jax\n\nact = jax.nn.relu\n")
    return tmp_path


def test_changed_code_of_a_custom_network_is_told_in_one_line(commands, modules):
    config = f"--config={launch.CONFIGS / 'digits.py'}:custom:Small,smoke,ce"
    first = (config, "--config.train.epochs=1", "--workdir=run")
    assert commands.run(*first, cwd=modules).code == 0
    evaluate = (config, "--mode=eval", "--workdir=run")
    assert "has changed" not in commands.run(*evaluate, cwd=modules).out
    with (modules / "act.py").open("a") as file:
        file.write("# another version\n")
    resume = (config, "--config.train.epochs=2", "--workdir=run")
    export = ("--workdir=run", "--output=x.safetensors", "--format=safetensors")
    for arguments, module in (
        (evaluate, "rrd_jax.main"),
        (export, "rrd_jax.export"),
        (resume, "rrd_jax.main"),
    ):
        outcome = commands.run(*arguments, module=module, cwd=modules)
        assert outcome.code == 0, outcome.err
        text = outcome.out + outcome.err
        assert (
            len(re.findall(r"warning: the code of custom \(.*custom.py\) has changed", text)) == 1
        )


@pytest.mark.parametrize(
    ("method", "fields", "messages"),
    [
        (
            "kd+dkd+crd+rrd+custom:constant",
            "objectives.kd.weight=0 objectives.dkd.warmup=99 optimizer.warmup_epochs=1"
            " objectives.rrd.queue_size=25 objectives.crd.negatives=26",
            [
                "'constant' trains nothing, because its loss has no gradient",
                "objectives.kd.weight is 0, so kd trains nothing",
                "the weight reaches 0.0101 of 1",
                "the learning rate never reaches 0.05",
                "has 25 rows, but the run pushes only 24, .*set objectives.rrd.queue_size=24",
                "has 26 rows, but the run pushes only 24, .*set objectives.crd.negatives=24",
            ],
        ),
        (
            "rrd",
            "student.options.stopped=True",
            [
                r"learns nothing, .* \(logits, embedding of the network have none\)",
                "first epoch changed the student's weights by weight decay alone",
            ],
        ),
        pytest.param(
            *("custom:silenced", "objectives.ce.weight=0"),
            ["first epoch changed the student's weights by weight decay alone"],
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_part_that_learns_nothing_is_told(commands, modules, runs, method, fields, messages):
    config = f"--config={launch.CONFIGS / 'digits.py'}:resnet8-custom:Small,smoke,{method}"
    flags = [f"--config.{field}" for field in fields.split()]
    teacher = f"--config.teacher.checkpoint={runs / 'A'}"
    outcome = commands.run(config, *_FLAGS, *flags, teacher, "--workdir=run", cwd=modules)
    assert outcome.code == 0, outcome.err
    for message in messages:
        assert re.search(rf"warning: \[distilled.*{message}", outcome.out), outcome.out


def test_a_memory_of_automatic_size_is_recorded(commands, runs, tmp_path):
    flags = ("--config.objectives.rrd.queue_size=auto", *_FLAGS, f"--workdir={tmp_path}")
    teacher = f"--config.teacher.checkpoint={runs / 'A'}"
    for _ in range(2):
        outcome = commands.run(_PAIR, *flags, teacher)
        assert outcome.code == 0, outcome.err
        assert "random rows" not in outcome.out
        fields = json.loads((tmp_path / "config.json").read_text())
        assert fields["objectives"]["rrd"]["queue_size"] == 24
    message = commands.run(_PAIR, *flags[1:], teacher).check_refused(2)
    assert "objectives.rrd.queue_size is 20, stored 24" in message


def test_an_option_of_an_objective_that_a_study_lacks_is_refused(commands):
    flags = ("--methods=kd", "--set=objectives.rrd.preset=sharp_teacher", "--dry_run")
    config = "--config=configs/digits.py:resnet8-resnet8,smoke"
    outcome = commands.run(config, *flags, module="experiments.study")
    assert "no run has this objective" in outcome.check_refused(1, 2)


def test_the_weights_of_a_teacher_have_one_digest(runs):
    meta = checkpoints.read_meta(runs / "run" / "checkpoints")
    (teacher,) = meta["about"]["training"]["teachers"]
    variables, _ = checkpoints.load_student(runs / "A")
    assert teacher["digest"] == checkpoints.digest(variables)
