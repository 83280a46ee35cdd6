"""Objectives that change the course of a run: stages before it, and another classifier after it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import digits
from rrd_jax import errors, evaluate, fit, parallel, program, recipes, report, train
from tests.conftest import use_one_device

_CE = {"ce": {"weight": 1.0}}


def _config(terms, argument="smoke,resnet8-resnet8", **fields):
    config = digits.get_config(argument)
    config.baseline = False
    with config.unlocked():
        config.objectives = terms
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        train.run(_config(_CE, "smoke,resnet8,ce"), str(folder))
    return {"teacher.checkpoint": str(folder)}


def _digests(folder, step):
    path = folder / "checkpoints" / str(step) / "meta" / "metadata"
    return json.loads(path.read_text())["digests"]


def _rows(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in report.speeds(1, 1, 1, 1)} for row in rows]


def _equal(a, b):
    return jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", ["ab", "ft"])
def test_a_stage_trains_its_own_part_and_the_run_goes_on_from_there(name):
    config = _config({**_CE, name: {"weight": 1.0, "epochs": 1}}, "smoke,resnet8-resnet8x4")
    recipe = recipes.from_config(config, "student", 10, 24)
    recipe = dataclasses.replace(recipe, ema=0.5)
    mesh, teacher = parallel.make_mesh(), recipes.create_network(config, "resnet8x4", 10)
    teacher_variables = teacher.init(jax.random.key(1), np.zeros((1, 8, 8, 1), np.float32))

    def built(recipe):
        return program.build(recipe, mesh, (8, 8, 1), 3, resident=False, teacher=teacher)

    stage, rng = built(program.before(recipe, name)), np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 255, (8, 8, 8, 1), np.uint8),
        "label": rng.integers(0, 10, 8, np.int32),
        "index": np.arange(8, dtype=np.int32),
    }
    start = jax.device_get(stage.create(0, teacher_variables))
    ended, losses = stage.create(0, teacher_variables), []
    for _ in range(4):
        ended, logged = stage.train_step(ended, teacher_variables, batch)
        losses.append(float(logged["loss"]))
    assert losses[-1] < losses[0]
    assert set(logged) == {"loss", f"loss/{name}", "top1"}
    moved = jax.tree.map(lambda same: not same, _equal(start.params, ended.params))
    assert all(jax.tree.leaves(moved["objectives"]))
    classifier = moved["student"].pop("fc")
    assert not any(jax.tree.leaves(classifier))
    assert set(jax.tree.leaves(moved["student"])) == {name == "ab"}

    whole = built(recipe)
    fresh = whole.create(0, teacher_variables)
    after = jax.jit(lambda a, b: program.after(a, b, name, recipe))(fresh, ended)
    assert all(jax.tree.leaves(_equal(after.frozen[name], ended.params["objectives"][name])))
    source = ended if name == "ab" else fresh
    assert all(jax.tree.leaves(_equal(after.params["student"], source.params["student"])))
    assert all(jax.tree.leaves(_equal(after.ema["params"], source.params["student"])))
    assert all(jax.tree.leaves(_equal(after.batch_stats, source.batch_stats)))
    assert int(after.step) == 0


@pytest.mark.usefixtures("one_device")
def test_a_run_stopped_in_its_stage_goes_on_and_ends_as_an_unbroken_one(
    tmp_path, teacher, monkeypatch, capsys
):
    config = _config({**_CE, "ab": {"weight": 1.0, "epochs": 2}}, **teacher)
    train.run(config, str(tmp_path / "whole"))
    said = capsys.readouterr().out
    assert (
        "[ab, stage before distillation] ab compares maps student - teacher: 8x8x16 - 8x8x16"
        in said
    )
    batches, left = fit._Loop._batches, 4

    def few(run, start):
        nonlocal left
        for batch in batches(run, start):
            if not left:
                raise KeyboardInterrupt
            left -= 1
            yield batch

    monkeypatch.setattr(fit._Loop, "_batches", few)
    for batches_made in (4, 3):  # in the stage's second epoch, in the run's first
        left = batches_made
        with pytest.raises(KeyboardInterrupt):
            train.run(config, str(tmp_path / "broken"))
    monkeypatch.setattr(fit._Loop, "_batches", batches)
    train.run(config, str(tmp_path / "broken"))
    for folder in (".", "before-ab"):
        whole, broken = (tmp_path / name / folder for name in ("whole", "broken"))
        assert _rows(broken) == _rows(whole)
        assert _digests(broken, 6) == _digests(whole, 6)


@pytest.mark.usefixtures("one_device")
def test_simkd_is_tested_and_kept_with_the_teachers_classifier(tmp_path, teacher):
    terms = {"ce": {"weight": 0.0}, "simkd": {"weight": 1.0}}
    config = _config(terms, **teacher)
    train.run(config, str(tmp_path))
    (row,) = [row for row in evaluate.run(config, str(tmp_path)) if row["run"] == "student"]
    kept = _rows(tmp_path)[-1]
    assert row["top1"] == pytest.approx(kept["test/top1"])
    assert row["loss"] == pytest.approx(kept["test/loss"], rel=1e-5)
    with pytest.raises(errors.InputError, match="'simkd', which classifies in its place: it is no"):
        train.run(_config(_CE, **{"teacher.checkpoint": str(tmp_path)}), str(tmp_path / "student"))
    with pytest.raises(errors.InputError, match="the average would leave out what 'simkd'"):
        train.run(_config(terms, **teacher, **{"train.ema": 0.9}), str(tmp_path / "average"))


def test_two_objectives_that_train_the_student_first_are_refused():
    config = _config({**_CE, "ab": {"weight": 1.0}, "fsp": {"weight": 1.0}})
    with pytest.raises(errors.InputError, match="ab and fsp each train the student before"):
        train.check(config)
