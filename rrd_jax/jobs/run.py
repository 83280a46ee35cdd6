"""Runs: settings and compiled programs, current position, start, resumption and checkpoints."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np

from rrd_jax import checkpoints, data, networks, parallel
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.jobs import progress, run_info, selection
from rrd_jax.jobs.program import Program, build
from rrd_jax.jobs.progress import Progress, Result
from rrd_jax.run_folder import source_code
from rrd_jax.teacher import cache_plan, measured_outputs
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console
from rrd_jax.training import criterion
from rrd_jax.training.recipe import Recipe, Training
from rrd_jax.training.state import TrainState
from rrd_jax.weights import pretrained

# The number of weights that are compared after the first epoch.
_SAMPLED = 2**22
_THREADS = futures.ThreadPoolExecutor(1, "state")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The fixed parts of a run.

    Attributes:
      recipe: the student, the terms of its loss and its training settings.
      folder: the run folder, for checkpoints, metrics and the model card.
      dataset: training and test split.
      mesh: the devices.
      checkpoints: the checkpoints in the folder.
      teacher: the frozen teacher; None if no objective needs a teacher.
      teacher_network: the teacher's network; None if no objective reads the teacher. A run with
        cross-entropy alone still reports the agreement with a teacher, but its steps do not apply
        the teacher.
      cache: the decision about the teacher cache.
      program: the compiled functions.
      parameters: number of parameters, including a classifier that replaces the student's.
      criterion: the criterion that chooses the best checkpoint; "" for none.
    """

    recipe: Recipe
    folder: pathlib.Path
    dataset: data.Dataset
    mesh: jax.sharding.Mesh
    checkpoints: checkpoints.Checkpoints
    teacher: FrozenNetwork | None
    teacher_network: networks.Network | None
    cache: cache_plan.Plan
    program: Program
    parameters: int
    criterion: str

    @property
    def training(self) -> Training:
        """The settings of the recipe."""
        return self.recipe.training

    @property
    def steps_per_epoch(self) -> int:
        """Updates per epoch; an incomplete last batch is dropped."""
        return len(self.dataset.train) // self.training.batch_size

    @property
    def teacher_is_cached(self) -> bool:
        """True if steps read cached embeddings instead of applying the teacher."""
        return bool(self.cache.place)


@dataclasses.dataclass
class Position:
    """The current position of a run.

    Attributes:
      step: updates made so far.
      progress: the JSON that checkpoints store next to the train state.
      about: description of the network, without metrics.
      first_weights: some of the student's trained weights before the first step, by path; empty for
        a resumed run, or if the student is not trained.
      collapsed: successive epochs whose predictions were nearly constant.
    """

    step: int
    progress: Progress
    about: ModelInfo
    first_weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    collapsed: int = 0
    _state: TrainState | None = None
    _creation: futures.Future | None = None

    @property
    def state(self) -> TrainState:
        """The train state. A thread creates the initial state while the step compiles."""
        if self._creation is not None:
            self._state, self.first_weights = self._creation.result()
            self._creation = None
        return self._state

    @state.setter
    def state(self, state: TrainState) -> None:
        self._state = state


def create(
    recipe: Recipe,
    folder: pathlib.Path,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    teacher: FrozenNetwork | None,
    manager: checkpoints.Checkpoints,
) -> Run:
    """Creates the Run of a recipe, whose programs compile at their first call."""
    reads_teacher = any(objective.needs_teacher for objective in recipe.objectives.values())
    network = teacher.network if teacher and reads_teacher else None
    plan = cache_plan.Plan("", "")
    if network and recipe.training.teacher_cache.use != "off":
        meta = checkpoints.read_meta(folder / "checkpoints")
        plan = cache_plan.plan(teacher.cache, recipe, meta and meta.get("recalls", False))
    program = build(
        recipe,
        mesh,
        dataset.image_shape,
        len(dataset.train) // recipe.training.batch_size,
        resident=dataset.train.on_device,
        teacher=network,
        teacher_is_cached=bool(plan.place),
    )
    parameters = networks.count_parameters(program.abstract.params["student"])
    if name := program.abstract.classifier:
        parameters += networks.count_parameters(program.abstract.params["objectives"][name])
    return Run(
        recipe,
        folder,
        dataset,
        mesh,
        manager,
        teacher,
        network,
        plan,
        program,
        parameters,
        selection.choose(recipe, dataset, teacher),
    )


def begin(run: Run, start: pretrained.InitialWeights | None = None) -> Position:
    """Starts the creation of the initial state.

    Args:
      run: the run.
      start: initial weights; None to read the weights of the recipe, if any.
    """
    training, dataset = run.training, run.dataset
    weights = start or pretrained.read(run.recipe, dataset)
    if not weights and training.freeze and getattr(run.recipe.student, "weights", None) is None:
        console.warn(
            f"[{training.label}] student.freeze freezes random weights; set student.checkpoint to"
            " start from trained weights"
        )
    progress_ = Progress(
        training.network.model,
        dataset.num_classes,
        list(dataset.image_shape),
        dataset.version,
        classifier=run.program.abstract.classifier,
        recalls=run.teacher_is_cached,
    )
    if not dataset.labelled:
        progress_.best = {"epoch": 0}
    position = Position(0, progress_, _about(run, weights.origin if weights else None))
    create_state = _state_creation(run, weights)
    # All processes must start their programs in the same order, so no thread is used.
    if jax.process_count() > 1:
        position.state, position.first_weights = create_state()
    else:
        position._creation = _THREADS.submit(create_state)
    return position


def _state_creation(
    run: Run, weights: pretrained.InitialWeights | None
) -> Callable[[], tuple[TrainState, Mapping[str, np.ndarray]]]:
    """Traces the creation of the initial state; returns a function that compiles and runs it."""
    seed, variables = run.training.seed, _teacher_with_head(run)
    arrays = weights and parallel.put(parallel.replicated(run.mesh), weights.weights)
    lowered = run.program.create.lower(seed, variables, arrays)

    def create_state() -> tuple[TrainState, Mapping[str, np.ndarray]]:
        state = _measured(run, lowered.compile()(seed, variables, arrays))
        # The weights are copied now because the first step overwrites them.
        return state, sample_weights(run, state)

    return create_state


def _measured(run: Run, state: TrainState) -> TrainState:
    """Returns the state with what objectives measure in the teacher's outputs; see `Objective`."""
    objectives = run.recipe.objectives
    measuring = {name: term for name, term in objectives.items() if term.measure}
    if not measuring:
        return state
    outputs, labels = measured_outputs.collect(
        run.teacher_network,
        run.teacher.evaluated(),
        run.dataset,
        run.mesh,
        run.training,
        count=max(term.measured for term in measuring.values()),
        with_patches=any(term.needs_patches for term in measuring.values()),
    )
    frozen = dict(state.frozen)
    for name, term in measuring.items():
        changed = term.measure(state.objective(name), outputs, labels).frozen
        frozen[name] = parallel.put(parallel.replicated(run.mesh), changed)
    return state.replace(frozen=frozen)


def _teacher_with_head(run: Run) -> Any:
    """Returns the teacher's variables if objectives can copy its classifier; or None."""
    if not run.teacher_network:
        return None
    outputs = networks.summarize(run.teacher_network, run.dataset.image_shape).outputs
    return run.teacher.evaluated() if outputs.head else None


def sample_weights(run: Run, state: TrainState) -> dict[str, np.ndarray]:
    """Returns the smallest of the student's trained arrays, by path, at most 4 million numbers.

    Arrays whose parts are on devices of other processes are omitted.
    """
    if run.recipe.fixed == "student":
        return {}
    frozen = run.training.frozen(run.recipe.student, run.dataset.image_shape)
    pairs = jax.tree_util.tree_leaves_with_path(state.params["student"])
    arrays = {networks.leaf_name(path): leaf for path, leaf in pairs}
    sample, total = {}, 0
    for name, array in sorted(arrays.items(), key=lambda pair: pair[1].size):
        total += array.size
        if total <= _SAMPLED and name not in frozen and array.is_fully_addressable:
            sample[name] = np.array(array)
    return sample


def resume(run: Run) -> Position | None:
    """Restores the newest intact checkpoint; returns None without an intact checkpoint."""
    restored = run.checkpoints.restore(run.program.abstract)
    if not restored:
        return None
    state, meta = restored
    progress_ = progress.read(meta, run.folder)
    progress_.recalls = run.teacher_is_cached
    progress.check_data(run.folder, progress_.dataset, run.dataset.version)
    recorded = progress_.about.get("training", {})
    about = _about(run, recorded.get("start_from"))
    source_code.warn_about_changes(
        f"the last checkpoint in {run.folder}", recorded.get("code"), about.training["code"]
    )
    progress_.best = selection.resumed_best(
        run.criterion, progress_.best, run.checkpoints.folder, run.steps_per_epoch
    )
    return Position(int(state.step), progress_, about, _state=state)


def _about(run: Run, origin: dict[str, str] | None) -> ModelInfo:
    """Describes the network, with the origin of its initial weights, if any."""
    about = run_info.describe_run(run.recipe, run.dataset, run.teacher, run.parameters)
    if not origin:
        return about
    return dataclasses.replace(about, training={**about.training, "start_from": origin})


def save(run: Run, position: Position, seconds: float, row: dict[str, Any] | None = None) -> None:
    """Starts writing a checkpoint.

    Args:
      run: the run.
      position: the position of the run.
      seconds: wall time of the run so far.
      row: metrics of the epoch that has just ended; None within an epoch.
    """
    progress_ = position.progress
    progress_.seconds = seconds
    metrics = progress_.about.get("metrics", {})
    if row:
        metrics = {name: row[name] for name in ("epoch", "step")} | _part(row, "test")
        metrics |= {f"val_{name}": value for name, value in _part(row, "val").items()}
        if run.criterion.startswith("proof/") and run.criterion in row:
            metrics[criterion.key(run.criterion)] = row[run.criterion]
        progress_.result = _result(run, progress_, row).to_json()
    progress_.about = dataclasses.replace(position.about, metrics=metrics).to_json()
    score = checkpoints.score(progress_.result) if row else None
    run.checkpoints.save(position.state, dataclasses.asdict(progress_), score)
    run_info.write(run.folder, progress_.about)


def _result(run: Run, progress_: Progress, row: dict[str, Any]) -> Result:
    return Result(
        label=run.training.label,
        model=run.training.network.model,
        top1=row.get("test/top1"),
        best_top1=progress_.best.get("top1"),
        best_epoch=progress_.best["epoch"],
        agreement=row.get("test/agreement"),
        parameters=run.parameters,
        seconds=progress_.seconds,
        checkpoint=str(run.folder / "checkpoints"),
        loss=None if run.dataset.labelled else row.get("test/loss"),
        best_loss=progress_.best.get("loss"),
        proof=_part(row, "proof"),
        best_by=run.criterion or None,
        score=row.get(run.criterion),
        best_score=progress_.best.get(criterion.key(run.criterion)),
        val=_part(row, "val"),
    )


def _part(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Returns the metrics with a prefix, by the rest of their names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): row[name] for name in row if name.startswith(start)}
