"""What a run knows of itself: `model.json` and the model card README.md of its folder."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax import data, errors, parallel
from rrd_jax.data.model_info import ModelInfo, Preprocessing, from_json
from rrd_jax.data.source import HOST_AUGMENTATIONS
from rrd_jax.run_folder import atomic_write, model_card, provenance
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Recipe
from rrd_jax.weights import pretrained

_FILE = "model.json"


def describe_run(
    recipe: Recipe, dataset: data.Dataset, teacher: FrozenNetwork | None, parameters: int
) -> ModelInfo:
    """What is known of a run's network before its first step; `parameters` are counted."""
    training = recipe.training
    choice, terms = training.network, recipe.terms
    classifier = next((name for name, term in terms.items() if term.objective.predict), "")
    return ModelInfo(
        model=choice.model,
        num_classes=dataset.num_classes,
        options=dict(choice.options),
        class_names=dataset.class_names,
        preprocessing=preprocessing(dataset, training.mean, training.std),
        classifier=classifier,
        training={
            "run": training.label,
            "dataset": dataset.version,
            "images": len(dataset.train),
            "parameters": parameters,
            "objectives": {name: float(term.weight) for name, term in terms.items()},
            "epochs": training.epochs,
            "seed": training.seed,
            "average": training.ema > 0,
            "teachers": [dict(origin) for origin in teacher.origins] if teacher else [],
            "start": provenance.describe(),
        },
    )


def preprocessing(
    dataset: data.Dataset, mean: tuple[float, ...], std: tuple[float, ...]
) -> Preprocessing:
    """How the images of a data set's test split become what the network sees."""
    size, _, channels = dataset.image_shape
    return Preprocessing(size, channels, tuple(mean), tuple(std), dataset.resize)


def write(folder: pathlib.Path, about: dict[str, Any]) -> None:
    """Keeps what a run knows of itself in its folder, as JSON, and once tested as a model card.

    Where that cannot be written, a warning says so: checkpoints hold the same.
    """
    if not parallel.is_main():
        return
    try:
        atomic_write.write_json(folder / _FILE, about)
        if about["metrics"]:
            model_card.write(folder, from_json(about, str(folder / _FILE)))
    except errors.InputError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        console.warn(
            f"what the run knows of itself is not kept beside its checkpoints in {folder}"
            f" ({reason}); they hold it too, and the run goes on"
        )


def describe_checkpoint(
    meta: Mapping[str, Any], fields: Mapping[str, Any] | None, folder: pathlib.Path
) -> ModelInfo:
    """What is known of weights that were read.

    Args:
      meta: of the checkpoint or file, as `weights.files.load` gives it.
      fields: the config that the run's folder keeps; None where there is none. Runs of earlier
        versions say no more.
      folder: the run's.
    """
    if meta.get("about"):
        return from_json(meta["about"], str(folder))
    choice = (fields or {}).get("student", {})
    return ModelInfo(
        model=meta["model"],
        num_classes=meta["num_classes"],
        options=choice.get("options", {}) if choice.get("model") == meta["model"] else {},
        class_names=pretrained.class_names(meta, folder),
        preprocessing=_of_fields(fields["data"], meta["image_shape"]) if fields else None,
        classifier=meta.get("classifier", ""),
        training={"dataset": meta["dataset"]} if meta.get("dataset") else {},
    )


def _of_fields(chosen: Mapping[str, Any], image_shape: Sequence[int]) -> Preprocessing:
    crops = chosen.get("augment") in HOST_AUGMENTATIONS
    size, _, channels = image_shape
    resize = chosen["resize"] if crops else None
    return Preprocessing(size, channels, tuple(chosen["mean"]), tuple(chosen["std"]), resize)
