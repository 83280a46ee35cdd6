"""One run: a student from its first step to its last, as its folder keeps it."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rrd_jax import checkpoints, data, errors, metrics, networks, parallel, program
from rrd_jax.teacher import cache


class Teacher(NamedTuple):
    """A frozen network.

    Attributes:
      network: of `networks.create`, or an Ensemble.
      variables: its weights, on the devices.
      folded: () -> what `fold.fold` makes of them; steps are given this.
      tested: () -> what `evaluate` finds on the test split.
      folders: where each member's embeddings of training images are kept.
      remembered: those embeddings; None for a streamed split.
    """

    network: Any
    variables: Any
    folded: Callable[[], Any]
    tested: Callable[[], dict[str, np.ndarray]]
    folders: tuple[pathlib.Path, ...] = ()
    remembered: cache.Views | None = None


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
    ledger = checkpoints.read_meta(folder / "checkpoints")
    done = ledger and ledger["epoch"] >= epochs and ledger["result"]
    return Result(**ledger["result"]) if done else None


class StoppedError(Exception):
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
    with contextlib.closing(examples.test_batches(batch_size, parallel.process_share())) as batches:
        for batch in batches:
            batch = parallel.put_batch(mesh, batch)
            parts.append(predict(variables, batch["image"], batch["label"]))
            if stop():
                raise StoppedError
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


class Run:
    """One run: its recipe, where it stands, and what it keeps.

    `state`, `step` and `ledger` are there once it was begun or resumed.

    Args:
      recipe: what to do.
      folder: it is in.
      dataset: training and test split.
      mesh: the devices.
      teacher: None where no objective needs one.
      checkpoints: in its folder.
    """

    def __init__(
        self,
        recipe: program.Recipe,
        folder: pathlib.Path,
        dataset: data.Dataset,
        mesh: jax.sharding.Mesh,
        teacher: Teacher | None,
        checkpoints: checkpoints.Checkpoints,
    ):
        self.recipe, self.folder, self.dataset = recipe, folder, dataset
        self.mesh, self.teacher, self.checkpoints = mesh, teacher, checkpoints
        self.steps_per_epoch = len(dataset.train) // recipe.batch_size
        # Cross-entropy alone still reports its agreement with the teacher, but never runs it.
        compares = any(o.needs_teacher for o in recipe.objectives.values())
        self.network = teacher.network if teacher and compares else None
        self.teacher_variables = teacher.variables if self.network else None
        self.recalls, self._about_teacher = self._plan_teacher()
        self.program = self.build(recipe, recalls=self.recalls)
        abstract = self.program.abstract
        self.parameters = networks.count_parameters(abstract.params["student"])
        if name := abstract.classifier:
            self.parameters += networks.count_parameters(abstract.params["objectives"][name])

    def _plan_teacher(self) -> tuple[bool, str]:
        """Whether what the teacher remembers takes its place; and that, or why not, as a line."""
        if not self.network or self.recipe.teacher_cache == "off":
            return False, ""
        began = checkpoints.read_meta(self.folder / "checkpoints")
        kept = None if began is None else began.get("recalls", False)
        return cache.plan(self.teacher.remembered, self.recipe, kept)

    def build(self, recipe: program.Recipe, **options: Any) -> program.Program:
        """Compiled functions for this run's data, devices and teacher; see `program.build`."""
        return program.build(
            recipe,
            self.mesh,
            self.dataset.image_shape,
            self.steps_per_epoch,
            resident=self.dataset.train.on_device,
            teacher=self.network,
            **options,
        )

    def begin(self) -> None:
        """Stands at the beginning."""
        self.ledger = _Ledger(
            self.recipe.model,
            self.dataset.num_classes,
            list(self.dataset.image_shape),
            self.dataset.version,
            classifier=self.program.abstract.classifier,
            recalls=self.recalls,
        )
        self.state, self.step = self.program.create(self.recipe.seed, self.teacher_variables), 0

    def resume(self) -> bool:
        """Stands where the newest intact checkpoint does, if there is one."""
        restored = self.checkpoints.restore(self.program.abstract)
        if not restored:
            return False
        self.state, self.ledger = restored[0], _Ledger(**restored[1])
        self.step, self.ledger.recalls = int(self.state.step), self.recalls
        if self.ledger.dataset not in ("", self.dataset.version):
            raise errors.InputError(
                f"{self.folder} holds a run on {self.ledger.dataset}, but the data are now"
                f" {self.dataset.version}: pass another --workdir, or bring those data back"
            )
        return True

    def description(self) -> list[str]:
        """What is about to run, in a line, and others on its teacher and on paired maps."""
        recipe = self.recipe
        terms = " + ".join(f"{recipe.weights[name]:g} {name}" for name in recipe.objectives)
        lines = [
            f"{recipe.model}, {self.parameters:,} parameters, loss {terms}, {recipe.epochs} epochs"
            f" of {self.steps_per_epoch} steps of {recipe.batch_size} images,"
            f" {np.dtype(recipe.student.dtype).name} on {self.mesh.size}"
            f" {self.mesh.devices.flat[0].device_kind}"
        ]
        if self._about_teacher:
            lines.append(self._about_teacher)
        pairing = {name: o.taps for name, o in recipe.objectives.items() if o.taps}
        if pairing:
            pair = (recipe.student, self.network)
            outputs = [networks.summarize(n, self.dataset.image_shape).outputs for n in pair]
        for name, taps in pairing.items():
            sizes = [
                " - ".join("x".join(map(str, tap.shape[1:])) for tap in pair)
                for pair in taps(*outputs)
            ]
            lines.append(f"{name} compares maps student - teacher: {', '.join(sizes)}")
        return lines

    def add(self, logged: dict[str, np.ndarray], first: int) -> None:
        """Adds what the steps from `first` on logged to the epoch's sums; stops at a NaN."""
        sums = self.ledger.sums
        for name, values in logged.items():
            for value in values:
                sums[name] = sums.get(name, 0.0) + float(value)
        if not math.isfinite(sum(sums.values())):
            terms = ", ".join(f"{name} {values[-1]:.4g}" for name, values in logged.items())
            self._diverged(f"the loss is not finite within steps {first} to {self.step} ({terms})")

    def losses(self) -> dict[str, float]:
        """The mean of each loss over the current epoch's steps."""
        done = (self.step - 1) % self.steps_per_epoch + 1
        return {k: v / done for k, v in self.ledger.sums.items() if k.startswith("loss")}

    def end_epoch(self, tested: dict[str, np.ndarray], speeds: dict[str, float]) -> dict[str, Any]:
        """Reckons up the epoch; returns its row."""
        ledger = self.ledger
        reference = self.teacher.tested()["prediction"] if self.teacher else None
        test = {f"test/{name}": value for name, value in summary(tested, reference).items()}
        if not math.isfinite(test["test/loss"]):
            self._diverged(f"the test loss is not finite after step {self.step}")
        means = {name: value / self.steps_per_epoch for name, value in ledger.sums.items()}
        means["top1"] *= 100
        ledger.sums = {}
        ledger.epoch = self.step // self.steps_per_epoch
        if test["test/top1"] > ledger.best["top1"]:
            ledger.best = {"top1": test["test/top1"], "epoch": ledger.epoch}
        return {
            "epoch": ledger.epoch,
            "step": self.step,
            "learning_rate": float(self.recipe.schedule(self.step - 1)),
            **{f"train/{name}": value for name, value in means.items()},
            **test,
            **{f"best/{name}": value for name, value in ledger.best.items()},
            **speeds,
        }

    def save(self, seconds: float, row: dict[str, Any] | None = None) -> None:
        """Starts to write a checkpoint, after so many seconds; with the row of an epoch's end."""
        self.ledger.seconds = seconds
        if row:
            self.ledger.result = Result(
                label=self.recipe.label,
                model=self.recipe.model,
                top1=row["test/top1"],
                best_top1=self.ledger.best["top1"],
                best_epoch=self.ledger.best["epoch"],
                agreement=row.get("test/agreement"),
                parameters=self.parameters,
                seconds=seconds,
                checkpoint=str(self.folder / "checkpoints"),
            )._asdict()
        score = row["test/top1"] if row else None
        self.checkpoints.save(self.state, dataclasses.asdict(self.ledger), score)

    def _diverged(self, reason: str) -> None:
        self.checkpoints.wait()
        raise errors.DivergedError(
            f"{reason}; {self.checkpoints.kept} in {self.checkpoints.folder}; a lower"
            " optimizer.learning_rate may help"
        )
