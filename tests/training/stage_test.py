"""Objectives with a stage before distillation, or with another classifier after it."""

import dataclasses

import jax
import numpy as np
import pytest

from rrd_jax import errors, parallel
from rrd_jax.config import parse
from rrd_jax.jobs import evaluate, program
from rrd_jax.objectives.batch import Batch
from rrd_jax.training import recipe, stage
from rrd_jax.training.choices import CacheChoice
from tests import fresh, launch, tiny

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_device", "tiny_network")]
_CE = {"ce": {"weight": 1.0}}


@pytest.fixture(scope="module")
def teacher(tiny_teacher):
    """Config fields for a trained teacher."""
    return {"teacher.checkpoint": str(tiny_teacher)}


def _equal(tree, other):
    return jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), tree, other)


@pytest.mark.parametrize("name", fresh.mark_long_except(["ab", "ft"], ["ft"]))
def test_a_stage_trains_its_parameters_and_the_run_starts_from_them(name):
    terms = {**_CE, name: {"weight": 1.0, "epochs": 1}}
    # Without augmentation, all steps use the same images.
    fields = {"train.ema": 0.5, "data.augment": "none"}
    part = parse(launch.digits("smoke,tiny-tiny", terms, **fields)).student
    plan = recipe.create(part.training, num_classes=10, examples=24)
    mesh = parallel.make_mesh()
    wide = tiny.NETWORK(num_classes=10, widths=(8, 32))
    images = np.zeros((1, 8, 8, 1), np.float32)
    teacher = jax.jit(wide.init, compiler_options=tiny.QUICK)(jax.random.key(1), images)

    def build(plan):
        return program.build(plan, mesh, (8, 8, 1), 3, resident=False, teacher=wide)

    before, rng = build(stage.stage_recipe(plan, name)), np.random.default_rng(0)
    batch = Batch(
        image=rng.integers(0, 255, (8, 8, 8, 1), np.uint8),
        label=rng.integers(0, 10, 8, np.int32),
        index=np.arange(8, dtype=np.int32),
    )
    start = jax.device_get(before.create(0, teacher))
    end, losses = before.create(0, teacher), []
    for _ in range(4):
        end, logged = before.train_step(end, teacher, batch)
        losses.append(float(logged["loss"]))
    assert losses[-1] < losses[0]
    assert set(logged) == {"loss", f"loss/{name}", "top1"}
    moved = jax.tree.map(lambda same: not same, _equal(start.params, end.params))
    assert all(jax.tree.leaves(moved["objectives"]))
    classifier = moved["student"].pop("fc")
    assert not any(jax.tree.leaves(classifier))
    trains_student = name == "ab"
    assert set(jax.tree.leaves(moved["student"])) == {trains_student}

    fresh = build(plan).create(0, teacher)
    after = jax.jit(
        lambda a, b: stage.state_after_stage(a, b, name=name, trains_student=trains_student)
    )(fresh, end)
    assert all(jax.tree.leaves(_equal(after.frozen[name], end.params["objectives"][name])))
    source = end if trains_student else fresh
    assert all(jax.tree.leaves(_equal(after.params["student"], source.params["student"])))
    assert all(jax.tree.leaves(_equal(after.ema["params"], source.params["student"])))
    assert all(jax.tree.leaves(_equal(after.batch_stats, source.batch_stats)))
    assert int(after.step) == 0


def test_a_stage_has_separate_epochs_and_uses_no_teacher_cache():
    terms = {**_CE, "ab": {"weight": 1.0, "epochs": 5}}
    part = parse(launch.digits("smoke,tiny-tiny", terms, **{"teacher.cache": "auto"})).student
    plan = recipe.create(part.training, num_classes=10, examples=24)
    training = stage.stage_recipe(plan, "ab").training
    assert (training.epochs, training.ema, training.teacher_cache.use) == (5, 0.0, "off")
    assert dataclasses.replace(
        training, label="distilled, rrd+kd", epochs=2, teacher_cache=CacheChoice("auto")
    ) == (plan.training)


def test_a_stage_uses_the_rate_after_the_warm_up():
    terms = {**_CE, "ab": {"weight": 1.0, "epochs": 1}}
    for name in ("cosine", f"{__name__}:slow_start"):
        fields = {"optimizer.schedule": name, "optimizer.warmup_epochs": 1.0}
        part = parse(launch.digits("smoke,tiny-tiny", terms, **fields)).student
        plan = recipe.create(part.training, num_classes=10, examples=24)
        assert float(plan.schedule(0)) == 0
        rate = stage.stage_recipe(plan, "ab").schedule
        assert [float(rate(step)) for step in (0, 7)] == pytest.approx([0.05, 0.05])


def slow_start(learning_rate, steps):
    """Returns a schedule with a built-in warm-up."""
    return lambda step: learning_rate * step / steps


def test_a_run_interrupted_in_its_stage_resumes_bit_for_bit(tmp_path, teacher, capsys):
    terms = {**_CE, "ab": {"weight": 1.0, "epochs": 2}}
    config = launch.digits("smoke,tiny-tiny", terms, **teacher)
    launch.run(config, tmp_path / "uninterrupted")
    output = capsys.readouterr().out
    pair = "8x8x16 - 8x8x16"
    assert (
        f"[ab, stage before distillation] ab compares feature maps (student - teacher): {pair}"
        in output
    )
    # The first interruption is in the stage's second epoch, the second in the run's first epoch.
    for calls in (4, 3):
        launch.interrupt(config, tmp_path / "resumed", calls)
    launch.run(config, tmp_path / "resumed")
    for folder in (".", "before-ab"):
        uninterrupted, resumed = (tmp_path / name / folder for name in ("uninterrupted", "resumed"))
        assert launch.rows(resumed) == launch.rows(uninterrupted)
        assert launch.digests(resumed, 6) == launch.digests(uninterrupted, 6)


def test_simkd_is_evaluated_and_saved_with_the_teachers_classifier(tmp_path, teacher):
    terms = {"ce": {"weight": 0.0}, "simkd": {"weight": 1.0}}
    config = launch.digits("smoke,tiny-tiny", terms, **teacher)
    launch.run(config, tmp_path)
    evaluated = evaluate.run(parse(config), tmp_path)
    (row,) = [row for row in evaluated if row["run"] == "student"]
    logged = launch.rows(tmp_path)[-1]
    assert row["top1"] == pytest.approx(logged["test/top1"])
    assert row["loss"] == pytest.approx(logged["test/loss"], rel=1e-5)
    pupil = launch.digits("smoke,tiny-tiny", _CE, **{"teacher.checkpoint": str(tmp_path)})
    with pytest.raises(
        errors.InputError, match="'simkd', which replaces its classifier; it cannot"
    ):
        launch.run(pupil, tmp_path / "student")
