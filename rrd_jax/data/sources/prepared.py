"""Opens data sets of TFDS, and prepares those whose source files are on the machine."""

import contextlib
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from rrd_jax import errors
from rrd_jax.data.builders import registry, resized
from rrd_jax.data.source import Source
from rrd_jax.data.sources import split_expressions, stored_examples
from rrd_jax.data.splits import Splits, Summary


def open_source(source: Source) -> Splits:
    """Opens a data set of DATASETS or of TFDS.

    Raises:
      InputError: the name or split is unknown, or the data set is not prepared; the message names
        a remedy.
    """
    if source.options:
        raise errors.InputError(
            f"data set '{source.name}' takes no data.options ({', '.join(dict(source.options))});"
            " remove them"
        )
    with _mock_tfds(source), registry.quiet():
        builder = registry.create_builder(source.name, source.dir, source.manual_dir)
        if not source.mock_examples:
            builder = _prepared(source.name, builder, source.dir)
        features = stored_examples.image_and_label(
            source.name, builder.info, use_labels=source.use_labels
        )
        train, test = (
            _read(source, builder, split, features)
            for split in (source.train_split, source.test_split)
        )
    count, names = _classes(builder.info.features, features)
    shared = repeated = 0
    if not source.mock_examples:
        parts = [
            stored_examples.file_ranges(builder, s) for s in (source.train_split, source.test_split)
        ]
        shared = split_expressions.overlap(*parts)
        repeated = split_expressions.repeated(parts[0])
    version, channels = builder.info.full_name, builder.info.features[features.image].shape[-1]
    summary = Summary()
    if size := None if source.mock_examples else resized.read_note(builder.data_dir):
        version, summary = f"{version}, {size}", _summarize_resized(source, size)
    return Splits(version, count, channels, train, test, names, summary, shared, repeated=repeated)


def open_masked(source: Source) -> Splits:
    """Opens the images and masks of a data set of TFDS, without labels.

    Raises:
      InputError: see `open_source`; or the data set has no masks.
    """
    with registry.quiet():
        builder = registry.create_builder(source.name, source.dir, source.manual_dir)
        builder = _prepared(source.name, builder, source.dir)
        features = stored_examples.image_and_mask(source.name, builder.info)
        remedy = registry.remedy(source.name, source.dir)
        train, test = (
            stored_examples.open_stored(source.name, builder, split, features, remedy)
            for split in (source.train_split, source.test_split)
        )
    return Splits(builder.info.full_name, 0, 3, train, test)


def _summarize_resized(source: Source, size: resized.Resize) -> Summary:
    """Returns a summary of images that were scaled down during preparation."""
    needed = source.resize if source.crops_on_host else source.image_size
    warnings = ()
    if needed > size.short:
        field = "data.resize" if source.crops_on_host else "data.image_size"
        warnings = (
            f"{field} is {needed}, but the images of '{source.name}' were prepared with {size}:"
            " images are scaled up; for larger images prepare the data set again",
        )
    return Summary((f"images of '{source.name}' were prepared with {size}",), warnings)


def _classes(info: Any, features: stored_examples.Features) -> tuple[int, tuple[str, ...]]:
    """Returns the number of classes and the class names; () if names are missing."""
    if not features.label:
        return 0, ()
    label = info[features.label]
    names = tuple(label.names or ())
    return label.num_classes, names if len(names) == label.num_classes else ()


def _mock_tfds(source: Source) -> contextlib.AbstractContextManager:
    """Makes TFDS return random examples if `mock_examples` is set."""
    if not source.mock_examples:
        return contextlib.nullcontext()
    return tfds.testing.mock_data(num_examples=source.mock_examples)


def _prepared(name: str, builder: Any, folder: str) -> Any:
    if registry.prepares_itself(name) and not builder.is_prepared():
        with registry.alone(name, builder):
            if not builder.is_prepared():
                registry.prepare(name, builder)
    registry.check_prepared(name, builder)
    # A builder from a directory can be pickled, so its sources can be sent to worker processes.
    # Damaged files raise errors of TFDS, protobuf or json.
    try:
        return tfds.builder_from_directory(builder.data_dir)
    except Exception as error:
        raise registry.damaged(name, builder.data_dir, folder, str(error)) from error


def _read(
    source: Source, builder: Any, split: str, features: stored_examples.Features
) -> Sequence[dict[str, Any]]:
    if source.mock_examples:
        examples = stored_examples.random_examples(builder, split, features)
    else:
        remedy = registry.remedy(source.name, source.dir)
        examples = stored_examples.open_stored(source.name, builder, split, features, remedy)
    if source.use_labels and examples[0]["label"] < 0:
        raise errors.InputError(f"split '{split}' of data set '{source.name}' has no labels")
    return examples
