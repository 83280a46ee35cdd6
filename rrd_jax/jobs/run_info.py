"""Descriptions of networks: `model.json` and the model card README.md of a run folder."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrd_jax import data, errors, parallel
from rrd_jax.data.model_info import ModelInfo, Preprocessing, from_json
from rrd_jax.data.source import Source
from rrd_jax.run_folder import atomic_write, model_card, provenance, source_code
from rrd_jax.settings import kinds
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Recipe, Training
from rrd_jax.weights import pretrained

_FILE = "model.json"


def describe_run(
    recipe: Recipe, dataset: data.Dataset, teacher: FrozenNetwork | None, parameters: int
) -> ModelInfo:
    """Describes the network of a run before its first step; `parameters` is their number."""
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
            "dataset_name": dataset.display_name,
            "images": len(dataset.train),
            "parameters": parameters,
            "objectives": {name: float(term.weight) for name, term in terms.items()},
            "epochs": training.epochs,
            "seed": training.seed,
            "average": training.ema > 0,
            "teachers": [dict(origin) for origin in teacher.origins] if teacher else [],
            "code": code(training, dataset, teacher),
            "start": provenance.describe(),
        },
    )


def code(
    training: Training, dataset: data.Dataset, teacher: FrozenNetwork | None = None
) -> dict[str, str]:
    """Returns the digests of the user's code that a run executes, see `source_code.digests`."""
    network, optimizer = training.network, training.optimizer
    objectives = (choice.objective or choice.factory for choice in training.objectives)
    teachers = (teacher.network, *(o["model"] for o in teacher.origins)) if teacher else ()
    return source_code.digests(
        [
            network.network or network.model,
            *objectives,
            optimizer.transform or optimizer.name,
            optimizer.schedule_name,
            *dataset.code,
            *teachers,
        ]
    )


def preprocessing(
    dataset: data.Dataset, mean: tuple[float, ...], std: tuple[float, ...]
) -> Preprocessing:
    """Returns the preprocessing of a data set's test images."""
    size, _, channels = dataset.image_shape
    return Preprocessing(
        size,
        channels,
        tuple(mean),
        tuple(std),
        dataset.resize,
        background=dataset.background,
    )


def write(folder: pathlib.Path, about: dict[str, Any]) -> None:
    """Writes the description of a run to its folder, as JSON and with metrics as a model card.

    Logs a warning if a file cannot be written, because checkpoints contain the same description.
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
            f"{_FILE} or the model card cannot be written in {folder} ({reason}); training"
            " continues, and checkpoints contain the same description"
        )


def describe_checkpoint(
    meta: Mapping[str, Any], fields: Mapping[str, Any] | None, folder: pathlib.Path
) -> ModelInfo:
    """Describes the network of a checkpoint or file.

    Args:
      meta: metadata of the checkpoint or file, from `weights.files.load`.
      fields: the config in the run folder, for checkpoints of earlier versions; None if missing.
      folder: the run folder.
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
    size, _, channels = image_shape
    # `Source` replaces values that are "auto".
    background = chosen.get("background", kinds.NO_COLOR)
    source = Source(
        image_size=size,
        augment=chosen.get("augment", "none"),
        resize=chosen["resize"],
        background=background,
    )
    return Preprocessing(
        size,
        channels,
        tuple(chosen["mean"]),
        tuple(chosen["std"]),
        source.resize if source.crops_on_host else None,
        background=source.background,
    )
