"""One run: a student from its first step to its last, going on from checkpoints."""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from rrd_jax import (
    checkpoint,
    data,
    errors,
    metrics,
    models,
    parallel,
    program,
    report,
    state,
    views,
)
from rrd_jax.data import feed


class Teacher(NamedTuple):
    """A frozen network.

    Attributes:
      network: of `models.create`, or an Ensemble.
      variables: its weights, on the devices.
      folded: () -> what `models.fold` makes of them, on the devices; this is what a step is given.
      tested: () -> what `evaluate` finds on the test split.
      folders: where each member's embeddings of training images are kept.
      remembered: those embeddings; None for a streamed split.
    """

    network: Any
    variables: Any
    folded: Callable[[], Any]
    tested: Callable[[], dict[str, np.ndarray]]
    folders: tuple[pathlib.Path, ...] = ()
    remembered: views.Views | None = None


class Result(NamedTuple):
    """A finished run; percentages are of the test split, `top1` and `agreement` the last epoch's.

    `agreement` is the share of test images that student and teacher put into the same class,
    None without a teacher. `seconds` is wall time, over all starts.
    """

    label: str
    model: str
    top1: float
    best_top1: float
    best_epoch: int
    agreement: float | None
    parameters: int
    seconds: float
    checkpoint: str


@dataclasses.dataclass
class _Ledger:
    """What a checkpoint knows beside the state.

    Attributes:
      model: the student's name.
      num_classes: C.
      image_shape: (H, W, channels).
      dataset: its version.
      classifier: the objective that classifies in the student's place, "" for none.
      epoch: epochs finished.
      seconds: wall time so far.
      sums: of each logged scalar over the current epoch's steps.
      recalls: whether the teacher is remembered, and does not run.
      best: test top-1 and epoch.
      result: the Result after `epoch`, as a dict.
    """

    model: str
    num_classes: int
    image_shape: list[int]
    dataset: str = ""
    classifier: str = ""
    epoch: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    recalls: bool = False
    best: dict[str, float] = dataclasses.field(default_factory=lambda: {"top1": -1.0, "epoch": 0})
    result: dict[str, Any] | None = None


def finished(folder: pathlib.Path, epochs: int) -> Result | None:
    """The result of a run that has made all its epochs, read without starting anything."""
    ledger = checkpoint.read_meta(folder / "checkpoints")
    done = ledger and ledger["epoch"] >= epochs and ledger["result"]
    return Result(**ledger["result"]) if done else None


class _StoppedError(Exception):
    """An evaluation was not finished, because the run is to stop."""


def evaluate(
    predict: Callable,
    variables: Any,
    examples: Any,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, np.ndarray]:
    """`prediction`, `rank`, `loss` and `label` [N] of every example, each exactly once."""
    parts, batch_size = [], math.ceil(batch_size / mesh.size) * mesh.size
    with contextlib.closing(examples.test_batches(batch_size, parallel.part())) as batches:
        for batch in batches:
            batch = parallel.put_batch(mesh, batch)
            parts.append(predict(variables, batch["image"], batch["label"]))
            if stop():
                raise _StoppedError
    names = ("prediction", "rank", "loss", "label")
    parts = jax.device_get(parts)
    return {name: np.concatenate([p[name] for p in parts])[: len(examples)] for name in names}


def summary(found: dict[str, np.ndarray], teacher: np.ndarray | None) -> dict[str, float]:
    """What `evaluate` found, as figures in per cent and nats; `agreement` if there is a teacher."""
    figures = {
        "top1": metrics.percent_equal(found["prediction"], found["label"]),
        "top5": 100.0 * float(np.mean(found["rank"] < 5)),
        "loss": float(np.mean(found["loss"], dtype=np.float64)),
    }
    if teacher is not None:
        figures["agreement"] = metrics.percent_equal(found["prediction"], teacher)
    return figures


def fit(
    recipe: program.Recipe,
    folder: pathlib.Path,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    teacher: Teacher | None = None,
) -> Result:
    """Trains the student to the end of its epochs, in as many starts as it takes.

    Args:
      recipe: what to do.
      folder: receives `checkpoints`, `metrics.jsonl` and `tensorboard`.
      dataset: training and test split.
      mesh: the devices.
      teacher: None where no objective needs one.

    Raises:
      DivergedError: the loss is not finite.
      InputError: a checkpoint can be neither read nor written.
      PreemptedError: SIGTERM came; the state is saved.
    """
    if done := finished(folder, recipe.epochs):
        return done
    with (
        parallel.stop_requests() as stop,
        checkpoint.Checkpoints(folder / "checkpoints") as checkpoints,
    ):
        run = _Run(recipe, folder, dataset, mesh, teacher, checkpoints, stop)
        run_state, ledger = run.start()
        step = int(run_state.step)
        try:
            with report.Report(folder, recipe.label, step, writes=parallel.is_main()) as out:
                out.start(run.description(), step, run.steps_per_epoch)
                return run.train(run_state, ledger, out)
        except OSError as error:  # the disk fills up between two checkpoints too
            raise checkpoints.failed(error, "the run broke off") from error


class _Run:
    """The compiled parts of one run, and its loop."""

    def __init__(
        self,
        recipe: program.Recipe,
        folder: pathlib.Path,
        dataset: data.Dataset,
        mesh: jax.sharding.Mesh,
        teacher: Teacher | None,
        checkpoints: checkpoint.Checkpoints,
        stop: Callable[[int], bool],
    ):
        self.recipe, self.folder, self.dataset = recipe, folder, dataset
        self.mesh, self.teacher, self.checkpoints, self.stop = mesh, teacher, checkpoints, stop
        self.steps_per_epoch = len(dataset.train) // recipe.batch_size
        self.total = recipe.epochs * self.steps_per_epoch
        # Cross-entropy alone still reports its agreement with the teacher, but never runs it.
        compares = any(o.needs_teacher for o in recipe.objectives.values())
        self.network = teacher.network if teacher and compares else None
        self.teacher_variables = teacher.variables if self.network else None
        self.recalls, self.about_teacher = self._plan_teacher()
        self.program = self._build(recipe, self.recalls)
        abstract = self.program.abstract
        self.predict = program.build_predict(
            recipe.student, recipe.normalize, mesh, recipe.objectives
        )
        self.parameters = models.count_parameters(abstract.params["student"])
        if name := abstract.classifier:
            self.parameters += models.count_parameters(abstract.params["objectives"][name])

    def _plan_teacher(self) -> tuple[bool, str]:
        """Whether what the teacher remembers takes its place; and that, or why not, as a line."""
        if not self.network or self.recipe.teacher_cache == "off":
            return False, ""
        began = checkpoint.read_meta(self.folder / "checkpoints")
        kept = None if began is None else began.get("recalls", False)
        return views.plan(self.teacher.remembered, self.recipe, kept)

    def _build(self, recipe: program.Recipe, recalls: bool = False) -> program.Program:
        return program.build(
            recipe,
            self.mesh,
            self.dataset.image_shape,
            self.steps_per_epoch,
            resident=self.dataset.train.on_device,
            teacher=self.network,
            recalls=recalls,
        )

    def start(self) -> tuple[state.TrainState, _Ledger]:
        """Where the newest intact checkpoint stands, or the beginning."""
        dataset = self.dataset
        if restored := self.checkpoints.restore(self.program.abstract):
            ledger = _Ledger(**restored[1])
            if ledger.dataset not in ("", dataset.version):
                raise errors.InputError(
                    f"{self.folder} holds a run on {ledger.dataset}, but the data are now"
                    f" {dataset.version}: pass another --workdir, or bring those data back"
                )
            return restored[0], ledger
        shape = list(dataset.image_shape)
        ledger = _Ledger(
            self.recipe.model,
            dataset.num_classes,
            shape,
            dataset.version,
            classifier=self.program.abstract.classifier,
            recalls=self.recalls,
        )
        run_state = self.program.create(self.recipe.seed, self.teacher_variables)
        for name, objective in self.recipe.objectives.items():
            if objective.stage:
                run_state = self._after_stage(run_state, name)
        return run_state, ledger

    def _after_stage(self, run_state: state.TrainState, name: str) -> state.TrainState:
        """Runs what comes before distillation, or what is left of it, and takes over from it."""
        recipe, folder = program.before(self.recipe, name), self.folder / f"before-{name}"
        fit(recipe, folder, self.dataset, self.mesh, self.teacher)
        with checkpoint.Checkpoints(folder / "checkpoints") as checkpoints:
            ended, _ = checkpoints.restore(self._build(recipe).abstract)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.program.abstract)
        after = functools.partial(program.after, name=name, recipe=self.recipe)
        return jax.jit(after, out_shardings=shardings)(run_state, ended)

    def description(self) -> list[str]:
        """What is about to run, in a line, and another for each objective that pairs maps."""
        recipe = self.recipe
        terms = " + ".join(f"{recipe.weights[name]:g} {name}" for name in recipe.objectives)
        lines = [
            f"{recipe.model}, {self.parameters:,} parameters, loss {terms}, {recipe.epochs} epochs"
            f" of {self.steps_per_epoch} steps of {recipe.batch_size} images,"
            f" {np.dtype(recipe.student.dtype).name} on {self.mesh.size}"
            f" {self.mesh.devices.flat[0].device_kind}"
        ]
        if self.about_teacher:
            lines.append(self.about_teacher)
        pairing = {name: o.taps for name, o in recipe.objectives.items() if o.taps}
        if pairing:
            networks = (recipe.student, self.network)
            outputs = [models.summarize(n, self.dataset.image_shape).outputs for n in networks]
        for name, taps in pairing.items():
            sizes = [
                " - ".join("x".join(map(str, tap.shape[1:])) for tap in pair)
                for pair in taps(*outputs)
            ]
            lines.append(f"{name} compares maps student - teacher: {', '.join(sizes)}")
        return lines

    def train(self, run_state: state.TrainState, ledger: _Ledger, out: report.Report) -> Result:
        """Steps to the last epoch's end."""
        recipe, compiled = self.recipe, self.program
        step = start = int(run_state.step)
        teacher = None
        if self.recalls:
            teacher = self.teacher.remembered.get(recipe.augment, lambda: self._stops_alone(step))
        elif self.network:
            teacher = self.teacher.folded()
        pending: list[tuple[int, Any]] = []
        clock = report.Clock(ledger.seconds, start)
        if start and start // self.steps_per_epoch > ledger.epoch:  # it was stopped in its test
            self._end_epoch(run_state, ledger, start, clock, out)
        with contextlib.closing(self._batches(start)) as batches:
            for count, batch in batches:
                train = compiled.train_steps if count > 1 else compiled.train_step
                run_state, logged = train(run_state, teacher, batch)
                pending.append((count, logged))
                if not self.dataset.train.on_device and len(pending) > 2:
                    # Batches wait on the device: the next is sent while one is used, no more.
                    jax.block_until_ready(pending[-3])
                step += count
                ends_epoch = step % self.steps_per_epoch == 0
                if step == start + count and not ends_epoch:
                    clock.mark(step)  # what came before was compilation
                saves = recipe.save_every and step % recipe.save_every < count
                stops = self.stop(step)
                waiting = sum(count for count, _ in pending)
                if ends_epoch or saves or stops or waiting >= recipe.log_every:
                    self._collect(pending, ledger, step)
                    done = (step - 1) % self.steps_per_epoch + 1
                    losses = {k: v / done for k, v in ledger.sums.items() if k.startswith("loss")}
                    rate = clock.rate(step) * recipe.batch_size
                    left = clock.left(step, self.total)
                    out.progress(step / self.steps_per_epoch, recipe.epochs, rate, left, losses)
                if stops:
                    self._stop_early(run_state, ledger, step, clock)
                elif ends_epoch:
                    self._end_epoch(run_state, ledger, step, clock, out)
                elif saves:
                    ledger.seconds = clock.total()
                    self.checkpoints.save(run_state, dataclasses.asdict(ledger))
        self.checkpoints.wait()
        return Result(**ledger.result)

    def _batches(self, start: int) -> Iterator[tuple[int, dict[str, jax.Array]]]:
        """How many steps a call makes, and of what batch, from step `start` to the last."""
        split, size, seed = self.dataset.train, self.recipe.batch_size, self.recipe.seed
        if not split.on_device:
            stream = split.train_batches(size, seed, start, self.total, parallel.part())
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
                order = feed.epoch_order(seed, epoch, size, len(split))
                order = parallel.put(parallel.split(self.mesh, axis=1), order)
            count = length if made + length <= self.steps_per_epoch else 1
            yield count, whole | {"order": order}
            step += count

    def _collect(
        self, pending: list[tuple[int, dict[str, jax.Array]]], ledger: _Ledger, step: int
    ) -> None:
        """Moves the steps since the last look into the epoch's sums; stops at a NaN."""
        fetched = jax.device_get(pending)
        first = step - sum(count for count, _ in pending) + 1
        pending.clear()
        for _, logged in fetched:
            for name, values in logged.items():
                for value in np.ravel(values):
                    ledger.sums[name] = ledger.sums.get(name, 0.0) + float(value)
        if not math.isfinite(sum(ledger.sums.values())):
            last = {name: np.ravel(values)[-1] for name, values in fetched[-1][1].items()}
            terms = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
            self._diverged(f"the loss is not finite within steps {first} to {step} ({terms})")

    def _diverged(self, reason: str) -> None:
        self.checkpoints.wait()
        raise errors.DivergedError(
            f"{reason}; {self.checkpoints.kept} in {self.checkpoints.folder}; a lower"
            " optimizer.learning_rate may help"
        )

    def _stop_early(
        self, run_state: state.TrainState, ledger: _Ledger, step: int, clock: report.Clock
    ) -> None:
        """Saves what there is, and ends the run."""
        ledger.seconds = clock.total()
        self.checkpoints.save(run_state, dataclasses.asdict(ledger))
        self.checkpoints.wait()
        raise errors.PreemptedError(
            f"stopped by SIGTERM; step {step} is saved in {self.folder / 'checkpoints'}, and the"
            " same command goes on from there"
        )

    def _end_epoch(
        self,
        run_state: state.TrainState,
        ledger: _Ledger,
        step: int,
        clock: report.Clock,
        out: report.Report,
    ) -> None:
        """Tests the student, reports the epoch and saves it."""
        rate = clock.rate(step) * self.recipe.batch_size
        try:
            tested = self._test(run_state, step)
        except _StoppedError:
            self._stop_early(run_state, ledger, step, clock)
        if not math.isfinite(tested["test/loss"]):
            self._diverged(f"the test loss is not finite after step {step}")
        means = {name: value / self.steps_per_epoch for name, value in ledger.sums.items()}
        means["top1"] *= 100
        ledger.sums = {}
        ledger.epoch = step // self.steps_per_epoch
        if tested["test/top1"] > ledger.best["top1"]:
            ledger.best = {"top1": tested["test/top1"], "epoch": ledger.epoch}
        row = {
            "epoch": ledger.epoch,
            "step": step,
            "learning_rate": float(self.recipe.schedule(step - 1)),
            **{f"train/{name}": value for name, value in means.items()},
            **tested,
            **{f"best/{name}": value for name, value in ledger.best.items()},
            "images_per_second": rate,
        }
        out.row(row, self.recipe.epochs)
        clock.mark(step)
        ledger.seconds = clock.total()
        ledger.result = self._result(ledger, row)._asdict()
        self.checkpoints.save(run_state, dataclasses.asdict(ledger), row["test/top1"])

    def _stops_alone(self, step: int) -> bool:
        """Between steps: several processes agree on one to stop after, and go on until then."""
        return parallel.part() == (0, 1) and self.stop(step)

    def _test(self, run_state: state.TrainState, step: int) -> dict[str, float]:
        found = evaluate(
            self.predict,
            run_state.student,
            self.dataset.test,
            self.recipe.eval_batch_size,
            self.mesh,
            stop=lambda: self._stops_alone(step),
        )
        reference = self.teacher.tested()["prediction"] if self.teacher else None
        return {f"test/{name}": value for name, value in summary(found, reference).items()}

    def _result(self, ledger: _Ledger, row: dict[str, Any]) -> Result:
        return Result(
            label=self.recipe.label,
            model=self.recipe.model,
            top1=row["test/top1"],
            best_top1=ledger.best["top1"],
            best_epoch=ledger.best["epoch"],
            agreement=row.get("test/agreement"),
            parameters=self.parameters,
            seconds=ledger.seconds,
            checkpoint=str(self.folder / "checkpoints"),
        )
