"""A run's proof: what held-out images show of its student beside its teacher."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import data, errors, networks, parallel
from rrd_jax.evaluation import alignment, knn, predictions
from rrd_jax.networks import Outputs
from rrd_jax.objectives import Objective, ObjectiveState
from rrd_jax.teacher import labelled
from rrd_jax.teacher.ensemble import networks_of
from rrd_jax.teacher.frozen import FrozenNetwork, held_out
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Recipe


class Proof:
    """Looks at a student as it is trained.

    Args:
      recipe: of the run.
      dataset: whose test split is held out.
      mesh: the devices.
      teacher: of whose embeddings those of held-out images are computed once.

    Raises:
      InputError: eval.knn or eval.labelled asks for embeddings that memory does not hold.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: data.Dataset,
        mesh: jax.sharding.Mesh,
        teacher: FrozenNetwork,
    ):
        self._recipe, self._dataset, self._mesh, self._teacher = recipe, dataset, mesh, teacher
        self._training, self._choice = recipe.training, recipe.training.proof
        self._split = held_out(dataset, self._choice.images)
        self._embed = predictions.compile_embed(
            recipe.student, self._training.normalize, mesh, fast_cpu=self._training.fast_cpu
        )
        self._everywhere = parallel.replicated(mesh)
        self._collapsed = 0  # looks in a row
        self._judged, self._floor = dataset.few or dataset, {}
        if self._choice.classifies:
            self._check_judged()
        self._beside_floor = {
            name: _beside_floor(objective, mesh)
            for name, objective in recipe.objectives.items()
            if objective.floor
        }

    def look(
        self,
        variables: Any,
        epoch: int,
        objectives: Mapping[str, ObjectiveState] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float]:
        """The figures of a student after an epoch; none where it is not time for some.

        Those of `alignment.compare`, with teacher_effective_rank and teacher_deviation, and for
        each objective with a floor, such as rrd, loss/rrd beside floor/rrd, in nats. With eval.labelled,
        or after the last epoch with eval.knn, those of `teacher.labelled.of`, for a student with
        random weights and the teacher too: random_knn_20, teacher_probe and so on. After the last
        epoch the others of a random student then stand beside them.

        Args:
          variables: of the student.
          epoch: that has ended, from 1.
          objectives: what each carries; None for no losses.
          stop: whether to break off; asked after each batch.

        Raises:
          StoppedError: `stop` said so.
        """

        def after(share: float) -> None:
            del share
            if stop():
                raise predictions.StoppedError

        last = epoch == self._training.epochs
        is_time = last or epoch % self._choice.every == 0
        compares = self._choice.on and is_time
        classifies = self._choice.classifies and (is_time if self._choice.labelled else last)
        if not (compares or classifies):
            return {}
        embeddings, found = self._held_out(variables, after), {}
        if not np.isfinite(embeddings).all():
            return {}  # the run ends with that
        if compares:
            found |= alignment.compare(embeddings, self._teacher.held_out)
            found |= self._losses(embeddings, objectives or {})
            self._look_for_collapse(found, epoch)
            found |= _named("teacher", self._teacher.held_out.spread)
        if not classifies:
            return found
        found |= self._classified(variables, after)
        return found | (self._random_figures(after) if compares and last else {})

    def _held_out(self, variables: Any, after: Callable[[float], None]) -> np.ndarray:
        """Embeddings [N, D] of the held-out images."""
        size = self._training.eval_batch_size
        return predictions.collect_embeddings(
            self._embed, variables, self._split, size, self._mesh, after
        )[0]

    def _losses(
        self, embeddings: np.ndarray, objectives: Mapping[str, ObjectiveState]
    ) -> dict[str, float]:
        """The mean losses over held-out images, each beside its floor, in batches as in training.

        A last batch that is not whole is left out, unless it is the only one.
        """
        size = min(self._training.batch_size // self._training.accumulate, len(embeddings))
        pair = (embeddings, self._teacher.held_out.embeddings)
        starts = range(0, len(embeddings) - size + 1, size)
        batches = [parallel.put(self._everywhere, [e[i : i + size] for e in pair]) for i in starts]
        found = {}
        for name, compare in self._beside_floor.items():
            if name not in objectives:
                continue
            values = [compare(objectives[name], *batch) for batch in batches]
            loss, floor = np.mean(jax.device_get(values), axis=0, dtype=np.float64)
            found |= {f"loss/{name}": float(loss), f"floor/{name}": float(floor)}
        return {name: value for name, value in found.items() if np.isfinite(value)}

    def _classified(self, variables: Any, after: Callable[[float], None]) -> dict[str, float]:
        """What embeddings say of classes, between floor and ceiling.

        Where memory has become too small for them that is a warning: a whole run lies behind.
        """
        given = (self._judged, self._mesh, self._training, after)
        try:
            found = labelled.of(self._embed, variables, *given)
            self._floor = self._floor or labelled.of(self._embed, self._random(), *given)
            ceiling = self._teacher.labelled
        except errors.InputError as error:
            console.warn(f"[{self._training.label}] nearest images and probe: {error}")
            return {}
        return found | _named("random", self._floor) | _named("teacher", ceiling)

    def _random_figures(self, after: Callable[[float], None]) -> dict[str, float]:
        """Those without labels of a student that has learnt nothing."""
        embeddings = self._held_out(self._random(), after)
        return _named("random", alignment.compare(embeddings, self._teacher.held_out))

    def _check_judged(self) -> None:
        """Raises an InputError for too many labelled images; notes that there are few."""
        for network in (self._recipe.student, *networks_of(self._teacher.network)):
            outputs = networks.summarize(network, self._dataset.image_shape).outputs
            width = outputs.embedding.shape[-1]
            labelled.check_memory(self._judged, width, self._mesh, self._training)
        count = len(self._judged.train)
        if left_out := [str(k) for k in knn.KS if k > count]:
            console.note(
                f"[{self._training.label}] there are {count} labelled images: votes of"
                f" {', '.join(left_out)} nearest ones are left out"
            )

    def _random(self) -> Any:
        """Variables of a student that has learnt nothing."""

        def init():
            key = jax.random.key(self._training.seed)
            return networks.init(self._recipe.student, key, self._dataset.image_shape)

        return jax.jit(init, out_shardings=self._everywhere)()

    def _look_for_collapse(self, found: dict[str, float], epoch: int) -> None:
        """Warns, once, of a student whose embeddings are as good as constant.

        At the first look they may be: running statistics are not there yet.
        """
        doubt = alignment.describe_collapse(found, self._teacher.held_out)
        self._collapsed = self._collapsed + 1 if doubt else 0
        epochs = self._training.epochs
        if self._collapsed == 2 or (self._collapsed == 1 and epoch == epochs):
            console.warn(
                f"[{self._training.label}] after epoch {epoch} of {epochs} {doubt}; look at"
                " optimizer.learning_rate and the weights and temperatures of the objectives"
            )


def _beside_floor(objective: Objective, mesh: jax.sharding.Mesh) -> Callable:
    """(state, student's embeddings [B, D], teacher's [B, E]) -> (mean loss, mean floor), compiled.

    The memory stays what it is.
    """

    @functools.partial(parallel.with_mesh, mesh)
    def compare(state, student, teacher):
        student, teacher = (Outputs((), embedding) for embedding in (student, teacher))
        losses, _ = objective.loss(state, student, teacher, None)
        return jnp.mean(losses), jnp.mean(objective.floor(state, teacher))

    return jax.jit(compare, out_shardings=parallel.replicated(mesh))


def _named(whose: str, found: dict[str, float]) -> dict[str, float]:
    return {f"{whose}_{name}": value for name, value in found.items()}
