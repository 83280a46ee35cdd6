"""Reads the config files of timm and transformers next to a weight file.

The files name the network, the classes and the preprocessing of images.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from rrd_jax import errors, networks, user_paths
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.weights import published, transformers_config

# Arguments of timm's networks that do not change their outputs at test time.
_HARMLESS = {
    *("num_classes", "in_chans", "img_size"),
    *("drop_rate", "drop_path_rate", "drop_block_rate"),
}
_DEFAULTS = {"output_stride": 32}


class Sidecar(NamedTuple):
    """The content of the config files next to a weight file.

    Attributes:
      model: name of the network, "" if it is missing or not supported.
      num_classes: C; None if it is missing.
      class_names: class names in the order of labels; () if they are missing.
      preprocessing: preprocessing of images; None if it is missing or not supported.
    """

    model: str = ""
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


def read(file: pathlib.Path, model: str = "") -> Sidecar:
    """Reads config.json and preprocessor_config.json in the folder of a weight file.

    Args:
      file: the weight file.
      model: expected name of the network; "" for the network that the config names.

    Raises:
      InputError: the config describes another network, or a network with the same entries that
        computes another function, or its classes or preprocessing are invalid.
    """
    content = user_paths.read_object(file.with_name("config.json")) or {}
    location = str(file.with_name("config.json"))
    try:
        if isinstance(content.get("architecture"), str):
            return _read_timm(file, content, model)
        if content.get("model_type") in transformers_config.KINDS:
            return _read_transformers(file, content, model)
        return Sidecar()
    except errors.InputError as error:
        message = str(error)
        is_located = str(file.parent) in message
        raise errors.InputError(message if is_located else f"{location}: {message}") from None
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise errors.InputError(
            f"{location} is damaged ({type(error).__name__}: {error}); download or remove it"
        ) from error


def _read_timm(file: pathlib.Path, content: dict[str, Any], model: str) -> Sidecar:
    """Reads timm's config.json, with class names and preprocessing in pretrained_cfg or outside."""
    images = content.get("pretrained_cfg", content)
    name = published.from_timm(content["architecture"], str(images.get("tag") or ""))
    architecture = content["architecture"].split(".")[0]
    record = published.lookup(model or name)
    if model and architecture not in (model, record.timm) and _is_timm_config(content):
        raise errors.InputError(
            f"{file} holds timm's {architecture} according to its config.json, not {model}; set"
            " the model to the network of the file"
        )
    count = content.get("num_classes", images.get("num_classes"))
    if model or name:
        arguments = dict(content.get("model_args") or {})
        if "global_pool" in record.timm_args:
            # Without a classifier the pooling does not matter; timm also states it outside.
            stated = arguments.get("global_pool", content.get("global_pool"))
            arguments["global_pool"] = stated if count else record.timm_pool
        _check_arguments(file, architecture, arguments, record)
    names = content.get("label_names") or images.get("label_names") or ()
    if isinstance(names, Mapping):
        names = [names[str(label)] for label in range(len(names))]
    class_names = _class_names(file, names, count)
    return Sidecar(name, count, class_names, _timm_preprocessing(images))


def _is_timm_config(content: dict[str, Any]) -> bool:
    return ":" not in content["architecture"] and "pretrained_cfg" in content


def _check_arguments(
    file: pathlib.Path, architecture: str, arguments: Mapping[str, Any], record: published.Published
) -> None:
    """Raises an InputError for arguments that change the function of timm's network."""
    expected = {**_DEFAULTS, "global_pool": record.timm_pool, **record.timm_args}
    for name, value in {**dict.fromkeys(record.timm_args), **arguments}.items():
        if name not in _HARMLESS and value != expected.get(name):
            raise errors.InputError(
                f"{file} holds timm's {architecture} with {name}={value} according to its"
                f" config.json, which is not supported; use weights with"
                f" {name}={expected.get(name)}"
            )


def _class_names(file: pathlib.Path, names: Any, count: int | None) -> tuple[str, ...]:
    # A backbone without a classifier has 0 classes.
    if count is not None and count != 0:
        errors.check_counts(num_classes=count)
    if not isinstance(names, list | tuple):
        raise TypeError("label_names is not a list")
    if names and count not in (None, len(names)):
        raise errors.InputError(
            f"the config.json next to {file} names {len(names)} classes of {count}; remove the"
            " names or add the missing ones"
        )
    return tuple(map(str, names))


def _timm_preprocessing(content: Mapping[str, Any]) -> Preprocessing | None:
    if not all(name in content for name in ("input_size", "mean", "std")):
        return None
    channels, height, width = content["input_size"]
    crop = float(content.get("crop_pct") or 0.875)
    fit = content.get("crop_mode", "center")
    if height != width or not (fit == "center" or (fit == "squash" and crop == 1)):
        return None
    resize = math.floor(height / crop) if fit == "center" else None
    moments = (content["mean"], content["std"])
    return _preprocessing(height, channels, *moments, resize, content.get("interpolation"))


def to_timm(preprocessing: Preprocessing) -> dict[str, Any]:
    """Converts a preprocessing to timm's pretrained_cfg, which `read` reads.

    timm's "bilinear" filter is antialiased, as in rrd_jax. Other filters are kept.
    """
    size, resize = preprocessing.image_size, preprocessing.resize
    crop = size / resize if resize else 1.0
    # timm computes floor(size / crop), which rounding errors could make too small.
    while resize and math.floor(size / crop) < resize:
        crop = math.nextafter(crop, 0)
    return {
        "input_size": [preprocessing.channels, size, size],
        "fixed_input_size": False,
        "interpolation": preprocessing.interpolation,
        "crop_pct": crop,
        "crop_mode": "center" if resize else "squash",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def _read_transformers(file: pathlib.Path, content: dict[str, Any], model: str) -> Sidecar:
    """Reads the config.json of transformers and the preprocessor_config.json next to it."""
    fitting = transformers_config.names(content, str(file))
    if model and networks.canonical(model) not in fitting:
        raise errors.InputError(
            f"{file} holds {fitting[0]} according to its config.json, not {model}; set the model to"
            f" {fitting[0]}"
        )
    labels = content.get("id2label") or {} if transformers_config.is_classifier(content) else {}
    names = [labels[str(label)] for label in range(len(labels))]
    # transformers writes these names if a model has none.
    if names == [f"LABEL_{label}" for label in range(len(names))]:
        names = []
    vision = content.get("vision_config") or content
    images = user_paths.read_object(file.with_name("preprocessor_config.json")) or {}
    preprocessing = _processor_preprocessing(images, vision.get("num_channels", 3))
    if preprocessing and (moments := transformers_config.inner_moments(vision, content)):
        preprocessing = _normalized_twice(preprocessing, *moments)
    return Sidecar(model or fitting[0], len(labels) or None, tuple(names), preprocessing)


# Pillow's number of the bicubic filter.
_BICUBIC = 3
# From this image size in pixels on, the processor of ConvNeXts scales images without a crop.
_NO_CROP_SIZE = 384


def _processor_preprocessing(content: Mapping[str, Any], channels: int) -> Preprocessing | None:
    size, crop, resize = content.get("size"), content.get("crop_size"), None
    has_crop = crop is not None and content.get("do_center_crop", True)
    # Earlier versions of transformers write a number.
    if isinstance(size, int):
        is_short = has_crop or content.get("crop_pct")
        size = {"shortest_edge": size} if is_short else {"height": size, "width": size}
    is_normalized = content.get("do_normalize", True)
    if not isinstance(size, Mapping) or (is_normalized and "image_mean" not in content):
        return None
    short = size.get("shortest_edge")
    if short and has_crop:
        image_size, resize = crop if isinstance(crop, int) else crop["height"], short
    elif short and content.get("crop_pct"):
        image_size = short
        resize = int(short / content["crop_pct"]) if short < _NO_CROP_SIZE else None
    elif "height" in size and size["height"] == size.get("width"):
        image_size = size["height"]
    else:
        return None
    # The processor computes (pixel * factor - mean) / std; here, pixels are divided by 255.
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    unit = 1 if math.isclose(255 * factor, 1, rel_tol=1e-6) else 255 * factor
    mean, std = [0.0] * channels, [1.0] * channels
    if is_normalized:
        mean, std = content["image_mean"], content["image_std"]
    moments = [[value / unit for value in values] for values in (mean, std)]
    filter_name = {_BICUBIC: "bicubic"}.get(content.get("resample"))
    return _preprocessing(image_size, channels, *moments, resize, filter_name)


def _normalized_twice(outer: Preprocessing, mean: Any, std: Any) -> Preprocessing:
    """Returns a preprocessing followed by a normalization inside the network."""
    rows = list(zip(outer.mean, outer.std, map(float, mean), map(float, std), strict=True))
    return dataclasses.replace(
        outer,
        mean=tuple(m + s * inner_mean for m, s, inner_mean, _ in rows),
        std=tuple(s * inner_std for _, s, _, inner_std in rows),
    )


def _preprocessing(
    image_size: int,
    channels: int,
    mean: Any,
    std: Any,
    resize: int | None,
    filter_name: str | None,
) -> Preprocessing:
    """Returns the preprocessing of a file; replaces filters other than bicubic by bilinear."""
    moments = [tuple(map(float, values)) for values in (mean, std)]
    interpolation = "bicubic" if filter_name == "bicubic" else "bilinear"
    return Preprocessing(image_size, channels, *moments, resize, interpolation)
