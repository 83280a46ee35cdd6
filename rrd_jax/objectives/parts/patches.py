"""Patches of student and teacher on a common grid, and random patches of each image."""

from typing import Any, NamedTuple

import jax

from rrd_jax import errors, functional
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.parts import projections

# The parts of an objective that are compared: embeddings of images, patches, or both.
OVER = ("images", "patches", "both")
_KEY = 1


class Grid(NamedTuple):
    """The height and width of a grid of patches."""

    height: int
    width: int

    @property
    def count(self) -> int:
        """The number N of patches."""
        return self.height * self.width


def grid(student: Any, teacher: Any) -> Grid:
    """Returns the finer grid of the patches of two networks' Outputs; if equal, the teacher's."""
    grids = [Grid(*outputs.patches.shape[1:3]) for outputs in (teacher, student)]
    return max(grids, key=lambda grid: grid.count)


def on_grid(patches: jax.Array, target: Grid) -> jax.Array:
    """Resizes patches [B, h, w, D] to a grid, bilinear with half-pixel centers, not antialiased.

    Returns:
      [B, N, D], row by row, float32 or wider.
    """
    resized = functional.resize(functional.wide(patches), target)
    return resized.reshape(len(patches), target.count, patches.shape[-1])


def pairs(head: projections.Head, student: Any, teacher: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the patches of student and teacher on the finer of their grids.

    Args:
      head: the student's head, which is applied before the student's patches are resized.
      student: the student's Outputs.
      teacher: the teacher's Outputs, constant for gradients.

    Returns:
      (student [B, N, D], teacher [B, N, D]), float32.
    """
    target = grid(student, teacher)
    projected = projections.apply_head(head, student.patches)
    return on_grid(projected, target), jax.lax.stop_gradient(on_grid(teacher.patches, target))


def init_head(
    key: jax.Array, student: Any, teacher: Any, head: str, width: int | None
) -> projections.Head:
    """Initializes a head from the student's patches to the dimension of the teacher's patches."""
    features, dim = (outputs.patches.shape[-1] for outputs in (student, teacher))
    return projections.init_head(key, features, dim, head, width)


def draw(key: jax.Array, draws: jax.Array, index: jax.Array, total: int, count: int) -> jax.Array:
    """Draws patches of each image without replacement.

    Args:
      key: a typed PRNG key.
      draws: [] int32, number of earlier draws, such as the step.
      index: [B] int32, the images. The draw of an image depends on `key`, `draws` and its index
        only, not on the other images or the devices.
      total: number N of patches.
      count: number P of patches to draw, at most N.

    Returns:
      [B, P] int32 in [0, N), distinct in each row.
    """
    key = jax.random.fold_in(key, draws)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    numbers = jax.vmap(lambda key: jax.random.bits(key, (total,)))(keys)
    return jax.lax.top_k(numbers, count)[1]


def check(over: str, **weights: float) -> None:
    """Raises an InputError for an unknown value of `over`, or weights that are not at least 0.

    Args:
      over: a name in OVER.
      **weights: the weights of the terms over patches, not all 0 if nothing else is compared.
    """
    errors.lookup("over", over, dict.fromkeys(OVER))
    errors.check_positive(**{name: weight for name, weight in weights.items() if weight != 0})
    if over == "patches" and not any(weights.values()):
        raise errors.InputError(
            f"over is 'patches', but {' and '.join(weights)} are 0, so nothing is compared; set one"
            " of them above 0"
        )


def combined(over: str, images: Objective, patches: Objective | None) -> Objective:
    """Combines an objective over images and one over patches.

    Args:
      over: a name in OVER.
      images: the objective over images.
      patches: the objective over patches; None if its weights are 0.

    Returns:
      One of the objectives, or their sum, whose state contains those of "images" and "patches". The
      part over images starts with the state that it has alone.
    """
    if over == "images" or patches is None:
        return images
    if over == "patches":
        return patches
    parts = {"images": images, "patches": patches}

    def init(key, student, teacher):
        keys = {"images": key, "patches": jax.random.fold_in(key, _KEY)}
        states = {name: part.init(keys[name], student, teacher) for name, part in parts.items()}
        return ObjectiveState(*_by_part(states))

    def head_of(name):
        head = {"images": images.head, "patches": patches.patch_head}[name]
        return head and (lambda state: head(_of_part(state, name)))

    def loss(state, student, teacher, batch):
        total, memories = 0.0, {}
        for name, part in parts.items():
            losses, memories[name] = part.loss(_of_part(state, name), student, teacher, batch)
            total += losses
        return total, memories

    def measure(state, teacher, labels):
        states = {
            name: part.measure(_of_part(state, name), teacher, labels)
            for name, part in parts.items()
        }
        return ObjectiveState(*_by_part(states))

    return patches._replace(
        init=init,
        loss=loss,
        head=head_of("images"),
        patch_head=head_of("patches"),
        head_needs_memory=images.head_needs_memory or patches.head_needs_memory,
        measure=images.measure and measure,
        needs_index=images.needs_index or patches.needs_index,
    )


def _of_part(state: ObjectiveState, name: str) -> ObjectiveState:
    # A head may be computed from a state without memory.
    return ObjectiveState(*(field and field[name] for field in state))


def _by_part(states: dict[str, ObjectiveState]) -> list[dict[str, Any]]:
    return [
        {name: getattr(state, field) for name, state in states.items()}
        for field in ObjectiveState._fields
    ]
