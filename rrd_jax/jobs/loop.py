"""Training of one student: the loop over steps and epochs."""

import contextlib
import functools
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from rrd_jax import checkpoints, data, errors, parallel
from rrd_jax.cpu import compiling, footprint
from rrd_jax.data import sanity
from rrd_jax.data.augment.views import Views
from rrd_jax.data.feeds import feed
from rrd_jax.evaluation import predictions
from rrd_jax.jobs import held_out, memory_advice, proving
from rrd_jax.jobs.run import Result, Run, finished
from rrd_jax.objectives.batch import Batch
from rrd_jax.run_folder import report, starting, tracing
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console
from rrd_jax.training import stage
from rrd_jax.training.recipe import Recipe, Training
from rrd_jax.training.step import Split


def fit(
    recipe: Recipe,
    folder: pathlib.Path,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    teacher: FrozenNetwork | None = None,
    *,
    profile: int = 0,
) -> Result:
    """Trains a student to the end of its epochs, in as many starts as it takes.

    Args:
      recipe: what to do.
      folder: receives `checkpoints`, `metrics.jsonl`, `tensorboard` and the trace `profile`.
      dataset: training and test split.
      mesh: the devices.
      teacher: None where no objective needs one.
      profile: the number of steps to trace; 0 for none.

    Raises:
      DivergedError: a loss is not finite.
      InputError: a checkpoint can be neither read nor written.
      KeyboardInterrupt: Ctrl-C came; the state is saved.
      PreemptedError: SIGTERM came; the state is saved.
    """
    if result := finished(folder, recipe.training.epochs, dataset.version):
        if profile:
            console.warn(f"nothing is traced; the run in {folder} is finished")
        return result
    with (
        parallel.stop_requests() as stop,
        checkpoints.Checkpoints(folder / "checkpoints") as kept,
    ):
        run = Run(recipe, folder, dataset, mesh, teacher, kept)
        if teacher:
            teacher.examine()
        if not run.resume():
            _begin(run)
        starting.phase("state")
        _Loop(run, stop).train(tracing.Trace(folder.absolute() / "profile", profile))
        return Result(**run.progress.result)


def _begin(run: Run) -> None:
    """A fresh state, after the stages before distillation, or what is left of them."""
    run.begin()
    for name, objective in run.recipe.objectives.items():
        if not objective.stage:
            continue
        recipe, folder = stage.stage_recipe(run.recipe, name), run.folder / f"before-{name}"
        fit(recipe, folder, run.dataset, run.mesh, run.teacher)
        with checkpoints.Checkpoints(folder / "checkpoints") as kept:
            end, _ = kept.restore(run.build(recipe).abstract)
        after = functools.partial(
            stage.state_after_stage, name=name, trains_student=objective.stage.student
        )
        shardings = jax.tree.map(lambda leaf: leaf.sharding, run.program.abstract)
        run.state = jax.jit(after, out_shardings=shardings)(run.state, end)


def dispatches(
    recipe: Recipe,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    length: int,
    start: int,
    rows: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]] | None = None,
) -> Iterator[tuple[int, Batch | Split]]:
    """What each call of the train step is given, from a step to the last.

    Args:
      recipe: whose epochs and batches.
      dataset: training and test split.
      mesh: the devices.
      length: steps that one call of a resident split should make.
      start: the first step.
      rows: (index [B], view [B]) -> what the host keeps of the teacher, as Batch's; None for
        nothing. Calls are of one step then.

    Yields:
      (steps of the call, a batch of a streamed split, or a resident split with its order).
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
                    _look(batch["image"], training)
                if rows:
                    batch["rows"] = rows(index, batch["view"])
                yield 1, Batch(**{"label": None, **parallel.put_batch(mesh, batch)})
        return
    length = 1 if rows else length
    labels = None
    if dataset.labelled:
        labels = split.labels
        sanity.check_labels(labels, dataset.num_classes, "training")
    if not start:
        _look(split.images[feed.epoch_order(seed, 0, size, len(split))[0]], training)
    everywhere, by_example = parallel.replicated(mesh), parallel.split(mesh, axis=1)
    images, labels = parallel.put(everywhere, (split.images.reshape(len(split), -1), labels))
    step, order = start, None
    while step < total:
        epoch, made = divmod(step, steps_per_epoch)
        if order is None or not made:
            order, view = _epoch(training, split, epoch)
            placed = parallel.put(by_example, (order, view))
        count, known = length if made + length <= steps_per_epoch else 1, None
        if rows:
            here = parallel.share_of(order[made]), parallel.share_of(view[made])
            known = parallel.put_batch(mesh, {"rows": rows(*here)})
        yield count, Split(images, labels, *placed, **(known or {}))
        step += count


def _epoch(
    training: Training, split: feed.Resident, epoch: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """[steps, B] of the images that steps of an epoch see, and of their views, if drawn here."""
    order = feed.epoch_order(training.seed, epoch, training.batch_size, len(split))
    if training.augment.choose is not None:
        return order, None
    views = Views(training.augment.views)
    return order, views.of_epoch(training.seed, epoch, len(split))[order]


def _look(images: np.ndarray, training: Training) -> None:
    """Warns of what is doubtful about the first images that a network sees."""
    for doubt in sanity.doubts_about_images(images, training.mean, training.std):
        _warn_once(doubt)


# The student, its teacher and the student alone see the same images.
_warn_once = functools.cache(console.warn)


_WAITS = 0.05  # of the time; where steps wait longer for images, it is said


class _Loop:
    """The steps of one run.

    Args:
      run: begun or resumed.
      stop: of `parallel.stop_requests`.
    """

    def __init__(self, run: Run, stop: parallel.StopRequests):
        self.run, self.stop, self.asked = run, stop, 0
        self.warned_of_input = False
        self.is_late: bool | None = None  # of the program that is compiled; None for none yet
        self.seconds_to_start: float | None = None  # of the command, until a row has it
        self.training, self.steps_per_epoch = run.recipe.training, run.steps_per_epoch
        self.total = self.training.epochs * run.steps_per_epoch
        self.predict = None
        if run.dataset.num_classes:
            self.predict = predictions.compile_predict(
                run.recipe.student,
                self.training.normalize,
                run.mesh,
                run.recipe.objectives,
                fast_cpu=self.training.fast_cpu,
            )
        self.losses = None if run.dataset.labelled else self._held_out_losses()
        self.proof = None
        if run.teacher and self.training.proof:
            self.proof = proving.Proof(run.recipe, run.dataset, run.mesh, run.teacher)
        self.clock = report.Clock(run.progress.seconds, run.step)

    def _held_out_losses(self) -> held_out.Losses:
        """What there is to see of a student without labels; says what there is not."""
        run, label, count = self.run, self.training.label, len(self.run.dataset.test)
        given = (run.program.abstract, run.teacher_network, run.mesh, run.dataset.image_shape)
        losses = held_out.losses(run.recipe, *given)
        if others := [name for name in run.recipe.objectives if name not in losses.names]:
            console.note(
                f"[{label}] the loss of {' and '.join(others)} is of training images alone: it"
                " compares each with what it keeps of that image"
            )
        if losses.names and count < losses.batch_size:
            console.warn(
                f"[{label}] there is no loss of held-out images: {count:,} of them make no batch of"
                f" {losses.batch_size}; look at data.test_split and train.batch_size"
            )
        return losses

    def train(self, trace: tracing.Trace) -> None:
        """Steps to the last epoch's end."""
        run, label = self.run, self.training.label
        try:
            self.report = report.Report(run.folder, label, run.step, writes=parallel.is_main())
            with self.report, trace:
                self.report.start(run.description(), run.step, self.steps_per_epoch)
                self._train(trace)
        except OSError as error:  # the disk fills up between two checkpoints too
            raise run.checkpoints.failed(error, "the run broke off") from error

    def _train(self, trace: tracing.Trace) -> None:
        run, start = self.run, self.run.step
        teacher = self._teacher()
        pending: list[tuple[int, Any]] = []
        if start and start // self.steps_per_epoch > run.progress.epoch:
            self._end_epoch()  # it was stopped in its test
        given = (run.recipe, run.dataset, run.mesh, run.program.length, start)
        calls = dispatches(*given, self._rows())
        with contextlib.closing(calls):
            for count, batch in self._fed(calls):
                logged = self._advance(count, teacher, batch)
                pending.append((count, logged))
                trace.after(count, logged)
                if not run.dataset.train.on_device and len(pending) > 2:
                    # Batches wait on the device: the next is sent while one is used, no more.
                    jax.block_until_ready(pending[-3])
                self._after_call(count, pending, first=run.step == start + count)
        run.checkpoints.wait()

    def _fed(self, calls: Iterator[tuple[int, Batch | Split]]) -> Iterator[tuple[int, Any]]:
        """The calls; what a step waits for them is told to the clock."""
        while True:
            start = time.monotonic()
            call = next(calls, None)
            self.clock.wait(time.monotonic() - start)
            if call is None:
                return
            yield call

    def _teacher(self) -> Any:
        """What steps are given of the teacher: its variables, or its cached embeddings."""
        run = self.run
        if not run.teacher_network:
            return None
        if not run.teacher_is_cached:
            return run.teacher.folded
        given = (self.training.augment, run.cache_place)
        embeddings = run.teacher.cache.get(*given, self._stops_between_steps)
        self.clock.begin(run.step)
        return embeddings

    def _rows(self) -> Callable | None:
        """What batches bring of the teacher, where the host keeps its embeddings."""
        on_host = self.run.cache_place in ("host", "file")
        return self.run.teacher.cache.rows if on_host else None

    def _advance(self, count: int, teacher: Any, batch: Batch | Split) -> Any:
        """Makes `count` steps; returns what they log."""
        run = self.run
        train = run.program.train(run.step, count)
        if self.is_late is not run.program.is_late(run.step):
            self._weigh(train, teacher, batch)
        with tracing.step(run.step):
            run.state, logged = train(run.state, teacher, batch)
        run.step += count
        if starting.counts():
            self._say_start(logged)
        return logged

    def _say_start(self, logged: Any) -> None:
        """Says how long it took from the command to the end of its first step."""
        jax.block_until_ready(logged)
        starting.phase("step")
        spent = starting.end()
        self.seconds_to_start = sum(spent.values())
        console.say(f"[{self.training.label}] {starting.described(spent)}")

    def _weigh(self, train: Callable, teacher: Any, batch: Batch | Split) -> None:
        """Says what memory a step takes.

        Raises:
          InputError: it is more than a device has.
        """
        run, label = self.run, self.training.label
        changes, self.is_late = self.is_late is not None, run.program.is_late(run.step)
        if changes:
            console.progress(label, ["steps are compiled once more, with oneDNN"])
        given = {"the state": run.program.abstract, "the teacher": teacher, "the images": batch}
        compiled = compiling.compiled(train, *given.values())
        there, recipe, devices = parallel.device_bytes(run.mesh), run.recipe, run.mesh.size
        fields = {
            "the state": memory_advice.of_state(recipe, devices),
            "the teacher": ["teacher.cache=off"] if run.cache_place == "device" else [],
            "the images": ["data.feed=streamed"] if run.dataset.train.on_device else [],
            footprint.ON_THE_WAY: memory_advice.on_the_way(recipe, devices),
        }
        found = footprint.described(compiled, given, there, fields)
        console.say(f"[{label}] {found}")
        starting.phase("compiling")
        if changes:
            self.clock.mark(run.step)

    def _after_call(self, count: int, pending: list[tuple[int, Any]], *, first: bool) -> None:
        """Looks at the losses, tests, saves and stops where it is time to."""
        step, every = self.run.step, self.training.save_every
        ends_epoch = step % self.steps_per_epoch == 0
        if first and not ends_epoch:
            self.clock.mark(step)  # what came before was compilation
        saves = every and step % every < count
        stops = self.asked = self.stop(step)
        self.stop.saves = True
        waiting = sum(count for count, _ in pending)
        if ends_epoch or saves or stops or waiting >= self.training.log_every:
            self._collect(pending)
            self._progress()
        if stops:
            self._stop_early()
        elif ends_epoch:
            self._end_epoch()
        elif saves:
            self.run.save(self.clock.total())

    def _collect(self, pending: list[tuple[int, Any]]) -> None:
        """Moves the steps since the last look into the epoch's sums."""
        first = self.run.step - sum(count for count, _ in pending) + 1
        calls = jax.device_get([logged for _, logged in pending])
        pending.clear()
        names = calls[0] if calls else ()
        self.run.add({n: np.concatenate([np.ravel(c[n]) for c in calls]) for n in names}, first)

    def _speeds(self) -> dict[str, float]:
        run = self.run
        peak = run.mesh.size * parallel.peak_flops(run.mesh.devices.flat[0].device_kind)
        rate = self.clock.rate(run.step)
        waits = None if run.dataset.train.on_device else self.clock.waits()
        if waits and waits > _WAITS and not self.warned_of_input:
            self.warned_of_input = True
            console.warn(
                f"[{self.training.label}] steps wait for images {waits:.0%} of the time:"
                " `pip install 'rrd_jax[nvimgcodec]'`, data.keep=on, images that are smaller on"
                " disk (`prepare --resize`), data.feed=resident or more data.workers help"
            )
        start, self.seconds_to_start = self.seconds_to_start, None
        return report.speeds(
            rate, self.training.batch_size, 2 * run.multiply_adds, peak, waits, start
        )

    def _progress(self) -> None:
        step = self.run.step
        self.report.progress(
            step / self.steps_per_epoch,
            self.training.epochs,
            self.run.learning_rate,
            self.clock.rate(step) * self.training.batch_size,
            self.clock.left(step, self.total),
            self.run.losses(),
        )

    def _stop_early(self) -> None:
        """Saves the state, and ends the run."""
        self.run.save(self.clock.total())
        self.run.checkpoints.wait()
        by_hand = self.asked == signal.SIGINT
        kind = KeyboardInterrupt if by_hand else errors.PreemptedError
        raise kind(
            f"stopped by {'Ctrl-C' if by_hand else 'SIGTERM'}; step {self.run.step} is saved in"
            f" {self.run.folder / 'checkpoints'}, and the same command goes on from there"
        )

    def _end_epoch(self) -> None:
        """Tests the student, reports the epoch and saves it."""
        run, speeds = self.run, self._speeds()
        try:
            tested, losses = self._predictions(), self._losses()
            proof = self._proof()
        except predictions.StoppedError:
            self._stop_early()
        if run.dataset.labelled:
            sanity.check_labels(tested["label"], run.dataset.num_classes, "test")
        row = run.end_epoch(tested, speeds, losses, proof)
        self.report.row(row, self.training.epochs)
        self.clock.mark(run.step)
        run.save(self.clock.total(), row)

    def _predictions(self) -> predictions.Predictions | None:
        """Of the test split; None where the student has no classes."""
        if not self.predict:
            return None
        run = self.run
        return predictions.collect(
            self.predict,
            run.state.student,
            run.dataset.test,
            self.training.eval_batch_size,
            run.mesh,
            stop=self._stops_between_steps,
        )

    def _losses(self) -> dict[str, float]:
        """Of the test split, where there are no labels to test by."""
        if not self.losses:
            return {}
        run, stop = self.run, self._stops_between_steps
        teacher = run.teacher.folded if run.teacher_network else None
        return held_out.collect(self.losses, run.state, teacher, run.dataset.test, run.mesh, stop)

    def _proof(self) -> dict[str, float]:
        """What held-out images show of the student beside its teacher."""
        if not self.proof:
            return {}
        run, epoch = self.run, self.run.step // self.steps_per_epoch
        objectives = {name: run.state.objective(name) for name in run.recipe.terms}
        return self.proof.look(run.state.student, epoch, objectives, self._stops_between_steps)

    def _stops_between_steps(self) -> bool:
        """Whether to stop at once: several processes agree on a step to stop after instead."""
        if parallel.process_share() == (0, 1):
            self.asked = self.stop(self.run.step)
        return bool(self.asked)
