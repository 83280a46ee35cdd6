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


def _following_plan(folder):
    """Returns a plan of two runs, where the second starts from the network of the first."""
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
    second = dataclasses.replace(
        first, name="second", factors=rate, argument="smoke,ce", follows="first"
    )
    return plan.make(design.Study("mine", "Mine", (first, second)), folder)


@dataclasses.dataclass
class _Training:
    """Labels of trained networks, and errors that training raises, by label."""

    labels: list[str] = dataclasses.field(default_factory=list)
    failures: dict[str, Exception] = dataclasses.field(default_factory=dict)


@pytest.fixture
def training(monkeypatch):
    """A record of calls that replaces the training of networks."""
    record = _Training()

    def train(part, folder, setting, teacher=None):
        label = part.training.label
        record.labels.append(label)
        if label in record.failures:
            raise record.failures[label]
        path = folder / "checkpoints" / "3" / "meta" / "metadata"
        path.parent.mkdir(parents=True)
        meta = {"epoch": part.training.epochs}
        path.write_text(json.dumps(digests.seal(meta, {})))
        return job.Result(label, "tiny", 1.0, 1.0, 1, None, 1, 1.0, str(folder))

    monkeypatch.setattr(job, "train", train)
    monkeypatch.setattr(job, "load_teacher", lambda *arguments: ([], None))
    monkeypatch.setattr(preflight, "check", lambda *arguments: None)
    monkeypatch.setattr(work, "_POLL", 0.01)
    return record


def _errors(planned, launch):
    return {
        run.label: error
        for name, run in planned.runs.items()
        if (error := attempts.failure(planned.folder / "runs" / name, launch))
    }


def test_a_failed_run_does_not_stop_the_study_and_is_retried_at_the_next_start(tmp_path, training):
    planned = _plan(tmp_path, "ce", "kd", "rrd")
    training.failures["kd, seed 0"] = ZeroDivisionError("division by zero")
    work.Worker(planned, "first").work()
    assert training.labels == ["teacher", "ce, seed 0", "kd, seed 0", "rrd, seed 0"]
    assert _errors(planned, "first") == {"kd, seed 0": "ZeroDivisionError: division by zero"}
    work.Worker(planned, "first").work()
    assert len(training.labels) == 4
    training.failures.clear()
    work.Worker(planned, "second").work()
    assert training.labels[4:] == ["kd, seed 0"]
    assert not _errors(planned, "first")


def test_a_failed_teacher_is_tried_once_and_fails_the_runs_that_need_it(tmp_path, training):
    planned = _plan(tmp_path, "ce", "kd", "rrd")
    training.failures["teacher"] = errors.DivergedError("the loss is not finite")
    work.Worker(planned, "first").work()
    assert training.labels == ["teacher"]
    reasons = _errors(planned, "first")
    assert len(reasons) == 3
    assert all(r.startswith("the teacher of the run failed: ") for r in reasons.values())
    assert all(r.endswith("the loss is not finite") for r in reasons.values())


@pytest.mark.parametrize(
    "error", [errors.DiskError("full"), errors.PreemptedError("stopped"), errors.LostError("gone")]
)
@pytest.mark.long
def test_an_error_that_affects_all_runs_ends_the_worker(tmp_path, training, error):
    planned = _plan(tmp_path, "ce", "kd")
    training.failures["ce, seed 0"] = error
    with pytest.raises(type(error)):
        work.Worker(planned, "first").work()
    assert "kd, seed 0" not in training.labels
    assert not _errors(planned, "first")


def test_a_worker_skips_a_locked_run_and_waits_for_it_at_the_end(tmp_path, training):
    planned = _plan(tmp_path, "ce", "kd")
    first = tmp_path / "runs" / next(iter(planned.runs))
    first.mkdir(parents=True)
    with (first / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        worker = threading.Thread(target=work.Worker(planned, "first").work)
        worker.start()
        while "kd, seed 0" not in training.labels:
            time.sleep(0.01)
        assert worker.is_alive()
        assert training.labels == ["teacher", "kd, seed 0"]
    worker.join(60)
    assert training.labels[2:] == ["ce, seed 0"]
    assert json.loads((first / "attempts.json").read_text())["starts"] == 1


def test_a_worker_trains_at_most_max_runs(tmp_path, training):
    work.Worker(_plan(tmp_path, "ce", "kd", "rrd"), "first", max_runs=2).work()
    assert training.labels == ["teacher", "ce, seed 0", "kd, seed 0"]


def test_a_run_links_its_teacher_after_the_study_has_moved(tmp_path, training):
    planned = _plan(tmp_path / "study", "kd")
    work.Worker(planned, "first").work()
    (tmp_path / "study").rename(tmp_path / "moved")
    (run,) = (tmp_path / "moved" / "runs").iterdir()
    assert (run / "teacher" / "checkpoints" / "3").is_dir()


def test_a_teacher_with_a_checkpoint_is_neither_trained_nor_linked(tmp_path, training):
    planned = _plan(tmp_path, "kd", fields={"teacher.checkpoint": str(tmp_path)})
    work.Worker(planned, "first").work()
    assert training.labels == ["kd, seed 0"]
    (run,) = (tmp_path / "runs").iterdir()
    assert not (run / "teacher").exists()


def test_a_run_is_executed_after_the_run_that_it_follows(tmp_path, training):
    planned = _following_plan(tmp_path)
    name = next(name for name, run in planned.runs.items() if run.follows)
    worker = work.Worker(planned, "first")
    worker.execute(name)
    assert training.labels == ["teacher", "ce, seed 0", "ce, 0.1, seed 0"]
    fields = json.loads((tmp_path / "runs" / name / "config.json").read_text())
    assert fields["student"]["checkpoint"] == str(tmp_path / "runs" / planned.runs[name].follows)


def test_a_run_that_follows_a_failed_one_fails(tmp_path, training):
    planned = _following_plan(tmp_path)
    training.failures["ce, seed 0"] = errors.DivergedError("no")
    work.Worker(planned, "first").work()
    assert _errors(planned, "first")["ce, 0.1, seed 0"].startswith(
        "the run that it starts from failed"
    )


def test_an_invalid_run_fails_before_its_teacher_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "train", lambda *arguments: pytest.fail("trained"))
    planned = _plan(tmp_path, "kd", fields={"train.batch_size": 32})
    work.Worker(planned, "first").work()
    (reason,) = _errors(planned, "first").values()
    assert "train.batch_size 32 is larger than the training split" in reason
    assert "set --config.train.batch_size=4," in reason
