"""The worker, which executes the unfinished runs of a study.

Any number of workers can share a study's folder. A worker locks the folder of a run or teacher. It
skips folders that other workers have locked, and waits for them at the end. When a worker is
killed, its lock is released at once, and another worker resumes the run from the last checkpoint.
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
from rrd_jax import errors, parallel
from rrd_jax.config import unused_fields
from rrd_jax.data import Dataset
from rrd_jax.jobs import job, preflight, same_teacher
from rrd_jax.jobs.progress import finished
from rrd_jax.run_folder import atomic_write, workdir
from rrd_jax.settings import kinds
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console, runtime_errors
from rrd_jax.training import recipe
from rrd_jax.training.recipe import Job, Part

# Seconds between two checks of folders that other workers have locked.
_POLL = 1.0
# Errors that are not failures of a run: another worker has locked the run, or every run would fail.
_NOT_FAILED = (
    *(errors.InUseError, errors.PreemptedError, errors.LostError),
    *(errors.DiskError, errors.UnreadError),
)


class Worker:
    """Executes the runs of a plan one after the other.

    Args:
      plan: the runs.
      launch: the name of this start of the command; runs that failed in this launch are not
        retried.
      max_runs: the maximum number of runs to train; 0 for all.
    """

    def __init__(self, plan: Plan, launch: str, max_runs: int = 0):
        self._plan, self._launch, self._max_runs = plan, launch, max_runs
        self._teacher: tuple[Any, FrozenNetwork] | None = None
        self._data: tuple[str, Dataset] | None = None
        # Teachers that other workers train.
        self._busy: set[str] = set()
        self._trained = 0

    def work(self) -> None:
        """Executes runs until each run has finished or failed, in this worker or another worker.

        Raises:
          PreemptedError: SIGTERM was received; the state of the run is saved.
          KeyboardInterrupt: Ctrl-C was pressed; the state of the run is saved.
        """
        waiting = list(self._plan.runs.values())
        while waiting:
            locked = []
            self._busy.clear()
            for run in waiting:
                if self._max_runs and self._trained >= self._max_runs:
                    return
                try:
                    self._attempt(run)
                except errors.InUseError:
                    locked.append(run)
            if len(locked) == len(waiting):
                time.sleep(_POLL)
            waiting = locked

    def execute(self, name: str) -> None:
        """Executes a run of `Plan.runs`, after the run that it starts from.

        Waits for other workers that have locked the run.
        """
        run = self._plan.runs[name]
        if run.follows:
            self._repeat_until_free(lambda: self._attempt(self._plan.runs[run.follows]))
        self._repeat_until_free(lambda: self._attempt(run))

    def train_teacher(self, path: str) -> None:
        """Trains a teacher of `Plan.teachers` unless it is finished; waits for other workers.

        Raises:
          InputError: the teacher failed; the runs that need the teacher report this error too.
        """
        self._repeat_until_free(lambda: self._ensure_teacher(path))

    def _repeat_until_free(self, action: Callable[[], None]) -> None:
        """Repeats an action until it raises no InUseError."""
        while True:
            self._busy.clear()
            try:
                return action()
            except errors.InUseError:
                local.check_stop()
                time.sleep(_POLL)

    def _attempt(self, run: Run) -> None:
        """Executes a run unless it has finished or failed; raises an InUseError if it is locked."""
        folder = self._folder(run.name)
        local.check_stop()
        if self._is_settled(run):
            return
        if self._busy.intersection(run.teachers):
            raise errors.InUseError(f"another worker trains a teacher of {folder}")
        try:
            self._check_start(run)
            # The study's folder may have been moved since the run started.
            moves = ("student.checkpoint",) if run.follows else ()
            run = self._with_rows(run)
            claim = _claim(folder, run.job, self._part(run), moves)
            with runtime_errors.translated(), claim as confirm:
                # Another worker may have finished the run in the meantime.
                if self._is_settled(run):
                    return
                teachers = [self._plan.folder / path for path in run.teachers]
                with attempts.count_attempt(folder, self._launch, teachers):
                    self._execute_locked(run, confirm)
                attempts.delete_failure(folder)
        except _NOT_FAILED:
            raise
        # A user's objective or network can raise anything.
        except Exception as error:
            console.error(f"{run.label}: {attempts.describe(error)}")
            attempts.record_failure(folder, self._launch, error)

    def _with_rows(self, run: Run) -> Run:
        """Returns the run with the sizes of its memories, which may depend on the data set."""
        objectives = run.job.student.training.objectives
        if not any(kinds.is_auto(value) for o in objectives for value in o.options.values()):
            return run
        recorded = workdir.recorded_fields(self._folder(run.name))
        examples = len(self._dataset(self._part(run)).train)
        return dataclasses.replace(run, job=run.job.with_rows(examples, recorded))

    def _is_settled(self, run: Run) -> bool:
        return is_done(self._plan, run) or bool(self._failure(self._folder(run.name)))

    def _check_start(self, run: Run) -> None:
        """Raises an error if the run that `run` starts from is not finished."""
        if not run.follows:
            return
        previous, folder = self._plan.runs[run.follows], self._folder(run.follows)
        if is_finished(folder, previous.epochs):
            return
        if self._failure(folder):
            raise errors.InputError(
                f"the run that it starts from failed: {folder}; fix that run first"
            )
        raise errors.InUseError(f"{folder} is not finished")

    def _execute_locked(self, run: Run, confirm: Callable) -> None:
        """Trains the missing teachers of a run, trains the run, and computes its measures.

        Args:
          run: the run, whose folder is locked.
          confirm: stores the config of the run, see `job.claim`.
        """
        folder, student = self._folder(run.name), self._part(run)
        try:
            dataset = self._dataset(student)
            if not is_finished(folder, run.epochs):
                # The check comes before the training of a teacher, which can take hours.
                mesh = parallel.make_mesh(axes=student.training.mesh)
                preflight.check(run.job, dataset, self._paths(run), mesh)
            for path in filter(self._plan.owners.get, run.teachers):
                self._ensure_teacher(path)
            self._link_teachers(run)
            if not finished(folder, run.epochs, dataset.version):
                setting = job.prepare(student, dataset)
                setting = setting._replace(dataset=job.with_subsets(run.job, setting.dataset))
                teacher = self._get_teacher(run, setting) if run.teachers else None
                if teacher:
                    plan = recipe.create(student.training, dataset.num_classes, len(dataset.train))
                    preflight.check_teacher(plan, dataset, teacher.network)
                    same_teacher.check_weights([folder], teacher)
                confirm()
                _train(student, folder, setting, teacher)
                self._trained += 1
            self._measure(run, dataset)
        finally:
            # Runs do not share compiled programs.
            jax.clear_caches()
            gc.collect()

    def _part(self, run: Run) -> Part:
        """Returns the student's part, with the folder of the run to start from."""
        student = run.job.student
        if not run.follows:
            return student
        path = str(self._folder(run.follows))
        start = dataclasses.replace(student.training.start, checkpoint=path)
        training = dataclasses.replace(student.training, start=start)
        student = student.with_fields({"student.checkpoint": path})
        return dataclasses.replace(student, training=training)

    def _dataset(self, part: Part) -> Dataset:
        """Returns the data set of a part; the most recent data set stays in memory."""
        key = repr(part.source)
        if self._data is None or self._data[0] != key:
            self._data = self._teacher = None
            self._data = key, job.prepare(part).dataset
        return self._data[1]

    def _ensure_teacher(self, path: str) -> None:
        """Trains a teacher unless it is finished.

        Raises:
          InUseError: another worker trains the teacher.
          InputError: the teacher fails, or has failed in this launch.
        """
        owner, i = self._plan.owners[path]
        part, folder = owner.job.teachers[i].part, self._plan.folder / path
        if is_finished(folder, part.training.epochs):
            return
        if reason := self._failure(folder):
            raise errors.InputError(f"the teacher of the run failed: {reason}")
        try:
            with runtime_errors.translated(), _claim(folder, owner.job, part) as confirm:
                if is_finished(folder, part.training.epochs):
                    return
                dataset = self._data and self._data[0] == repr(part.source) and self._data[1]
                confirm()
                with attempts.count_attempt(folder, self._launch):
                    _train(part, folder, job.prepare(part, dataset or None))
                attempts.delete_failure(folder)
        except errors.InUseError:
            self._busy.add(path)
            raise
        except _NOT_FAILED:
            raise
        except Exception as error:
            attempts.record_failure(folder, self._launch, error)
            raise errors.InputError(
                f"the teacher of the run failed: {attempts.describe(error)}"
            ) from error

    def _paths(self, run: Run) -> list[pathlib.Path]:
        return [
            pathlib.Path(teacher.checkpoint or self._plan.folder / path)
            for teacher, path in zip(run.job.teachers, run.teachers, strict=True)
        ]

    def _get_teacher(self, run: Run, setting: job.Setting) -> FrozenNetwork:
        """Returns the teacher of a run; the next run reuses it if it has the same teacher."""
        training, paths = run.job.student.training, self._paths(run)
        networks = [(teacher.network, teacher.teaching) for teacher in run.job.teachers]
        key = (
            *(str(paths), repr(networks), repr(run.job.student.source), training.teacher_weights),
            *(training.mean, training.std, training.eval_batch_size, repr(training.alignment)),
        )
        if self._teacher is None or self._teacher[0] != key:
            teachers = tuple(
                dataclasses.replace(teacher, checkpoint=str(path))
                for teacher, path in zip(run.job.teachers, paths, strict=True)
            )
            trained_job = dataclasses.replace(run.job, teachers=teachers)
            self._teacher = None
            self._teacher = key, job.load_teacher(trained_job, self._plan.folder, setting)[1]
        return self._teacher[1]

    def _link_teachers(self, run: Run) -> None:
        """Links the teachers into the run's folder, where a run outside a study stores them."""
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
    """Returns True if a run has finished all epochs and has all measures."""
    folder = plan.folder / "runs" / run.name
    return is_finished(folder, run.epochs) and not _unmeasured(plan, run)


def _unmeasured(plan: Plan, run: Run) -> list[str]:
    # Alignment compares the student with a single teacher.
    measured = [n for n in run.measures if len(run.teachers) == 1 or n not in measures.NEED_TEACHER]
    return [name for name in measured if not _is_measured(plan.folder / "runs" / run.name, name)]


def _is_measured(folder: pathlib.Path, name: str) -> bool:
    try:
        return measures.read(folder, name) is not None
    # The measure of a damaged file is computed again.
    except errors.InputError:
        return False


def _train(
    part: Part,
    folder: pathlib.Path,
    setting: job.Setting,
    teacher: FrozenNetwork | None = None,
) -> None:
    """Trains a network in its folder, which this process has locked."""
    job.describe(setting.dataset, folder)
    result = job.train(part, folder, setting, teacher)
    atomic_write.write_json(folder / "results.json", [result.to_json()])
    if result.top1 is not None:
        console.say(f"[{result.label}] test top-1 {result.top1:.2f}")


def _claim(
    folder: pathlib.Path, study_job: Job, part: Part, free: tuple[str, ...] = ()
) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """Locks a folder; fields without effect may differ from those of the previous start.

    Args:
      folder: the folder of a run or teacher.
      study_job: the job of the run.
      part: the part of the job that trains in the folder.
      free: other fields that may differ.
    """
    free = (*study_job.free_fields, *unused_fields(part.fields), *free)
    return job.claim(folder, dataclasses.replace(study_job, free_fields=free), part)
