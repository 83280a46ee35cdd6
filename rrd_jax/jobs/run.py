"""One run: a student from its first step to its last, as its folder keeps it."""

import dataclasses
import inspect
import math
import pathlib
from collections.abc import Mapping
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from rrd_jax import checkpoints, data, errors, networks, parallel
from rrd_jax.cpu import compiling
from rrd_jax.data import sanity
from rrd_jax.evaluation import predictions
from rrd_jax.jobs import card, program
from rrd_jax.teacher import cache
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Recipe
from rrd_jax.training.state import TrainState
from rrd_jax.weights import pretrained

_THREADS = futures.ThreadPoolExecutor(1, "state")  # starts its thread when it is needed


class Result(NamedTuple):
    """A finished run; percentages are of the test split, `top1` and `agreement` the last epoch's.

    `agreement` is the share of test images that student and teacher put into the same class,
    None without a teacher. `seconds` is wall time, over all starts. Without labels there is no
    top-1: the loss of held-out images, the last epoch's and the lowest one, takes its place, or
    nothing where there is none of these either. `proof` is what `proving.Proof.look` found at the
    end; None where nothing was looked at.
    """

    label: str
    model: str
    top1: float | None
    best_top1: float | None
    best_epoch: int
    agreement: float | None
    parameters: int
    seconds: float
    checkpoint: str
    loss: float | None = None
    best_loss: float | None = None
    proof: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """What files keep of it."""
        where_there_are = ("loss", "best_loss", "proof")
        fields = self._asdict()
        return {k: v for k, v in fields.items() if k not in where_there_are or v not in (None, {})}


@dataclasses.dataclass
class _Progress:
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
      recalls: whether the teacher's cached embeddings are used.
      best: test top-1 and epoch; without labels the loss of held-out images and epoch.
      result: the Result after `epoch`, as a dict.
      about: the network's About, as JSON.
    """

    model: str
    num_classes: int
    image_shape: list[int]
    dataset: str = ""
    classifier: str = ""
    epoch: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    recalls: bool = False  # a name that checkpoints keep
    best: dict[str, float] = dataclasses.field(default_factory=lambda: {"top1": -1.0, "epoch": 0})
    result: dict[str, Any] | None = None
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


def finished(folder: pathlib.Path, epochs: int, version: str | None = None) -> Result | None:
    """The result of a run that has made all its epochs, read without starting anything.

    Args:
      folder: the run's.
      epochs: all of them.
      version: of the data set; None where that is compared later.

    Raises:
      InputError: it was made on another data set, or by a newer version of rrd_jax.
    """
    meta = checkpoints.read_meta(folder / "checkpoints")
    if meta is None:
        return None
    progress = _as(_Progress, meta, folder)
    if progress.epoch < epochs or not progress.result:
        return None
    if version is not None:
        _check_data(folder, progress.dataset, version)
    return _as(Result, progress.result, folder)


def _as(kind: type, kept: dict[str, Any], folder: pathlib.Path) -> Any:
    """What a checkpoint keeps, as a _Progress or Result.

    Raises:
      InputError: another version of rrd_jax, or another program, has written it.
    """
    known = inspect.signature(kind).parameters
    if unknown := ", ".join(sorted(kept.keys() - known.keys())):
        raise errors.InputError(
            f"the run in {folder} was written by a newer version of rrd_jax, which keeps"
            f" {unknown}: install that version, or pass another --workdir"
        )
    try:
        return kind(**kept)
    except TypeError as error:  # fields that it must have
        raise errors.InputError(
            f"{folder} does not hold a run of this version of rrd_jax ({error}); pass another"
            " --workdir"
        ) from error


def _check_data(folder: pathlib.Path, there: str, here: str) -> None:
    """Raises an InputError for a run on another data set than that of an earlier start."""
    if there not in ("", here):
        raise errors.InputError(
            f"{folder} holds a run on {there}, but the data are now {here}: pass another --workdir,"
            " or bring those data back"
        )


class Run:
    """One run: its recipe, where it stands, and what it keeps.

    `state`, `step` and `progress` are there once the run was begun or resumed.

    Args:
      recipe: what to do.
      folder: the run's.
      dataset: training and test split.
      mesh: the devices.
      teacher: None where no objective needs one.
      kept: the checkpoints in the folder.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: pathlib.Path,
        dataset: data.Dataset,
        mesh: jax.sharding.Mesh,
        teacher: FrozenNetwork | None,
        kept: checkpoints.Checkpoints,
    ):
        self.recipe, self.folder, self.dataset = recipe, folder, dataset
        self.mesh, self.teacher, self.checkpoints = mesh, teacher, kept
        self.steps_per_epoch = len(dataset.train) // recipe.training.batch_size
        # Cross-entropy alone still reports its agreement with the teacher, but never runs it.
        compares = any(o.needs_teacher for o in recipe.objectives.values())
        self.teacher_network = teacher.network if teacher and compares else None
        self._collapsed = 0  # epochs in a row
        self._first_weights = ""  # their digest, where this start made them
        self._state: TrainState | None = None
        self._coming: futures.Future | None = None  # a state that is being made
        self.cache_place, self._about_teacher = self._plan_cache()
        self.program = self.build(recipe, teacher_is_cached=self.teacher_is_cached)
        abstract = self.program.abstract
        self.parameters = networks.count_parameters(abstract.params["student"])
        if name := abstract.classifier:
            self.parameters += networks.count_parameters(abstract.params["objectives"][name])
        self._about = card.of_run(recipe, dataset, teacher, self.parameters)

    @property
    def teacher_is_cached(self) -> bool:
        """Whether the teacher's embeddings are used in its place."""
        return bool(self.cache_place)

    @property
    def multiply_adds(self) -> int:
        """Of the networks, for an image in a step."""
        shape = self.dataset.image_shape
        macs = 3 * networks.summarize(self.recipe.student, shape).macs  # backward is twice forward
        if self.teacher_network and not self.teacher_is_cached:
            macs += networks.summarize(self.teacher_network, shape).macs
        return macs

    def _plan_cache(self) -> cache.Plan:
        """Where the teacher's cached embeddings are, "" for no use of them, and why."""
        if not self.teacher_network or self.recipe.training.teacher_cache.use == "off":
            return cache.Plan("", "")
        before = checkpoints.read_meta(self.folder / "checkpoints")
        began = None if before is None else before.get("recalls", False)
        return cache.plan(self.teacher.cache, self.recipe, began)

    def build(self, recipe: Recipe, **options: Any) -> program.Program:
        """Compiled functions for this run's data, devices and teacher; see `program.build`."""
        return program.build(
            recipe,
            self.mesh,
            self.dataset.image_shape,
            self.steps_per_epoch,
            resident=self.dataset.train.on_device,
            teacher=self.teacher_network,
            ordinary=compiling.ordinary_calls(recipe.training.batch_size * self.multiply_adds),
            **options,
        )

    def begin(self) -> None:
        """Goes to the beginning: a fresh state."""
        self.progress = _Progress(
            self.recipe.training.network.model,
            self.dataset.num_classes,
            list(self.dataset.image_shape),
            self.dataset.version,
            classifier=self.program.abstract.classifier,
            recalls=self.teacher_is_cached,
        )
        if not self.dataset.labelled:
            self.progress.best = {"epoch": 0}
        variables = self.teacher.variables if self.teacher_network else None
        start = pretrained.ready(self.recipe.training, self.dataset)
        weights = start and parallel.put(parallel.replicated(self.mesh), start.weights)
        given = (self.recipe.training.seed, variables, weights)
        lowered = self.program.create.lower(*given)
        if jax.process_count() > 1:  # all have to start their programs in the same order
            self.state = self._create(lowered, given)
        else:
            self._coming = _THREADS.submit(self._create, lowered, given)
        self.step = 0
        if start:
            self._say_start(start.origin)
        elif self.recipe.training.freeze and getattr(self.recipe.student, "weights", None) is None:
            console.warn(
                f"[{self.recipe.training.label}] the parts that stay as they are have random"
                " weights: name a checkpoint to start from"
            )

    def _create(self, lowered: jax.stages.Lowered, given: Any) -> TrainState:
        """A fresh state; its digest is made before a step overwrites it."""
        state = lowered.compile()(*given)
        if self.recipe.fixed != "student":
            self._first_weights = checkpoints.digest(state.params["student"])
        return state

    @property
    def state(self) -> TrainState:
        """Where the run stands; a fresh one is made while its step is compiled."""
        if self._coming is not None:
            self._state, self._coming = self._coming.result(), None
        return self._state

    @state.setter
    def state(self, state: TrainState) -> None:
        self._state, self._coming = state, None

    def resume(self) -> bool:
        """Goes to the newest intact checkpoint, if there is one."""
        restored = self.checkpoints.restore(self.program.abstract)
        if not restored:
            return False
        self.state, self.progress = restored[0], _as(_Progress, restored[1], self.folder)
        self.step, self.progress.recalls = int(self.state.step), self.teacher_is_cached
        _check_data(self.folder, self.progress.dataset, self.dataset.version)
        if origin := self.progress.about.get("training", {}).get("start_from"):
            self._say_start(origin)
        return True

    def _say_start(self, origin: dict[str, str]) -> None:
        """Keeps what the weights were before the first step in what is said of the network."""
        training = {**self._about.training, "start_from": origin}
        self._about = dataclasses.replace(self._about, training=training)

    def description(self) -> list[str]:
        """What is about to run, in a line, and others on its teacher and on paired maps."""
        training = self.recipe.training
        terms = " + ".join(f"{term.weight:g} {name}" for name, term in self.recipe.terms.items())
        lines = [
            f"{training.network.model}, {self.parameters:,} parameters, loss {terms},"
            f" {training.epochs} epochs of {self.steps_per_epoch} steps of"
            f" {training.batch_size} images,"
            f" {np.dtype(self.recipe.student.dtype).name} on {self.mesh.size}"
            f" {self.mesh.devices.flat[0].device_kind}"
        ]
        if isinstance(self.recipe.student, networks.Brought):
            lines.append(self._describe_student())
        if frozen := training.frozen(self.recipe.student, self.dataset.image_shape):
            lines.append(self._describe_frozen(frozen))
        if self._about_teacher:
            lines.append(self._about_teacher)
        return lines + self._describe_pairs()

    def _describe_student(self) -> str:
        """What is seen of a network that is not ours."""
        summary = networks.summarize(self.recipe.student, self.dataset.image_shape)
        outputs = summary.outputs
        width = "none" if isinstance(outputs.embedding, tuple) else outputs.embedding.shape[-1]
        return (
            f"{summary.macs:,} multiply-adds an image; embedding {width}, maps"
            f" {networks.describe_maps(outputs.maps)}"
        )

    def _describe_frozen(self, frozen: frozenset[str]) -> str:
        """What of the student stays as it is."""
        shapes = networks.named_shapes(self.program.abstract.params["student"])
        count = sum(math.prod(shapes[name]) for name in frozen)
        modules = dict.fromkeys(name.split("/")[0] for name in shapes if name in frozen)
        return (
            f"{count:,} of the parameters stay as they are, with their running statistics:"
            f" {', '.join(modules)}"
        )

    def _describe_pairs(self) -> list[str]:
        """A line for each objective that compares maps: which with which."""
        pairings = {name: o.taps for name, o in self.recipe.objectives.items() if o.taps}
        if not pairings:
            return []
        outputs = [
            networks.summarize(network, self.dataset.image_shape).outputs
            for network in (self.recipe.student, self.teacher_network)
        ]
        lines = []
        for name, taps in pairings.items():
            sizes = [
                " - ".join("x".join(map(str, tap.shape[1:])) for tap in pair)
                for pair in taps(*outputs)
            ]
            lines.append(f"{name} compares maps student - teacher: {', '.join(sizes)}")
        return lines

    def add(self, logged: dict[str, np.ndarray], first: int) -> None:
        """Adds what the steps from `first` on logged to the epoch's sums.

        Raises:
          DivergedError: a loss is not finite.
        """
        if broken := sanity.first_not_finite(logged):
            at, names = broken
            values = {name: values[at] for name, values in logged.items()}
            raise self._diverged(*self._about_losses(first + at, names, values))
        sums = self.progress.sums
        for name, values in logged.items():
            for value in values:
                sums[name] = sums.get(name, 0.0) + float(value)

    def _about_losses(
        self, step: int, names: list[str], values: dict[str, float]
    ) -> tuple[str, str]:
        """(What is not finite in a step, what to look at)."""
        terms = [name.removeprefix("loss/") for name in names if name.startswith("loss/")]
        numbers = ", ".join(
            f"{name.removeprefix('loss/')} {value:.4g}"
            for name, value in values.items()
            if name.startswith("loss/")
        )
        whose = " and ".join(terms) or "their weighted sum"
        reason = f"the losses are not finite from step {step} on: {whose} ({numbers})"
        places = [f"objectives.{name}" for name in terms] or ["the weights of objectives"]
        if step == 1:  # nothing has been learnt yet
            places += ["data.mean and data.std"]
            places += ["the teacher's weights"] if self.teacher_network else []
        else:
            rate = self.recipe.training.optimizer.learning_rate
            places = [f"optimizer.learning_rate (here {rate:g})", "optimizer.clip_norm", *places]
            if self.recipe.schedule(0) == 0:  # by which prodigy, for one, divides
                places += ["optimizer.warmup_start (the first rate is 0)"]
        if self.recipe.student.dtype != np.float32:
            places += [f"dtype (here {np.dtype(self.recipe.student.dtype).name})"]
        return reason, f"look at {', '.join(places)}"

    @property
    def learning_rate(self) -> float:
        """Of the last step; NaN where an optimizer made in Python keeps it for itself."""
        return float(self.recipe.schedule(self.step - 1))

    def losses(self) -> dict[str, float]:
        """The mean of each loss over the current epoch's steps."""
        done = (self.step - 1) % self.steps_per_epoch + 1
        return {k: v / done for k, v in self.progress.sums.items() if k.startswith("loss")}

    def end_epoch(
        self,
        tested: predictions.Predictions | None,
        speeds: dict[str, float],
        losses: dict[str, float] | None = None,
        proof: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Ends an epoch; returns its row of figures.

        Args:
          tested: predictions for the test split; None where the student has no classes.
          speeds: of the epoch, as entries of the row.
          losses: of held-out images, where there are no labels to test by.
          proof: of `proving.Proof.look`.

        Raises:
          DivergedError: the test loss is not finite.
        """
        figures = self._figures(tested, losses or {})
        test = {f"test/{name}": value for name, value in figures.items()}
        progress = self.progress
        means = {name: value / self.steps_per_epoch for name, value in progress.sums.items()}
        progress.sums, rate = {}, self.learning_rate
        progress.epoch = self.step // self.steps_per_epoch
        if self.dataset.labelled:
            means["top1"] *= 100
            self._look_for_collapse(tested)
        self._look_for_zeros(means)
        self._look_for_still_weights()
        self._note_best(test)
        return {
            "epoch": progress.epoch,
            "step": self.step,
            **({} if math.isnan(rate) else {"learning_rate": rate}),
            **{f"train/{name}": value for name, value in means.items()},
            **test,
            **{f"proof/{name}": value for name, value in (proof or {}).items()},
            **{f"best/{name}": value for name, value in progress.best.items()},
            **speeds,
        }

    def _figures(
        self, tested: predictions.Predictions | None, losses: dict[str, float]
    ) -> dict[str, float]:
        """Of the test split; raises a DivergedError where the loss is not finite."""
        reference = self.teacher.reference if self.teacher else None
        look = "look at optimizer.learning_rate, and at train.ema if it is set"
        if not self.dataset.labelled:
            if not math.isfinite(losses.get("loss", 0.0)):
                raise self._diverged(
                    f"the loss of held-out images is not finite after step {self.step}", look
                )
            agreement = predictions.agreement(tested, reference) if tested and reference else {}
            return agreement | losses
        figures = predictions.figures(tested, reference)
        if not math.isfinite(figures["loss"]):
            bad = np.flatnonzero(~np.isfinite(tested["loss"]))
            raise self._diverged(
                f"the test loss of {len(bad)} of {len(tested['loss'])} images is not finite after"
                f" step {self.step}, first that of example {bad[0]}",
                look,
            )
        return figures

    def _note_best(self, test: dict[str, float]) -> None:
        """Keeps the best figure so far: the highest top-1, or without labels the lowest loss."""
        best, epoch = self.progress.best, self.progress.epoch
        if self.dataset.labelled:
            if test["test/top1"] > best["top1"]:
                self.progress.best = {"top1": test["test/top1"], "epoch": epoch}
        elif "test/loss" in test and test["test/loss"] < best.get("loss", math.inf):
            self.progress.best = {"loss": test["test/loss"], "epoch": epoch}

    def _look_for_collapse(self, tested: predictions.Predictions) -> None:
        """Warns, once, of a student that says the same of every test image.

        In a first epoch it may: its running statistics are not there yet.
        """
        doubt = sanity.doubt_about_predictions(tested)
        self._collapsed = self._collapsed + 1 if doubt else 0
        epoch, epochs = self.progress.epoch, self.recipe.training.epochs
        if self._collapsed == 2 or (self._collapsed == 1 and epoch == epochs):
            console.warn(
                f"[{self.recipe.training.label}] after epoch {epoch} of {epochs} {doubt}; look at"
                f" optimizer.learning_rate ({self.learning_rate:.3g}), the weights of the"
                " objectives and the labels"
            )

    def _look_for_zeros(self, means: dict[str, float]) -> None:
        """Warns after the first epoch of objectives that nothing is learnt from."""
        zeros = [name for name, mean in means.items() if name.startswith("loss/") and mean == 0]
        if zeros and self.progress.epoch == 1:
            names = " and ".join(name.removeprefix("loss/") for name in zeros)
            console.warn(
                f"[{self.recipe.training.label}] the loss of {names} was 0 at every step of the"
                " first epoch: nothing was learnt from it; look at what it compares"
            )

    def _look_for_still_weights(self) -> None:
        """Warns after the first epoch of a student that nothing moves."""
        if self.progress.epoch != 1 or not self._first_weights:
            return
        if checkpoints.digest(self.state.params["student"]) == self._first_weights:
            console.warn(
                f"[{self.recipe.training.label}] the weights are those that the run began with,"
                " after its first epoch: the optimizer moves nothing; look at its learning rate,"
                " and whether the loss depends on the student"
            )

    def save(self, seconds: float, row: dict[str, Any] | None = None) -> None:
        """Starts to write a checkpoint.

        Args:
          seconds: wall time of the run so far.
          row: of `end_epoch` at the end of one; None inside an epoch.
        """
        self.progress.seconds = seconds
        about = dataclasses.replace(self._about, metrics=self.progress.about.get("metrics", {}))
        if row:
            about = dataclasses.replace(about, metrics=_metrics(row))
            self.progress.result = Result(
                label=self.recipe.training.label,
                model=self.recipe.training.network.model,
                top1=row.get("test/top1"),
                best_top1=self.progress.best.get("top1"),
                best_epoch=self.progress.best["epoch"],
                agreement=row.get("test/agreement"),
                parameters=self.parameters,
                seconds=seconds,
                checkpoint=str(self.folder / "checkpoints"),
                loss=None if self.dataset.labelled else row.get("test/loss"),
                best_loss=self.progress.best.get("loss"),
                proof={
                    name.removeprefix("proof/"): value
                    for name, value in row.items()
                    if name.startswith("proof/")
                },
            ).to_json()
        self.progress.about = about.to_json()
        score = checkpoints.score(self.progress.result) if row else None
        self.checkpoints.save(self.state, dataclasses.asdict(self.progress), score)
        card.write(self.folder, self.progress.about)

    def _diverged(self, reason: str, look: str) -> errors.DivergedError:
        self.checkpoints.wait()
        return errors.DivergedError(
            f"{reason}; {look}; {self.checkpoints.kept} in {self.checkpoints.folder}"
        )


def _metrics(row: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its network, of the figures of an epoch."""
    names = {"epoch": "epoch", "step": "step"} | {
        name: name.removeprefix("test/") for name in row if name.startswith("test/")
    }
    return {short: row[name] for name, short in names.items()}
