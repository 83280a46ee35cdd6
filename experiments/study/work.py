"""The worker: makes the runs of a study that nobody has made, and that nobody else is making.

Any number of workers can share a study's folder. A run belongs to whoever holds the lock of its
folder, and so does a teacher; a worker goes past those that are held, and waits at the end. What a
killed worker left behind is free at once, and goes on from its last checkpoint.
"""

import contextlib
import dataclasses
import gc
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from experiments import measures
from experiments.measures import subject
from experiments.study import records
from experiments.study.plan import Plan, Run
from rrd_jax import checkpoints, console, errors, failures, job, report
from rrd_jax.data import Dataset
from rrd_jax.recipe import Part
from rrd_jax.run import finished
from rrd_jax.teacher.frozen import FrozenNetwork

_POLL = 1.0  # seconds between two looks at what others hold
_DEATHS = 3  # of workers at the same run, after which it counts as failed


class Worker:
    """Makes the runs of a plan, one after the other.

    Args:
      plan: what to make.
      launch: a name of this start; what failed in it is not tried again in it.
      most: runs that are trained at most; 0 for all.
    """

    def __init__(self, plan: Plan, launch: str, most: int = 0):
        self._plan, self._launch, self._most = plan, launch, most
        self._teacher: tuple[Any, FrozenNetwork] | None = None
        self._data: tuple[str, Dataset] | None = None
        self._made = 0

    def work(self) -> None:
        """Returns when each run has ended or failed, here or elsewhere.

        Raises:
          PreemptedError: SIGTERM came; the state of the run is saved.
          KeyboardInterrupt: Ctrl-C came; likewise.
        """
        waiting = list(self._plan.runs.values())
        while waiting:
            held = []
            for run in waiting:
                if self._most and self._made >= self._most:
                    return
                try:
                    self._attempt(run)
                except errors.InUseError:
                    held.append(run)
            if len(held) == len(waiting):
                time.sleep(_POLL)
            waiting = held

    def make(self, name: str) -> None:
        """Makes one run, as `Plan.runs` has it; waits where another makes it."""
        _when_free(lambda: self._attempt(self._plan.runs[name]))

    def teach(self, path: str) -> None:
        """Trains a teacher, as `Plan.teachers` has it, unless it is there; waits for another's."""
        run, _ = self._plan.owners[path]
        setting = job.prepare(run.job.student)
        _when_free(lambda: self._ensure_teacher(path, run, setting))

    def _attempt(self, run: Run) -> None:
        """Makes a run, unless it has ended or failed; raises an InUseError where it is held."""
        folder = self._folder(run)
        is_done = is_finished(folder, run.epochs) and not self._unmeasured(run)
        if is_done or self._has_failed(run):
            return
        try:
            self._check_start(run)
            with failures.translated():
                setting = self._setting(run)
                for path in filter(self._plan.owners.get, run.teachers):
                    self._ensure_teacher(path, run, setting)
                with job.claim(folder, run.job, self._part(run)), self._counted(run):
                    self._make(run, setting)
        except (errors.InUseError, errors.PreemptedError, errors.LostError):
            raise
        except (errors.DiskError, errors.UnreadError):
            raise  # every other run would end so
        except Exception as error:  # an objective or a network of the user can raise anything
            self._fail(run, error)
        finally:
            jax.clear_caches()  # programs of a run are no other's
            gc.collect()

    def _check_start(self, run: Run) -> None:
        """Raises an error where the run that this one starts from is not finished."""
        if not run.after:
            return
        before = self._plan.runs[run.after]
        if self._has_failed(before):
            raise errors.InputError(f"the run that it starts from failed: {self._folder(before)}")
        if not is_finished(self._folder(before), before.epochs):
            raise errors.InUseError(f"{self._folder(before)} is not finished")

    def _make(self, run: Run, setting: job.Setting) -> None:
        """Trains a run whose teachers are there, and measures it."""
        folder, student, dataset = self._folder(run), self._part(run), setting.dataset
        self._link_teachers(run)
        if not finished(folder, run.epochs, dataset.version):
            job.describe(dataset, folder)
            teacher = self._get_teacher(run, setting) if run.teachers else None
            result = job.train(student, folder, setting, teacher)
            report.write_json(folder / "results.json", [result._asdict()])
            console.say(f"[{result.label}] test top-1 {result.top1:.2f}")
            self._made += 1
        self._measure(run, dataset)
        (folder / records.FAILED).unlink(missing_ok=True)

    def _part(self, run: Run) -> Part:
        """The student's part, with the folder of the network that it starts from."""
        student = run.job.student
        if not run.after:
            return student
        path = str(self._plan.folder / "runs" / run.after)
        start = dataclasses.replace(student.training.start, checkpoint=path)
        fields = {**student.fields, "student": {**student.fields["student"], "checkpoint": path}}
        training = dataclasses.replace(student.training, start=start)
        return dataclasses.replace(student, training=training, fields=fields)

    def _setting(self, run: Run) -> job.Setting:
        """Of a run; the images of the last one stay in memory."""
        part = self._part(run)
        key = repr(part.source)
        if self._data is None or self._data[0] != key:
            self._data = self._teacher = None
            self._data = key, job.prepare(part).dataset
        return job.prepare(part, self._data[1])

    def _ensure_teacher(self, path: str, run: Run, setting: job.Setting) -> None:
        """Trains a teacher, unless it is there; raises an InUseError where another does."""
        owner, i = self._plan.owners[path]
        part, folder = owner.job.teachers[i].part, self._plan.folder / path
        if is_finished(folder, part.training.epochs):
            return
        with job.claim(folder, owner.job, part):
            same = part.source == run.job.student.source
            there = setting if same else job.prepare(part)
            job.describe(there.dataset, folder)
            result = job.train(part, folder, there)
            report.write_json(folder / "results.json", [result._asdict()])
        console.say(f"[{result.label}] test top-1 {result.top1:.2f}")

    def _paths(self, run: Run) -> list[pathlib.Path]:
        return [
            pathlib.Path(teacher.checkpoint or self._plan.folder / path)
            for teacher, path in zip(run.job.teachers, run.teachers, strict=True)
        ]

    def _get_teacher(self, run: Run, setting: job.Setting) -> FrozenNetwork:
        """The teacher of a run; that of the run before, where it is the same."""
        training, paths = run.job.student.training, self._paths(run)
        key = (
            *(str(paths), repr(run.job.student.source), training.teacher_weights),
            *(training.mean, training.std, training.eval_batch_size),
        )
        if self._teacher is None or self._teacher[0] != key:
            teachers = tuple(
                dataclasses.replace(teacher, checkpoint=str(path))
                for teacher, path in zip(run.job.teachers, paths, strict=True)
            )
            there = dataclasses.replace(run.job, teachers=teachers)
            self._teacher = None
            self._teacher = key, job.get_teacher(there, self._plan.folder, setting)[1]
        return self._teacher[1]

    def _link_teachers(self, run: Run) -> None:
        """So that the run's folder is one that the job of its config would have made."""
        folder = self._folder(run)
        for teacher, path in zip(run.job.teachers, self._paths(run), strict=True):
            link = folder / teacher.part.training.label
            if not teacher.checkpoint and not os.path.lexists(link):
                link.symlink_to(os.path.relpath(path, folder), target_is_directory=True)

    def _unmeasured(self, run: Run) -> list[str]:
        folder = self._folder(run)
        return [name for name in run.measures if measures.read(folder, name) is None]

    def _measure(self, run: Run, dataset: Dataset) -> None:
        if not (missing := self._unmeasured(run)):
            return
        paths = self._paths(run)
        seen = subject.of_run(self._folder(run), paths[0] if len(paths) == 1 else None, dataset)
        for name in missing:
            measures.measure(self._folder(run), name, seen)

    @contextlib.contextmanager
    def _counted(self, run: Run) -> Iterator[None]:
        """Counts the starts of a run in this launch that do not come to any end of their own.

        Raises:
          InputError: there are many.
        """
        path = self._folder(run) / "attempts.json"
        before = _read(path)
        count = 1 + (before.get("count", 0) if before.get("launch") == self._launch else 0)
        if count > _DEATHS:
            raise errors.InputError(
                f"the process that made it died {_DEATHS} times; {self._plan.folder / 'logs'} has"
                " what it said"
            )
        report.write_json(path, {"launch": self._launch, "count": count})
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def _folder(self, run: Run) -> pathlib.Path:
        return self._plan.folder / "runs" / run.name

    def _has_failed(self, run: Run) -> bool:
        return _read(self._folder(run) / records.FAILED).get("launch") == self._launch

    def _fail(self, run: Run, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if not isinstance(error, errors.InputError | errors.DivergedError | OSError):
            text = f"{type(error).__name__}: {text}"
        console.error(f"{run.label}: {text}")
        path = self._folder(run) / records.FAILED
        path.parent.mkdir(parents=True, exist_ok=True)
        report.write_json(path, {"launch": self._launch, "error": text})


def _when_free(action: Callable[[], None]) -> None:
    """Does what raises an InUseError where another does it; waits for that."""
    while True:
        try:
            return action()
        except errors.InUseError:
            time.sleep(_POLL)


def is_finished(folder: pathlib.Path, epochs: int) -> bool:
    """Whether the checkpoint of a run's last epoch is there."""
    meta = checkpoints.read_meta(folder / "checkpoints")
    return meta is not None and meta.get("epoch", 0) >= epochs


def _read(path: pathlib.Path) -> dict[str, Any]:
    """A small file of JSON; empty where there is none, or a kill has left half of it."""
    try:
        found = errors.read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
