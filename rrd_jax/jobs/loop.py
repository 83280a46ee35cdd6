"""Training of one student: the loop over steps and epochs."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from rrd_jax import checkpoints, data, parallel
from rrd_jax.data import sanity
from rrd_jax.data.augment.views import Views
from rrd_jax.data.feeds import feed
from rrd_jax.evaluation import predictions
from rrd_jax.jobs import description, epoch, program, student_evaluation
from rrd_jax.jobs import run as runs
from rrd_jax.jobs.progress import Result, finished
from rrd_jax.jobs.run import Position, Run
from rrd_jax.jobs.steps import Steps
from rrd_jax.jobs.student_evaluation import Evaluation
from rrd_jax.objectives.batch import Batch
from rrd_jax.run_folder import jax_settings, startup_time, tracing
from rrd_jax.run_folder.metrics_writer import Clock, MetricsWriter, speeds
from rrd_jax.run_folder.trackers import writers
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console, interrupts
from rrd_jax.training import stage
from rrd_jax.training.recipe import Recipe, Training
from rrd_jax.training.step import Split
from rrd_jax.weights import pretrained

# The share of time that steps may wait for images without a warning.
_MAX_WAIT = 0.05


@jax_settings.pinned_prng()
def fit(
    recipe: Recipe,
    folder: pathlib.Path,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    teacher: FrozenNetwork | None = None,
    *,
    start: pretrained.InitialWeights | None = None,
    profile: int = 0,
) -> Result:
    """Trains a student to the end of its epochs; resumes from the newest checkpoint, if any.

    Args:
      recipe: the student, its loss and its training settings.
      folder: the run folder; receives checkpoints, metrics and the trace.
      dataset: training and test split.
      mesh: the devices.
      teacher: the teacher; None if no objective needs a teacher.
      start: initial weights; None to read the weights of the recipe, if any.
      profile: number of steps to trace; 0 for no trace.

    Raises:
      DivergedError: a loss is not finite.
      InputError: a checkpoint can be neither read nor written.
      KeyboardInterrupt: Ctrl-C was pressed; the state is saved.
      PreemptedError: the process received SIGTERM or SIGHUP; the state is saved.
    """
    if result := finished(folder, recipe.training.epochs, dataset.version):
        if profile:
            console.warn(f"profile: no steps traced, because the run in {folder} is finished")
        return result
    writers.check(recipe.training.report)
    with (
        parallel.stop_requests() as request,
        contextlib.ExitStack() as stack,
        checkpoints.Checkpoints(folder / "checkpoints") as manager,
    ):
        run = runs.create(recipe, folder, dataset, mesh, teacher, manager)
        if teacher:
            teacher.examine()
        position = runs.resume(run) or _begin(run, start)
        startup_time.phase("state")
        trace = tracing.Trace(folder.absolute() / "profile", profile)
        _train(run, position, _Stops(request, position, stack), trace)
        return Result(**position.progress.result)


def _begin(run: Run, start: pretrained.InitialWeights | None) -> Position:
    """Creates the initial state, and trains or resumes the stages before distillation."""
    position = runs.begin(run, start)
    for name, objective in run.recipe.objectives.items():
        if not objective.stage:
            continue
        recipe, folder = stage.stage_recipe(run.recipe, name), run.folder / f"before-{name}"
        fit(recipe, folder, run.dataset, run.mesh, run.teacher, start=start)
        abstract = program.abstract_state(
            recipe, run.mesh, run.dataset.image_shape, run.teacher_network
        )
        with checkpoints.Checkpoints(folder / "checkpoints") as manager:
            end, _ = manager.restore(abstract)
        after = functools.partial(
            stage.state_after_stage, name=name, trains_student=objective.stage.student
        )
        shardings = jax.tree.map(lambda leaf: leaf.sharding, run.program.abstract)
        position.state = jax.jit(after, out_shardings=shardings)(position.state, end)
    return position


class _Stops:
    """Requests to stop a run by a signal.

    Args:
      request: stop requests from `parallel.stop_requests`.
      position: the position of the run.
      stack: receives the context `interrupts.postponed` after the first step.
    """

    def __init__(
        self, request: parallel.StopRequests, position: Position, stack: contextlib.ExitStack
    ):
        self._request, self._position, self._stack = request, position, stack
        self._signal, self._can_save = 0, False

    def after_step(self) -> bool:
        """Returns True if the run has to stop after a step; from now on the run can be saved."""
        self._signal = self._request(self._position.step)
        if parallel.process_share() == (0, 1) and not self._can_save:
            self._can_save = True
            self._stack.enter_context(interrupts.postponed())
        return bool(self._signal)

    def between_steps(self) -> bool:
        """Returns True if the run has to stop at once; False with several processes."""
        if parallel.process_share() == (0, 1):
            self._signal = self._request(self._position.step)
        return bool(self._signal)

    def error(self, folder: pathlib.Path) -> BaseException:
        """Creates the exception that ends the run in `folder` after its state is saved."""
        return interrupts.error(
            self._signal,
            f"; step {self._position.step} is saved in {folder / 'checkpoints'}; run the same"
            " command again to resume",
        )


class _Speed:
    """Speed of a run: its clock, and measurements that are reported once.

    Args:
      clock: the clock of the run.
    """

    def __init__(self, clock: Clock):
        self.clock = clock
        self._seconds_to_start: float | None = None
        self._warned = False

    def timed(
        self, calls: Iterator[tuple[int, Batch | Split]]
    ) -> Iterator[tuple[int, Batch | Split]]:
        """Yields the calls, and adds the time of waiting for their input to the clock."""
        while True:
            start = time.monotonic()
            call = next(calls, None)
            self.clock.add_wait(time.monotonic() - start)
            if call is None:
                return
            yield call

    def note_first_step(self, label: str, logged: Any) -> None:
        """Logs the time from the start of the command to the end of the first step."""
        jax.block_until_ready(logged)
        startup_time.phase("step")
        spent = startup_time.end()
        self._seconds_to_start = sum(spent.values())
        console.say(f"[{label}] {startup_time.format_phases(spent)}")

    def measurements(self, run: Run, step: int) -> dict[str, float]:
        """Returns the speed since the mark of the clock, as entries of a row."""
        peak = run.mesh.size * parallel.peak_flops(run.mesh.devices.flat[0].device_kind)
        wait_share = None if run.dataset.train.on_device else self.clock.wait_share()
        if wait_share and wait_share > _MAX_WAIT and not self._warned:
            self._warned = True
            console.warn(
                f"[{run.training.label}] input-bound: steps wait for images {wait_share:.0%} of the"
                " time; try `pip install 'rrd_jax[nvimgcodec]'`, data.keep=on, smaller images on"
                " disk (`prepare --resize`), data.feed=resident or more data.workers"
            )
        start, self._seconds_to_start = self._seconds_to_start, None
        return speeds(
            self.clock.rate(step),
            run.training.batch_size,
            2 * run.program.multiply_adds,
            peak,
            wait_share,
            start,
        )


class _Session(NamedTuple):
    """Evaluation, metrics, speed and stop requests of one start of a run."""

    evaluation: Evaluation
    metrics: MetricsWriter
    speed: _Speed
    stops: _Stops


def _train(run: Run, position: Position, stops: _Stops, trace: tracing.Trace) -> None:
    """Trains from a position to the end of the last epoch."""
    evaluation = student_evaluation.create(run)
    speed = _Speed(Clock(position.progress.seconds, position.step))
    label, writes = run.training.label, parallel.is_main()
    try:
        with (
            MetricsWriter(
                run.folder, label, position.step, run.training.report, writes=writes
            ) as metrics,
            trace,
        ):
            metrics.start(description.describe(run), position.step, run.steps_per_epoch)
            session = _Session(evaluation, metrics, speed, stops)
            _make_steps(run, position, session, trace)
            run.checkpoints.wait()
            metrics.finish(position.progress.result)
    except OSError as error:
        # The disk can also fill up between two checkpoints.
        raise run.checkpoints.disk_error(error, "the run stopped") from error


def _make_steps(run: Run, position: Position, session: _Session, trace: tracing.Trace) -> None:
    speed, is_resident, first_step = session.speed, run.dataset.train.on_device, position.step
    teacher = _teacher(run, session.stops)
    speed.clock.begin(position.step)
    # The previous start was stopped during the evaluation of this epoch.
    if position.step // run.steps_per_epoch > position.progress.epoch:
        _end_epoch(run, position, session)
    rows = run.teacher.cache.rows if run.cache.place in ("host", "file") else None
    pending: list[tuple[int, Any]] = []
    steps = Steps(run)
    calls = dispatches(run.recipe, run.dataset, run.mesh, run.program.length, position.step, rows)
    with contextlib.closing(calls):
        for count, batch in speed.timed(calls):
            start = time.monotonic()
            if steps.prepare(position.step, count, teacher, batch):
                speed.clock.exclude(time.monotonic() - start)
                speed.clock.mark(position.step)
            interrupts.check()
            logged = steps(position, count, teacher, batch)
            if startup_time.is_timing():
                speed.note_first_step(run.training.label, logged)
            pending.append((count, logged))
            trace.after(count, logged)
            if not is_resident and len(pending) > 2:
                # At most two calls are in flight: one computes while the next batch is transferred.
                jax.block_until_ready(pending[-3])
            # The first call can include compilation.
            if position.step == first_step + count and position.step % run.steps_per_epoch:
                speed.clock.mark(position.step)
            _after_call(run, position, session, pending)


def _teacher(run: Run, stops: _Stops) -> Any:
    """Returns the teacher's variables or cached embeddings for the steps."""
    if not run.teacher_network:
        return None
    if not run.teacher_is_cached:
        return run.teacher.variables
    return run.teacher.cache.load(run.training.augment, run.cache.place, stops.between_steps)


def _after_call(
    run: Run, position: Position, session: _Session, pending: list[tuple[int, Any]]
) -> None:
    """Checks the losses, evaluates, saves and stops, depending on the step."""
    step, every, count = position.step, run.training.save_every, pending[-1][0]
    ends_epoch = step % run.steps_per_epoch == 0
    saves = every and step % every < count
    stops = session.stops.after_step()
    waiting = sum(count for count, _ in pending)
    if ends_epoch or saves or stops or waiting >= run.training.log_every:
        calls = jax.device_get([logged for _, logged in pending])
        pending.clear()
        logged = {n: np.concatenate([np.ravel(call[n]) for call in calls]) for n in calls[0]}
        epoch.add(run, position, logged, first=step - waiting + 1)
        _show_progress(run, position, session)
    if stops:
        _stop_early(run, position, session)
    elif ends_epoch:
        _end_epoch(run, position, session)
    elif saves:
        runs.save(run, position, session.speed.clock.total())


def _show_progress(run: Run, position: Position, session: _Session) -> None:
    step, clock = position.step, session.speed.clock
    session.metrics.progress(
        step,
        run.steps_per_epoch,
        run.training.epochs,
        epoch.learning_rate(run, position),
        clock.rate(step) * run.training.batch_size,
        clock.left(step, run.training.epochs * run.steps_per_epoch),
        epoch.mean_losses(run, position),
    )


def _end_epoch(run: Run, position: Position, session: _Session) -> None:
    """Evaluates the student, logs the metrics of the epoch and saves a checkpoint."""
    clock, measurements = session.speed.clock, session.speed.measurements(run, position.step)
    try:
        evaluated = student_evaluation.evaluate(
            session.evaluation, run, position, session.stops.between_steps
        )
    except predictions.StoppedError:
        _stop_early(run, position, session)
    row = epoch.end(run, position, evaluated, measurements)
    left = clock.left(position.step, run.training.epochs * run.steps_per_epoch)
    session.metrics.row(row, run.training.epochs, left)
    clock.mark(position.step)
    runs.save(run, position, clock.total(), row)


def _stop_early(run: Run, position: Position, session: _Session) -> NoReturn:
    """Saves the state and ends the run."""
    runs.save(run, position, session.speed.clock.total())
    run.checkpoints.wait()
    raise session.stops.error(run.folder)


def dispatches(
    recipe: Recipe,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    length: int,
    start: int,
    rows: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]] | None = None,
) -> Iterator[tuple[int, Batch | Split]]:
    """Yields the input of each call of the train step, from a start step to the last step.

    Args:
      recipe: settings of the epochs and batches.
      dataset: training and test split.
      mesh: the devices.
      length: steps per call with a resident split.
      start: the first step.
      rows: (index [B], view [B]) -> cached rows of the teacher from the host, as in Batch; the
        length is then 1. None if the host has no cached rows.

    Yields:
      (steps of the call, a batch of a streamed split or the Split of a resident split).
    """
    training, split = recipe.training, dataset.train
    size, seed = training.batch_size, training.seed
    steps_per_epoch = len(split) // size
    total = training.epochs * steps_per_epoch
    if not split.on_device:
        stream = split.train_batches(size, seed, start, total, parallel.process_share())
        with contextlib.closing(stream):
            for i, batch in enumerate(stream):
                label, index = batch.pop("label"), batch["index"]
                if dataset.labelled:
                    sanity.check_labels(label, dataset.num_classes, "training", index)
                    batch["label"] = label
                if not start and not i:
                    _check_images(batch["image"], training)
                if rows:
                    batch["rows"] = rows(index, batch["view"])
                arrays = parallel.put_batch(mesh, batch)
                yield 1, Batch(label=arrays.pop("label", None), **arrays)
        return
    length = 1 if rows else length
    labels = None
    if dataset.labelled:
        labels = split.labels
        sanity.check_labels(labels, dataset.num_classes, "training")
    if not start:
        _check_images(split.images[feed.epoch_order(seed, 0, size, len(split))[0]], training)
    replicated, by_example = parallel.replicated(mesh), parallel.split(mesh, axis=1)
    images, labels = parallel.put(replicated, (split.images.reshape(len(split), -1), labels))
    step, order = start, None
    while step < total:
        epoch, done = divmod(step, steps_per_epoch)
        if order is None or not done:
            order, view = _order_and_views(training, split, epoch)
            placed = parallel.put(by_example, (order, view))
        count, teacher_rows = length if done + length <= steps_per_epoch else 1, {}
        if rows:
            share = rows(parallel.local_share(order[done]), parallel.local_share(view[done]))
            teacher_rows = parallel.put_batch(mesh, {"rows": share})
        yield count, Split(images, labels, *placed, **teacher_rows)
        step += count


def _order_and_views(
    training: Training, split: feed.Resident, epoch: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the indices [steps, B] of an epoch, and the views if the step does not draw views."""
    order = feed.epoch_order(training.seed, epoch, training.batch_size, len(split))
    if training.augment.choose is not None:
        return order, None
    views = Views(training.augment.views)
    return order, views.of_epoch(training.seed, epoch, len(split))[order]


def _check_images(images: np.ndarray, training: Training) -> None:
    """Warns about implausible statistics of the first training images."""
    for warning in sanity.image_warnings(images, training.mean, training.std):
        _warn_once(warning)


# The runs of a job train on the same images, so a warning appears only once.
_warn_once = functools.cache(console.warn)
