import dataclasses
import fcntl
import json
import threading
import time

import pytest

from experiments.study import attempts, design, plan, work
from rrd_jax import errors
from rrd_jax.checkpoints import digests
from rrd_jax.jobs import job, preflight

pytestmark = pytest.mark.usefixtures("one_device", "tiny_network")


def _plan(folder, *names, seeds=(0,), fields=None, **options):
    grid = design.Grid(
        name="methods",
        question="Which is best?",
        config="configs/digits.py",
        argument="smoke,tiny-tiny",
        factors=(design.methods(*names),),
        seeds=seeds,
        fields=fields or {},
        measures=(),
        **options,
    )
    return plan.make(design.Study("mine", "Mine", (grid,)), folder)


def _following(folder):
    """Two runs, of which the second starts from the network of the first."""
    first = design.Grid(
        name="first",
        question="?",
        config="configs/digits.py",
        argument="smoke,tiny-tiny",
        factors=(design.methods("ce"),),
        seeds=(0,),
        measures=(),
    )
    rate = (design.field("optimizer.learning_rate", 0.1, name="rate"),)
    given = {"name": "second", "factors": rate, "argument": "smoke,ce", "follows": "first"}
    second = dataclasses.replace(first, **given)
    return plan.make(design.Study("mine", "Mine", (first, second)), folder)


@dataclasses.dataclass
class _Trained:
    """Labels of what was trained; errors that training raises, by label."""

    labels: list[str] = dataclasses.field(default_factory=list)
    fails: dict[str, Exception] = dataclasses.field(default_factory=dict)


@pytest.fixture
def trained(monkeypatch):
    """What was trained, in place of training it."""
    seen = _Trained()

    def train(part, folder, setting, teacher=None):
        label = part.training.label
        seen.labels.append(label)
        if label in seen.fails:
            raise seen.fails[label]
        path = folder / "checkpoints" / "3" / "meta" / "metadata"
        path.parent.mkdir(parents=True)
        meta = {"epoch": part.training.epochs}
        path.write_text(json.dumps(digests.seal(meta, {})))
        return job.Result(label, "tiny", 1.0, 1.0, 1, None, 1, 1.0, str(folder))

    monkeypatch.setattr(job, "train", train)
    monkeypatch.setattr(job, "load_teacher", lambda *arguments: ([], None))
    monkeypatch.setattr(preflight, "check", lambda *arguments: None)
    monkeypatch.setattr(work, "_POLL", 0.01)
    return seen


def _errors(made, launch):
    return {
        run.label: error
        for name, run in made.runs.items()
        if (error := attempts.failure(made.folder / "runs" / name, launch))
    }


def test_a_run_that_fails_stops_no_other_and_is_tried_again_at_the_next_start(tmp_path, trained):
    made = _plan(tmp_path, "ce", "kd", "rrd")
    trained.fails["kd, seed 0"] = ZeroDivisionError("division by zero")
    work.Worker(made, "first").work()
    assert trained.labels == ["teacher", "ce, seed 0", "kd, seed 0", "rrd, seed 0"]
    assert _errors(made, "first") == {"kd, seed 0": "ZeroDivisionError: division by zero"}
    work.Worker(made, "first").work()
    assert len(trained.labels) == 4
    trained.fails.clear()
    work.Worker(made, "second").work()
    assert trained.labels[4:] == ["kd, seed 0"]
    assert not _errors(made, "first")


def test_a_teacher_that_fails_is_tried_once_and_fails_those_that_need_it(tmp_path, trained):
    made = _plan(tmp_path, "ce", "kd", "rrd")
    trained.fails["teacher"] = errors.DivergedError("the loss is not finite")
    work.Worker(made, "first").work()
    assert trained.labels == ["teacher"]
    reasons = _errors(made, "first")
    assert len(reasons) == 3
    assert all(r.startswith("its teacher failed: ") for r in reasons.values())
    assert all(r.endswith("the loss is not finite") for r in reasons.values())


@pytest.mark.parametrize(
    "error", [errors.DiskError("full"), errors.PreemptedError("stopped"), errors.LostError("gone")]
)
@pytest.mark.long
def test_what_every_other_run_would_end_with_ends_the_worker(tmp_path, trained, error):
    made = _plan(tmp_path, "ce", "kd")
    trained.fails["ce, seed 0"] = error
    with pytest.raises(type(error)):
        work.Worker(made, "first").work()
    assert "kd, seed 0" not in trained.labels
    assert not _errors(made, "first")


def test_a_worker_goes_past_what_another_holds_and_waits_for_it_at_the_end(tmp_path, trained):
    made = _plan(tmp_path, "ce", "kd")
    first = tmp_path / "runs" / next(iter(made.runs))
    first.mkdir(parents=True)
    with (first / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        worker = threading.Thread(target=work.Worker(made, "first").work)
        worker.start()
        while "kd, seed 0" not in trained.labels:
            time.sleep(0.01)
        assert worker.is_alive()
        assert trained.labels == ["teacher", "kd, seed 0"]
    worker.join(60)
    assert trained.labels[2:] == ["ce, seed 0"]
    assert json.loads((first / "attempts.json").read_text())["starts"] == 1


def test_a_worker_trains_no_more_than_it_is_told(tmp_path, trained):
    work.Worker(_plan(tmp_path, "ce", "kd", "rrd"), "first", most=2).work()
    assert trained.labels == ["teacher", "ce, seed 0", "kd, seed 0"]


def test_a_run_has_its_teacher_in_its_folder_wherever_the_study_is(tmp_path, trained):
    made = _plan(tmp_path / "study", "kd")
    work.Worker(made, "first").work()
    (tmp_path / "study").rename(tmp_path / "moved")
    (run,) = (tmp_path / "moved" / "runs").iterdir()
    assert (run / "teacher" / "checkpoints" / "3").is_dir()


def test_a_teacher_with_a_checkpoint_is_neither_trained_nor_linked(tmp_path, trained):
    made = _plan(tmp_path, "kd", fields={"teacher.checkpoint": "somewhere"})
    work.Worker(made, "first").work()
    assert trained.labels == ["kd, seed 0"]
    (run,) = (tmp_path / "runs").iterdir()
    assert not (run / "teacher").exists()


def test_a_run_that_follows_another_is_made_after_it_by_any_worker(tmp_path, trained):
    made = _following(tmp_path)
    name = next(name for name, run in made.runs.items() if run.after)
    worker = work.Worker(made, "first")
    worker.make(name)
    assert trained.labels == ["teacher", "ce, seed 0", "ce, 0.1, seed 0"]
    fields = json.loads((tmp_path / "runs" / name / "config.json").read_text())
    assert fields["student"]["checkpoint"] == str(tmp_path / "runs" / made.runs[name].after)


def test_a_run_that_follows_a_failed_one_fails(tmp_path, trained):
    made = _following(tmp_path)
    trained.fails["ce, seed 0"] = errors.DivergedError("no")
    work.Worker(made, "first").work()
    assert _errors(made, "first")["ce, 0.1, seed 0"].startswith(
        "the run that it starts from failed"
    )


def test_a_run_that_cannot_be_made_is_told_before_its_teacher_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "train", lambda *arguments: pytest.fail("it is trained"))
    made = _plan(tmp_path, "kd", fields={"train.batch_size": 32})
    work.Worker(made, "first").work()
    (reason,) = _errors(made, "first").values()
    assert "train.batch_size 32 is larger than the training split" in reason
    assert "set --config.train.batch_size=4," in reason
