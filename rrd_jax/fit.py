"""Training of one student, or of several in step: the loop over steps and epochs."""

import collections
import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from rrd_jax import checkpoints, data, errors, networks, parallel, program, report, runs, tracing
from rrd_jax.data import feed


def fit(
    recipes: dict[pathlib.Path, program.Recipe],
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    teacher: runs.Teacher | None = None,
    *,
    profile: int = 0,
) -> list[runs.Result]:
    """Trains a student to the end of its epochs, in as many starts as it takes, or several at once.

    Several differ in their seeds, and go step by step in one program. Each has a folder and numbers
    of its own, up to rounding those that it has alone. Runs that an earlier start left at different
    steps go on one group after the other.

    Args:
      recipes: by the folder that receives `checkpoints`, `metrics.jsonl`, `tensorboard` and the
        trace `profile`.
      dataset: training and test split; the former on the devices where there are several runs.
      mesh: the devices.
      teacher: None where no objective needs one.
      profile: the number of steps to trace; 0 for none.

    Raises:
      DivergedError: a loss is not finite.
      InputError: a checkpoint can be neither read nor written.
      PreemptedError: SIGTERM came; the states are saved.
    """
    results = {folder: runs.finished(folder, one.epochs) for folder, one in recipes.items()}
    left = [folder for folder, done in results.items() if not done]
    if profile and not left:
        print(f"warning: nothing is traced; the run in {next(iter(results))} is finished")
    with parallel.stop_requests() as stop, contextlib.ExitStack() as opened:
        groups = collections.defaultdict(list)
        for folder in left:
            kept = opened.enter_context(checkpoints.Checkpoints(folder / "checkpoints"))
            run = runs.Run(recipes[folder], folder, dataset, mesh, teacher, kept)
            if not run.resume():
                _begin(run)
            groups[run.step, run.recalls].append(run)
        for group in groups.values():
            trace = tracing.Trace(group[0].folder.absolute() / "profile", profile)
            _Loop(group, stop).train(trace)
            results |= {run.folder: runs.Result(**run.ledger.result) for run in group}
    return list(results.values())


def _begin(run: runs.Run) -> None:
    """A fresh state, after what comes before distillation, or what is left of that."""
    run.begin()
    for name, objective in run.recipe.objectives.items():
        if not objective.stage:
            continue
        recipe, folder = program.before(run.recipe, name), run.folder / f"before-{name}"
        fit({folder: recipe}, run.dataset, run.mesh, run.teacher)
        with checkpoints.Checkpoints(folder / "checkpoints") as kept:
            ended, _ = kept.restore(run.build(recipe).abstract)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, run.program.abstract)
        after = functools.partial(program.after, name=name, recipe=run.recipe)
        run.state = jax.jit(after, out_shardings=shardings)(run.state, ended)


class _Loop:
    """The steps of runs that are at the same one, and differ in their seeds alone."""

    def __init__(self, group: list[runs.Run], stop: Callable[[int], bool]):
        self.runs, self.stop = group, stop
        run = self.lead = group[0]
        self.recipe, self.mesh, self.split = run.recipe, run.mesh, run.dataset.train
        self.steps_per_epoch = run.steps_per_epoch
        self.total = run.recipe.epochs * run.steps_per_epoch
        self.images = len(group) * run.recipe.batch_size  # a step, of all runs
        self.program = run.program
        if len(group) > 1:
            self.program = run.build(run.recipe, recalls=run.recalls, runs=len(group))
        self.predict = program.build_predict(
            run.recipe.student, run.recipe.normalize, run.mesh, run.recipe.objectives
        )
        self.clock = report.Clock(run.ledger.seconds, run.step)
        self.outs: list[report.Report] = []

    @property
    def step(self) -> int:
        """That all runs have made."""
        return self.lead.step

    def train(self, trace: tracing.Trace) -> None:
        """Steps to the last epoch's end."""
        try:
            with contextlib.ExitStack() as opened:
                for run in self.runs:
                    out = report.Report(
                        run.folder, run.recipe.label, run.step, writes=parallel.is_main()
                    )
                    self.outs.append(opened.enter_context(out))
                    out.start(run.description(), run.step, run.steps_per_epoch)
                if len(self.runs) > 1:
                    print(f"{len(self.runs)} runs go in step; images/s and FLOP/s are of them all")
                opened.enter_context(trace)
                self._train(trace)
        except OSError as error:  # the disk fills up between two checkpoints too
            raise self.lead.checkpoints.failed(error, "the run broke off") from error

    def _train(self, trace: tracing.Trace) -> None:
        start = self.step
        teacher = self._teacher()
        pending: list[tuple[int, Any]] = []
        if start and start // self.steps_per_epoch > self.lead.ledger.epoch:
            self._end_epoch()  # it was stopped in its test
        with contextlib.closing(self._batches(start)) as batches:
            for count, batch in batches:
                logged = self._advance(count, teacher, batch)
                pending.append((count, logged))
                trace.after(count, logged)
                if not self.split.on_device and len(pending) > 2:
                    # Batches wait on the device: the next is sent while one is used, no more.
                    jax.block_until_ready(pending[-3])
                ends_epoch = self.step % self.steps_per_epoch == 0
                if self.step == start + count and not ends_epoch:
                    self.clock.mark(self.step)  # what came before was compilation
                every = self.recipe.save_every
                saves = every and self.step % every < count
                stops = self.stop(self.step)
                waiting = sum(count for count, _ in pending)
                if ends_epoch or saves or stops or waiting >= self.recipe.log_every:
                    self._collect(pending)
                    self._progress()
                if stops:
                    self._stop_early()
                elif ends_epoch:
                    self._end_epoch()
                elif saves:
                    self._save()
        for run in self.runs:
            run.checkpoints.wait()

    def _teacher(self) -> Any:
        """What steps are given of it: its variables, or what it remembers."""
        run = self.lead
        if not run.network:
            return None
        if not run.recalls:
            return run.teacher.folded()
        found = run.teacher.remembered.get(self.recipe.augment, self._stops_alone)
        self.clock.begin(self.step)
        return found

    def _advance(self, count: int, teacher: Any, batch: dict[str, jax.Array]) -> Any:
        """Makes `count` steps of all runs; returns what they log."""
        train = self.program.train_steps if count > 1 else self.program.train_step
        if len(self.runs) == 1:
            self.lead.state, logged = train(self.lead.state, teacher, batch)
        else:
            states, logged = train(tuple(run.state for run in self.runs), teacher, batch)
            for run, run_state in zip(self.runs, states, strict=True):
                run.state = run_state
        for run in self.runs:
            run.step += count
        return logged

    def _batches(self, start: int) -> Iterator[tuple[int, dict[str, jax.Array]]]:
        """How many steps a call makes, and of what batch, from step `start` to the last."""
        split, size = self.split, self.recipe.batch_size
        if not split.on_device:
            stream = split.train_batches(
                size, self.recipe.seed, start, self.total, parallel.process_share()
            )
            with contextlib.closing(stream):
                for batch in stream:
                    yield 1, parallel.put_batch(self.mesh, batch)
            return
        whole = {"image": split.images.reshape(len(split), -1), "label": split.labels}
        whole = parallel.put(parallel.replicated(self.mesh), whole)
        step, length = start, self.program.length
        while step < self.total:
            epoch, made = divmod(step, self.steps_per_epoch)
            if step == start or not made:
                seeds = [run.recipe.seed for run in self.runs]
                orders = [feed.epoch_order(seed, epoch, size, len(split)) for seed in seeds]
                order = np.stack(orders) if len(orders) > 1 else orders[0]
                order = parallel.put(parallel.split(self.mesh, axis=order.ndim - 1), order)
            count = length if made + length <= self.steps_per_epoch else 1
            yield count, whole | {"order": order}
            step += count

    def _collect(self, pending: list[tuple[int, dict[str, jax.Array]]]) -> None:
        """Moves the steps since the last look into the runs' sums."""
        first = self.step - sum(count for count, _ in pending) + 1
        fetched = jax.device_get([logged for _, logged in pending])
        pending.clear()
        for i, run in enumerate(self.runs):
            logged = {
                name: np.concatenate([one[name].reshape(len(self.runs), -1)[i] for one in fetched])
                for name in fetched[0]
            }
            run.add(logged, first)

    def _speeds(self) -> dict[str, float]:
        """Of all runs together."""
        run, shape = self.lead, self.lead.dataset.image_shape
        macs = 3 * networks.summarize(run.recipe.student, shape).macs  # backward is twice forward
        if run.network and not run.recalls:
            macs += networks.summarize(run.network, shape).macs
        peak = self.mesh.size * parallel.peak_flops(self.mesh.devices.flat[0].device_kind)
        return report.speeds(self.clock.rate(self.step), self.images, 2 * macs, peak)

    def _progress(self) -> None:
        rate, left = self.clock.rate(self.step), self.clock.left(self.step, self.total)
        epoch = self.step / self.steps_per_epoch
        out, losses = self.outs[0], self.lead.losses()
        out.progress(epoch, self.recipe.epochs, rate * self.images, left, losses)

    def _save(self) -> None:
        for run in self.runs:
            run.save(self.clock.total())

    def _stop_early(self) -> None:
        """Saves what there is, and ends the runs."""
        self._save()
        for run in self.runs:
            run.checkpoints.wait()
        places = ", ".join(str(run.folder / "checkpoints") for run in self.runs)
        raise errors.PreemptedError(
            f"stopped by SIGTERM; step {self.step} is saved in {places}, and the same command goes"
            " on from there"
        )

    def _end_epoch(self) -> None:
        """Tests the students, reports the epoch and saves it."""
        speeds = self._speeds()
        try:
            tested = [self._test(run) for run in self.runs]
        except runs.StoppedError:
            self._stop_early()
        rows = [run.end_epoch(one, speeds) for run, one in zip(self.runs, tested, strict=True)]
        for row, out in zip(rows, self.outs, strict=True):
            out.row(row, self.recipe.epochs)
        self.clock.mark(self.step)
        for run, row in zip(self.runs, rows, strict=True):
            run.save(self.clock.total(), row)

    def _test(self, run: runs.Run) -> dict[str, np.ndarray]:
        return runs.evaluate(
            self.predict,
            run.state.student,
            run.dataset.test,
            self.recipe.eval_batch_size,
            self.mesh,
            stop=self._stops_alone,
        )

    def _stops_alone(self) -> bool:
        """Between steps: several processes agree on one to stop after, and go on until then."""
        return parallel.process_share() == (0, 1) and self.stop(self.step)
