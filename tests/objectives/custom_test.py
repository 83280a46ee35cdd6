"""Custom objectives by import path."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.config import method, parse
from rrd_jax.objectives import __main__ as catalogue
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import ensemble
from rrd_jax.training import state
from tests import launch
from tests.objectives import toy

_MODULE = '''
import jax
import jax.numpy as jnp

from rrd_jax import objectives
from rrd_jax.objectives import Objective, ObjectiveState, Record


def angular(student, teacher, batch, power: float = 2, centred=True, seed=None):
    """Angles between the logits of images."""
    def angles(x):
        x = x - x.mean(1, keepdims=True) * centred
        x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        return x @ x.T
    return jnp.mean(jnp.abs(angles(student.logits) - angles(teacher.logits)) ** power, axis=-1)


def moving(*, rate: float = 0.5, start: float | None = None, examples=None, batch_size=None):
    """A layer that is trained, and a running mean of the teacher's embedding."""
    assert examples and batch_size

    def init(key, student, teacher):
        shape = student.embedding.shape[-1], teacher.embedding.shape[-1]
        mean = jnp.full(shape[1:], start or 0.0)
        return ObjectiveState(jax.random.normal(key, shape), jnp.float32(rate), mean)

    def loss(state, student, teacher, batch):
        difference = student.embedding @ state.params - teacher.embedding + state.memory[None]
        moved = state.frozen * state.memory + (1 - state.frozen) * teacher.embedding.mean(0)
        return jnp.square(difference).mean(-1), moved

    return Objective(init, loss, needs_maps=False)


def without_maps():
    return objectives.stateless(lambda student, teacher, batch: student.logits.mean(-1))


def counting():
    def init(key, student, teacher):
        return ObjectiveState(memory=0, frozen=0.5)

    def loss(state, student, teacher, batch):
        return student.logits.mean(-1) * state.frozen, state.memory + 1

    return Objective(init, loss)


class Losses:
    ready = objectives.stateless(lambda student, teacher, batch: student.logits.mean(-1))


recorded = Record(angular, "angles", "-", weight=3.0, warmup=2, company={"ce": 0.5})


def rrd(student, teacher, batch):
    return student.logits.mean(-1)


def weighty(*, weight=1.0):
    return without_maps()


def pair(student, teacher):
    return student.logits.mean(-1)


def nothing():
    return None


number = 3
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that writes a module into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(name="user_losses", source=_MODULE):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)

    write()
    yield write
    for name in ("user_losses", "other_losses", "user_rrd"):
        sys.modules.pop(name, None)


_BATCH = 8
_INTS = jax.ShapeDtypeStruct((_BATCH,), jnp.int32)
_SHAPES = Batch(None, _INTS, _INTS, _INTS)


def _shapes(**parts):
    """Returns the shapes of the Outputs for a batch of one image."""
    outputs = jax.eval_shape(lambda: toy.outputs(0, batch=1))
    return outputs._replace(**parts)


@pytest.mark.usefixtures("module")
def test_arguments_with_defaults_become_fields_of_the_same_type():
    terms = method("rrd+user_losses:angular+user_losses:moving")
    assert set(terms) == {"ce", "rrd", "angular", "moving"}
    assert dict(terms.angular) == {
        **{"weight": 1.0, "warmup": 0, "factory": "user_losses:angular"},
        **{"power": 2.0, "centred": True, "seed": None},
    }
    assert terms.angular.get_type("power") is float
    assert terms.moving.get_type("start") is float
    assert "examples" not in terms.moving
    assert sorted(method("user_losses:Losses.ready").ready) == ["factory", "warmup", "weight"]


@pytest.mark.usefixtures("module")
def test_a_custom_record_sets_the_weights():
    terms = method("user_losses:recorded")
    assert {name: options.weight for name, options in terms.items()} == {"ce": 0.5, "angular": 3.0}
    assert terms.angular.warmup == 2


@pytest.mark.usefixtures("module")
def test_a_loss_function_becomes_an_objective_that_may_read_maps():
    objective = objectives.create("user_losses:angular", power=3)
    assert objective.needs_teacher
    assert objective.needs_maps
    assert not objectives.create("user_losses:without_maps").needs_maps
    student, teacher = toy.outputs(0), toy.outputs(1)
    start = objective.init(jax.random.key(0), student, teacher)
    actual, memory = objective.loss(start, student, teacher, None)
    expected = sys.modules["user_losses"].angular(student, teacher, None, power=3.0)
    np.testing.assert_array_equal(actual, expected)
    assert memory == ()


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("weighty", {}, "has an option 'weight', but every objective has a field of that name"),
        ("rrd", {}, "'user_losses:rrd' has the name of a built-in objective, 'rrd'; rename it"),
        ("pair", {}, r"takes \(student, teacher\) without defaults, but a loss takes"),
        ("nothing", {}, r"returns a NoneType, but must return an Objective.*stateless\(loss\)"),
        ("number", {}, "is of type int, but must be a loss"),
        ("angular", {"power": float("nan")}, "is nan, but must be a finite number"),
        ("angular", {"powr": 2}, "option 'objectives.angular.powr'.*did you mean 'power'"),
        ("angular", {"power": "two"}, "is 'two', but must be of type float"),
        ("angulr", {}, "has no 'angulr'; did you mean 'angular'"),
    ],
)
def test_an_invalid_objective_is_refused_in_one_line(path, options, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        objectives.create(f"user_losses:{path}", **options)
    assert "\n" not in str(caught.value)


def _config(folder, terms, **fields):
    fields = {"teacher.checkpoint": str(folder), **fields}
    return launch.digits("smoke,tiny-tiny", {"ce": {"weight": 1.0}, **terms}, **fields)


@pytest.mark.usefixtures("module", "tiny_network")
def test_a_launch_file_may_rename_an_objective():
    terms = {
        "mine": {"factory": "user_losses:angular", "power": 3.0},
        "user_losses:angular": {},
    }
    choices = parse(_config("somewhere", terms)).student.training.objectives
    assert [choice.name for choice in choices] == ["ce", "mine", "angular"]
    assert [choice.factory for choice in choices[1:]] == ["user_losses:angular"] * 2
    with pytest.raises(errors.InputError, match="'user_losses:angular' has the name of a built-in"):
        parse(_config("somewhere", {"kd": {"factory": "user_losses:angular"}}))
    terms = {"angular": {"factory": "user_losses:angular"}, "user_losses:angular": {}}
    with pytest.raises(errors.InputError, match="two objectives named 'angular'"):
        parse(_config("somewhere", terms))


# Case: (init, loss, error message).
_WRONG = {
    "init fails": (
        "lambda *_: 1 / 0",
        "loss",
        r"(?s)calling init of .*user_wrong.py\", line 15.*ZeroDivisionError",
    ),
    "no state": (
        "lambda *_: {}",
        "loss",
        "init .* returns a dict, but must return an ObjectiveState",
    ),
    "integers": ("start(jnp.int32(1))", "loss", "trains params of type int32, .*frozen or memory"),
    "shape": ("start()", "lambda s, a, b, batch: (a.logits, s.memory)", r"float32\[8,5\].* \[8\]"),
    "integer loss": ("start()", "lambda s, a, b, batch: (batch.label, s.memory)", r"int32\[8\]"),
    "no memory": ("start()", "lambda s, a, b, batch: a.logits.mean(1)", r"\(loss \[B\], new mem"),
    "loss fails": (
        "start()",
        "fails",
        r"(?s)calling loss of .*user_wrong.py\", line 13, in fails.*ValueError: this fails",
    ),
    "key": (
        "start((), jax.random.key(0))",
        "loss",
        r"returns a PRNG key in memory.*key_data\(key\)",
    ),
    "no elements": ("start((), jnp.zeros((0, 3)))", "loss", r"float32\[0,3\] in memory"),
    "complex": ("start((), jnp.zeros(3) + 1j)", "loss", r"complex64\[3\] in memory"),
    "memory": (
        "start(memory={'rows': jnp.zeros(3)})",
        "lambda s, a, b, batch: (a.logits.mean(1), {'rows': jnp.zeros(4)})",
        r"memory\['rows'\] is float32\[3\] in init, then float32\[4\]",
    ),
    "memory absent": (
        "start(memory={'rows': jnp.zeros(3)})",
        "lambda s, a, b, batch: (a.logits.mean(1), {})",
        r"memory\['rows'\] is float32\[3\] in init, then absent",
    ),
}
_WRONG_MODULE = """
import jax
import jax.numpy as jnp
from rrd_jax.objectives import Objective, ObjectiveState

def start(params=(), memory=()):
    return lambda *_: ObjectiveState(params, (), memory)

def loss(s, student, teacher, batch):
    return student.logits.mean(1), s.memory

def fails(s, student, teacher, batch):
    raise ValueError("this fails")

"""


@pytest.mark.parametrize("case", _WRONG)
def test_the_results_of_an_objective_are_checked_by_shape(case, tmp_path):
    init, loss, message = _WRONG[case]
    path = tmp_path / "user_wrong.py"
    source = f"{_WRONG_MODULE}wrong = Objective({init}, {loss})\n"
    path.write_text(source)
    names = {"__name__": "user_wrong"}
    exec(compile(source, str(path), "exec"), names)
    with pytest.raises(errors.InputError, match=message) as caught:
        objectives.check("wrong", names["wrong"], _shapes(), _shapes(), _SHAPES)
    assert "objective 'wrong'" in str(caught.value)


@pytest.mark.parametrize("name", objectives.RECORDS)
def test_every_built_in_objective_passes_and_missing_outputs_are_named(name):
    options = {"examples": 40, "batch_size": _BATCH, "queue_size": 16, "negatives": 16, "dim": 4}
    options = {key: value for key, value in options.items() if objectives.takes(name, key)}
    objective = objectives.create(name, **options)
    objectives.check(name, objective, _shapes(), _shapes(), _SHAPES)
    missed = set()
    for network in ("student", "teacher"):
        for part in ("embedding", "maps", "preactivations", "head"):
            outputs = {"student": _shapes(), "teacher": _shapes()}
            outputs[network] = outputs[network]._replace(**{part: ()})
            if message := _refusal(name, objective, *outputs.values()):
                missed.add(part)
                assert f"'{name}' reads {network}.{part}, but the {network}'s network" in message
                assert message.endswith(", or choose another objective")
    # ofa reads the student's maps only.
    reads_maps = name == "ofa" or (objective.needs_teacher and objective.needs_maps)
    assert bool(missed & {"maps", "preactivations"}) == reads_maps
    assert ("head" in missed) == (name in ("srrl", "simkd", "sdd"))


def _refusal(name, objective, student, teacher):
    try:
        objectives.check(name, objective, student, teacher, _SHAPES)
    except errors.InputError as error:
        return str(error)
    return ""


def test_stage_predict_and_taps_are_checked():
    right = objectives.create("ft")
    wrong = {
        "stage.loss": {"stage": right.stage._replace(loss=lambda state, *_: (jnp.zeros(3), ()))},
        "predict": {"predict": lambda state, student: student.embedding},
        "taps": {"taps": lambda student, teacher: [(student.maps[9], teacher.maps[9])]},
    }
    for function, parts in wrong.items():
        with pytest.raises(errors.InputError, match=f"{function}.*") as caught:
            objectives.check("ft", right._replace(**parts), _shapes(), _shapes(), _SHAPES)
        assert "objective 'ft'" in str(caught.value)


@pytest.mark.usefixtures("module")
def test_python_numbers_in_a_state_become_arrays():
    objective = objectives.create("user_losses:counting")
    start = objective.init(jax.random.key(0), _shapes(), _shapes())
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(start))
    objectives.check("counting", objective, _shapes(), _shapes(), _SHAPES)


@pytest.mark.usefixtures("module")
def test_the_catalog_describes_a_custom_objective(capsys):
    catalogue.print_one("user_losses:angular")
    text = capsys.readouterr().out
    assert "user_losses:angular" in text
    assert "Angles between the logits of images." in text
    assert "--config.objectives.angular.power=2.0" in text
    assert "The teacher's outputs cannot be cached." in text


def test_undeclared_outputs_cannot_be_read():
    def loss(student, teacher, batch):
        return teacher.maps[-1].mean((1, 2, 3))

    for option in ("needs_maps", "needs_teacher"):
        wrong = objectives.stateless(loss, **{"needs_maps": True, option: False})
        with pytest.raises(errors.InputError, match=f"teacher.maps, but declares {option}=False"):
            objectives.check("wrong", wrong, _shapes(), _shapes(), _SHAPES)
    right = objectives.stateless(loss, needs_maps=True)
    objectives.check("right", right, _shapes(), _shapes(), _SHAPES)


def test_an_objective_may_test_for_missing_outputs():
    def loss(student, teacher, batch):
        assert not student.maps
        assert student.maps == ()
        assert teacher.maps
        doubled = jax.tree.map(lambda x: 2 * x, student)
        return student._replace(maps=teacher.maps).maps[0].mean((1, 2, 3)) + doubled.logits.mean(1)

    outputs = _shapes(), _shapes()._replace(preactivations=(), head=())
    outputs = outputs[0]._replace(maps=(), preactivations=(), head=()), outputs[1]
    objectives.check("tests", objectives.stateless(loss, needs_maps=True), *outputs, _SHAPES)


def test_using_missing_outputs_raises():
    for use in (len, list, jnp.mean, lambda x: x[0], lambda x: x * 2, lambda x: x.shape):
        objective = objectives.stateless(
            lambda student, teacher, batch, use=use: use(student.maps), needs_maps=True
        )
        with pytest.raises(errors.InputError, match="'uses' reads student.maps"):
            objectives.check("uses", objective, _shapes(maps=()), _shapes(), _SHAPES)


def test_averaged_objectives_pass_the_check():
    member = _shapes(head=())
    teacher = ensemble.EnsembleOutputs(member.logits, (member, member._replace(maps=())))
    for name in ("kd", "rrd"):
        objective = objectives.averaged(name, objectives.create(name), (0.5, 0.5))
        objectives.check(name, objective, _shapes(), teacher, _SHAPES)
    objective = objectives.averaged("at", objectives.create("at"), (0.5, 0.5))
    with pytest.raises(errors.InputError, match="'at' reads teacher.maps"):
        objectives.check("at", objective, _shapes(), teacher, _SHAPES)


@pytest.mark.usefixtures("module", "one_device", "tiny_network")
@pytest.mark.long
def test_a_run_with_a_custom_objective_resumes_bit_for_bit(tmp_path, tiny_teacher):
    terms = {
        "moving": {"factory": "user_losses:moving", "rate": 0.75, "warmup": 2},
        "angular": {"factory": "user_losses:angular", "weight": 2.0},
    }
    config = _config(tiny_teacher, terms)
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    launch.run(config, uninterrupted)
    launch.preempt(config, resumed, 2)
    # The default was not written to the saved config.
    with config.unlocked():
        config.objectives.angular.power = 2.0
    launch.run(config, resumed)
    assert launch.digests(resumed, 6) == launch.digests(uninterrupted, 6)
    assert launch.rows(resumed) == launch.rows(uninterrupted)
    config.objectives.angular.factory = "user_losses:without_maps"
    config.objectives.angular.power = None
    with pytest.raises(errors.InputError, match=r"another config \(objectives.angular.factory"):
        launch.run(config, resumed)


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
def test_rrd_by_import_path_has_the_results_of_rrd_by_name(tmp_path, tiny_teacher, monkeypatch):
    # The random key of an objective depends on its name, so both names must give the same key.
    fold_in = state._fold_in_name
    monkeypatch.setattr(
        state, "_fold_in_name", lambda key, name: fold_in(key, name.replace("mine", "rrd"))
    )
    options = {"weight": 1.0, "queue_size": 20, "dim": 8}
    by_name, by_path = tmp_path / "name", tmp_path / "path"
    launch.run(_config(tiny_teacher, {"rrd": options}), by_name)
    options = options | {"factory": "rrd_jax.objectives.rrd:rrd"}
    launch.run(_config(tiny_teacher, {"mine": options}), by_path)
    rows = json.dumps(launch.rows(by_path)).replace("loss/mine", "loss/rrd")
    assert rows == json.dumps(launch.rows(by_name))
    digests = (sorted(launch.digests(run, 6).values()) for run in (by_name, by_path))
    assert next(digests) == next(digests)


@pytest.mark.usefixtures("module")
@pytest.mark.long
def test_the_command_line_accepts_a_custom_objective_and_its_options(tmp_path):
    config = pathlib.Path(launch.CONFIGS, "digits.py")
    command = [
        *(sys.executable, "-m", "rrd_jax.main", "--workdir=run"),
        f"--config={config}:resnet8-resnet8,smoke,rrd+user_losses:angular",
        *("--config.objectives.angular.power=3", "--noconfig.objectives.angular.centred"),
        *("--config.objectives.angular.weight=0.5", "--noconfig.baseline"),
        *("--config.train.epochs=1", "--config.data.augment=none"),
    ]
    python_path = os.pathsep.join([str(tmp_path), str(launch.CONFIGS.parent)])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": python_path},
    )
    assert done.returncode == 0, done.stderr
    assert "0.5 angular" in done.stdout
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["name"] == "digits-resnet8-resnet8-rrd+user_losses.angular-smoke"
    assert saved["objectives"]["angular"] == {
        **{"weight": 0.5, "warmup": 0, "factory": "user_losses:angular"},
        **{"power": 3.0, "centred": False, "seed": None},
    }
