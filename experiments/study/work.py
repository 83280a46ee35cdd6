"""The worker: makes the runs of a study that are not finished and that no other worker makes.

Any number of workers can share a study's folder. A worker locks the folder of a run or teacher; it
skips folders that others hold, and waits for them at the end. The lock of a killed worker is
released at once, and its run resumes from the last checkpoint.
"""

import contextlib
import dataclasses
import gc
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

from experiments import measures
from experiments.study import attempts, local
from experiments.study.attempts import is_finished
from experiments.study.plan import Plan, Run
from rrd_jax import errors
from rrd_jax.config import unused_fields
from rrd_jax.data import Dataset
from rrd_jax.jobs import job, preflight
from rrd_jax.jobs.progress import finished
from rrd_jax.run_folder import atomic_write
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console, runtime_errors
from rrd_jax.training import recipe
from rrd_jax.training.recipe import Job, Part

_POLL = 1.0  # Seconds between two looks at folders that others hold.
# Errors that do not belong to a run: another worker holds it, or every run would fail so.
_NOT_FAILED = (
    *(errors.InUseError, errors.PreemptedError, errors.LostError),
    *(errors.DiskError, errors.UnreadError),
)


class Worker:
    """Makes the runs of a plan, one after the other.

    Args:
      plan: the runs.
      launch: the name of this start of the command; runs that failed in it are not retried.
      most: the largest number of runs to train; 0 for all.
    """

    def __init__(self, plan: Plan, launch: str, most: int = 0):
        self._plan, self._launch, self._most = plan, launch, most
        self._teacher: tuple[Any, FrozenNetwork] | None = None
        self._data: tuple[str, Dataset] | None = None
        self._busy: set[str] = set()  # Teachers that others train.
        self._made = 0

    def work(self) -> None:
        """Makes runs until each has finished or failed, in this worker or another.

        Raises:
          PreemptedError: SIGTERM came; the state of the run is saved.
          KeyboardInterrupt: Ctrl-C came; likewise.
        """
        waiting = list(self._plan.runs.values())
        while waiting:
            held = []
            self._busy.clear()
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
        """Makes one run of `Plan.runs`, after the run that it starts from; waits for others."""
        run = self._plan.runs[name]
        if run.after:
            self._when_free(lambda: self._attempt(self._plan.runs[run.after]))
        self._when_free(lambda: self._attempt(run))

    def teach(self, path: str) -> None:
        """Trains a teacher of `Plan.teachers` unless it is finished; waits for other workers.

        Raises:
          InputError: the teacher failed; the runs that need it report this too.
        """
        self._when_free(lambda: self._ensure_teacher(path))

    def _when_free(self, action: Callable[[], None]) -> None:
        """Repeats an action until it raises no InUseError."""
        while True:
            self._busy.clear()
            try:
                return action()
            except errors.InUseError:
                time.sleep(_POLL)

    def _attempt(self, run: Run) -> None:
        """Makes a run unless it has finished or failed; raises an InUseError if it is held."""
        folder = self._folder(run.name)
        local.check_stop()
        if self._is_settled(run):
            return
        if self._busy.intersection(run.teachers):
            raise errors.InUseError(f"a teacher of {folder} is in use")
        try:
            self._check_start(run)
            # The study's folder may have been moved since the run began.
            moves = ("student.checkpoint",) if run.after else ()
            with runtime_errors.translated(), _claim(folder, run.job, self._part(run), moves):
                if self._is_settled(run):  # Another worker made it in the meantime.
                    return
                teachers = [self._plan.folder / path for path in run.teachers]
                with attempts.counted(folder, self._launch, teachers):
                    self._make(run)
                attempts.forget_failure(folder)
        except _NOT_FAILED:
            raise
        except Exception as error:  # A user's objective or network can raise anything.
            console.error(f"{run.label}: {attempts.describe(error)}")
            attempts.keep_failure(folder, self._launch, error)

    def _is_settled(self, run: Run) -> bool:
        return is_done(self._plan, run) or bool(self._failure(self._folder(run.name)))

    def _check_start(self, run: Run) -> None:
        """Raises an error if the run that this one starts from is not finished."""
        if not run.after:
            return
        before, folder = self._plan.runs[run.after], self._folder(run.after)
        if is_finished(folder, before.epochs):
            return
        if self._failure(folder):
            raise errors.InputError(f"the run that it starts from failed: {folder}")
        raise errors.InUseError(f"{folder} is not finished")

    def _make(self, run: Run) -> None:
        """Trains the missing teachers of a run, then the run, and measures it."""
        folder, student = self._folder(run.name), self._part(run)
        try:
            dataset = self._dataset(student)
            if not is_finished(folder, run.epochs):
                preflight.check(
                    run.job, dataset, self._paths(run)
                )  # Before hours of training a teacher.
            for path in filter(self._plan.owners.get, run.teachers):
                self._ensure_teacher(path)
            self._link_teachers(run)
            if not finished(folder, run.epochs, dataset.version):
                setting = job.prepare(student, dataset)
                setting = setting._replace(
                    dataset=job.with_labelled_subset(run.job, setting.dataset)
                )
                teacher = self._get_teacher(run, setting) if run.teachers else None
                if teacher:
                    plan = recipe.create(student.training, dataset.num_classes, len(dataset.train))
                    preflight.check_teacher(plan, dataset, teacher.network)
                _train(student, folder, setting, teacher)
                self._made += 1
            self._measure(run, dataset)
        finally:
            jax.clear_caches()  # Runs do not share compiled programs.
            gc.collect()

    def _part(self, run: Run) -> Part:
        """Returns the student's part, with the folder of the run that it starts from."""
        student = run.job.student
        if not run.after:
            return student
        path = str(self._folder(run.after))
        start = dataclasses.replace(student.training.start, checkpoint=path)
        fields = {**student.fields, "student": {**student.fields["student"], "checkpoint": path}}
        training = dataclasses.replace(student.training, start=start)
        return dataclasses.replace(student, training=training, fields=fields)

    def _dataset(self, part: Part) -> Dataset:
        """Returns the data set of a part; the last one stays in memory."""
        key = repr(part.source)
        if self._data is None or self._data[0] != key:
            self._data = self._teacher = None
            self._data = key, job.prepare(part).dataset
        return self._data[1]

    def _ensure_teacher(self, path: str) -> None:
        """Trains a teacher unless it is finished; raises an InUseError if another worker does.

        Raises:
          InputError: the teacher fails, or has failed in this launch.
        """
        owner, i = self._plan.owners[path]
        part, folder = owner.job.teachers[i].part, self._plan.folder / path
        if is_finished(folder, part.training.epochs):
            return
        if why := self._failure(folder):
            raise errors.InputError(f"its teacher failed: {why}")
        try:
            with runtime_errors.translated(), _claim(folder, owner.job, part):
                if is_finished(folder, part.training.epochs):
                    return
                kept = self._data and self._data[0] == repr(part.source) and self._data[1]
                with attempts.counted(folder, self._launch):
                    _train(part, folder, job.prepare(part, kept or None))
                attempts.forget_failure(folder)
        except errors.InUseError:
            self._busy.add(path)
            raise
        except _NOT_FAILED:
            raise
        except Exception as error:
            attempts.keep_failure(folder, self._launch, error)
            raise errors.InputError(f"its teacher failed: {attempts.describe(error)}") from error

    def _paths(self, run: Run) -> list[pathlib.Path]:
        return [
            pathlib.Path(teacher.checkpoint or self._plan.folder / path)
            for teacher, path in zip(run.job.teachers, run.teachers, strict=True)
        ]

    def _get_teacher(self, run: Run, setting: job.Setting) -> FrozenNetwork:
        """Returns the teacher of a run, which the next run reuses if it has the same one."""
        training, paths = run.job.student.training, self._paths(run)
        networks = [(teacher.network, teacher.teaching) for teacher in run.job.teachers]
        key = (
            *(str(paths), repr(networks), repr(run.job.student.source), training.teacher_weights),
            *(training.mean, training.std, training.eval_batch_size),
        )
        if self._teacher is None or self._teacher[0] != key:
            teachers = tuple(
                dataclasses.replace(teacher, checkpoint=str(path))
                for teacher, path in zip(run.job.teachers, paths, strict=True)
            )
            there = dataclasses.replace(run.job, teachers=teachers)
            self._teacher = None
            self._teacher = key, job.load_teacher(there, self._plan.folder, setting)[1]
        return self._teacher[1]

    def _link_teachers(self, run: Run) -> None:
        """Links the teachers into the run's folder, as a run without a study would contain them."""
        folder = self._folder(run.name)
        for teacher, path in zip(run.job.teachers, self._paths(run), strict=True):
            link = folder / teacher.part.training.label
            if not teacher.checkpoint and not os.path.lexists(link):
                link.symlink_to(os.path.relpath(path, folder), target_is_directory=True)

    def _measure(self, run: Run, dataset: Dataset) -> None:
        if not (missing := _unmeasured(self._plan, run)):
            return
        paths, folder = self._paths(run), self._folder(run.name)
        outputs = measures.run_outputs(folder, paths[0] if len(paths) == 1 else None, dataset)
        for name in missing:
            measures.measure(folder, name, outputs)

    def _folder(self, name: str) -> pathlib.Path:
        return self._plan.folder / "runs" / name

    def _failure(self, folder: pathlib.Path) -> str:
        return attempts.failure(folder, self._launch)


def is_done(plan: Plan, run: Run) -> bool:
    """Returns True if a run has finished all epochs and is measured."""
    folder = plan.folder / "runs" / run.name
    return is_finished(folder, run.epochs) and not _unmeasured(plan, run)


def _unmeasured(plan: Plan, run: Run) -> list[str]:
    # Alignment compares the student with a single teacher.
    measured = [n for n in run.measures if len(run.teachers) == 1 or n not in measures.NEED_TEACHER]
    return [name for name in measured if not _is_measured(plan.folder / "runs" / run.name, name)]


def _is_measured(folder: pathlib.Path, name: str) -> bool:
    try:
        return measures.read(folder, name) is not None
    except errors.InputError:  # A damaged file is measured again.
        return False


def _train(
    part: Part,
    folder: pathlib.Path,
    setting: job.Setting,
    teacher: FrozenNetwork | None = None,
) -> None:
    """Trains a network in its folder, which this process holds."""
    job.describe(setting.dataset, folder)
    result = job.train(part, folder, setting, teacher)
    atomic_write.write_json(folder / "results.json", [result.to_json()])
    if result.top1 is not None:
        console.say(f"[{result.label}] test top-1 {result.top1:.2f}")


def _claim(
    folder: pathlib.Path, study_job: Job, part: Part, free: tuple[str, ...] = ()
) -> contextlib.AbstractContextManager[None]:
    """Locks a folder; fields without effect may differ from those of the previous start.

    Args:
      folder: of a run or teacher.
      study_job: the job of the folder.
      part: of the job.
      free: other fields that may differ.
    """
    free = (*study_job.free_fields, *unused_fields(part.fields), *free)
    return job.claim(folder, dataclasses.replace(study_job, free_fields=free), part)
