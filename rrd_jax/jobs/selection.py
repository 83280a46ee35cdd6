"""The choice of a run's best checkpoint."""

import pathlib

from rrd_jax import checkpoints, data, networks
from rrd_jax.teacher.ensemble import member_networks
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.training import criterion
from rrd_jax.training.recipe import Recipe

# With fewer held-out images, the ten nearest would be nearly all of them.
_MIN_IMAGES = 12


def choose(recipe: Recipe, dataset: data.Dataset, teacher: FrozenNetwork | None) -> str:
    """Returns the criterion that chooses the best checkpoint of a run; "" for none.

    Args:
      recipe: recipe of the run.
      dataset: the data set.
      teacher: the frozen teacher; None for a run without a teacher.
    """
    validated = dataset.validation is not None
    if dataset.labelled:
        return criterion.create("top1", validated=validated)
    if teacher and _is_aligned(recipe, dataset, teacher):
        split = dataset.validation if validated else dataset.test
        has_many = min(len(split), recipe.training.alignment.images) >= _MIN_IMAGES
        return criterion.create(f"neighbours_{10 if has_many else 1}", validated=validated)
    if teacher and teacher.compares and dataset.num_classes:
        return criterion.create("agreement", validated=validated)
    return ""


def _is_aligned(recipe: Recipe, dataset: data.Dataset, teacher: FrozenNetwork) -> bool:
    """Returns True if embeddings of held-out images can be compared with the teacher's.

    Both networks need an embedding, and each split needs at least three images.
    """
    members = (recipe.student, *member_networks(teacher.network))
    outputs = (networks.summarize(network, dataset.image_shape).outputs for network in members)
    splits = [dataset.test, *([dataset.validation] if dataset.validation is not None else [])]
    has_embeddings = not any(isinstance(output.embedding, tuple) for output in outputs)
    return has_embeddings and min(map(len, splits)) >= 3


def resumed_best(
    name: str, best: dict[str, float], folder: pathlib.Path, steps_per_epoch: int
) -> dict[str, float]:
    """Returns the best epoch so far of a resumed run.

    Runs of version 0.2.0 without labels chose by the held-out loss. Their best epoch becomes the
    best of the checkpoints that remain.

    Args:
      name: the criterion of the run.
      best: the best epoch that the newest checkpoint stores.
      folder: folder of the checkpoints.
      steps_per_epoch: updates per epoch.
    """
    key = criterion.key(name)
    if not name or key in best:
        return best
    scored = checkpoints.scores(folder)
    if not scored:
        return {"epoch": 0}
    step = checkpoints.best(scored)
    return {"epoch": step // steps_per_epoch, key: scored[step]}
