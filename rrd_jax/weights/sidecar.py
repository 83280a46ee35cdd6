"""What timm and Hugging Face write beside a file of weights: its network, classes and images."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from rrd_jax import errors, networks
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.weights import published, transformers_config

# Arguments of timm's networks that change nothing of what a network computes when it is tested.
_HARMLESS = {
    *("num_classes", "in_chans", "img_size"),
    *("drop_rate", "drop_path_rate", "drop_block_rate"),
}
_USUAL = {"output_stride": 32}


class Sidecar(NamedTuple):
    """What lies beside a file of weights.

    Attributes:
      model: our name of the network, "" where it is not said, or none of ours.
      num_classes: C; None where it is not said.
      class_names: in the order of labels; () where they are not said.
      preprocessing: of its images; None where it is not said, or cannot be done here.
    """

    model: str = ""
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


def read(file: pathlib.Path, model: str = "") -> Sidecar:
    """What lies beside a file of weights, in config.json and preprocessor_config.json.

    Args:
      file: of weights.
      model: our name of the network that they are to be of; "" for what lies there.

    Raises:
      InputError: it is of a network that computes something else than ours with the same entries,
        or says of its classes and images what cannot be.
    """
    content = _json(file.with_name("config.json"))
    where = str(file.with_name("config.json"))
    try:
        if isinstance(content.get("architecture"), str):
            return _of_timm(file, content, model)
        if content.get("model_type") in transformers_config.KINDS:
            return _of_transformers(file, content, model)
        return Sidecar()
    except errors.InputError as error:
        raise errors.InputError(str(error)) from None
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise errors.InputError(
            f"{where}, which lies beside the weights, is damaged ({type(error).__name__}: {error})"
        ) from error


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = errors.read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _of_timm(file: pathlib.Path, content: dict[str, Any], model: str) -> Sidecar:
    """Of timm's config.json, where names and images may stand in pretrained_cfg or above it."""
    images = content.get("pretrained_cfg", content)
    architecture = content["architecture"].split(".")[0]
    ours = published.from_timm(architecture)
    known = published.of(model or ours)
    if model and architecture not in (model, known.timm) and _is_timms(content):
        raise errors.InputError(
            f"{file} is of timm's {architecture}, as the config.json beside it says, not of {model}"
        )
    if model or ours:
        _check_arguments(file, architecture, content.get("model_args") or {}, known)
    count = content.get("num_classes", images.get("num_classes"))
    names = content.get("label_names") or images.get("label_names") or ()
    if isinstance(names, Mapping):
        names = [names[str(label)] for label in range(len(names))]
    return Sidecar(ours, count, _names(file, names, count), _images_of_timm(images))


def _is_timms(content: dict[str, Any]) -> bool:
    return ":" not in content["architecture"] and "pretrained_cfg" in content


def _check_arguments(
    file: pathlib.Path, architecture: str, arguments: Mapping[str, Any], known: published.Published
) -> None:
    """Raises an InputError for arguments with which timm's network computes something else."""
    wanted = {**_USUAL, "global_pool": known.timm_pool, **known.timm_args}
    for name, value in {**dict.fromkeys(known.timm_args), **arguments}.items():
        if name not in _HARMLESS and value != wanted.get(name):
            raise errors.InputError(
                f"{file} is of timm's {architecture} with {name}={value}, as the config.json beside"
                f" it says, which is no network here: that here has {name}={wanted.get(name)}"
            )


def _names(file: pathlib.Path, names: Any, count: int | None) -> tuple[str, ...]:
    if count is not None and count != 0:  # of a backbone alone
        errors.check_counts(num_classes=count)
    if not isinstance(names, list | tuple):
        raise TypeError("names of classes are no list")
    if names and count not in (None, len(names)):
        raise errors.InputError(
            f"the config.json beside {file} names {len(names)} classes of {count}: take the names"
            " out of it, or put the others in"
        )
    return tuple(map(str, names))


def _images_of_timm(content: Mapping[str, Any]) -> Preprocessing | None:
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


def to_timm(wanted: Preprocessing) -> dict[str, Any]:
    """How images are treated, as timm's pretrained_cfg has it; `read` reads it.

    timm shrinks by "bilinear" with the average of what a new pixel covers, as here; whoever
    writes weights that were read with another filter keeps that one.
    """
    size = wanted.image_size
    crop = size / wanted.resize if wanted.resize else 1.0
    while wanted.resize and math.floor(size / crop) < wanted.resize:  # by rounding
        crop = math.nextafter(crop, 0)
    return {
        "input_size": [wanted.channels, size, size],
        "fixed_input_size": False,
        "interpolation": wanted.interpolation,
        "crop_pct": crop,
        "crop_mode": "center" if wanted.resize else "squash",
        "mean": list(wanted.mean),
        "std": list(wanted.std),
    }


def _of_transformers(file: pathlib.Path, content: dict[str, Any], model: str) -> Sidecar:
    """Of a config.json of transformers, and a preprocessor_config.json beside it."""
    fitting = transformers_config.names(content, str(file))
    if model and networks.canonical(model) not in fitting:
        raise errors.InputError(
            f"{file} is of {fitting[0]}, as the config.json beside it says, not of {model}"
        )
    labels = content.get("id2label") or {} if transformers_config.is_classifier(content) else {}
    names = [labels[str(label)] for label in range(len(labels))]
    if names == [f"LABEL_{label}" for label in range(len(names))]:  # what it writes for none
        names = []
    vision = content.get("vision_config") or content
    images = _json(file.with_name("preprocessor_config.json"))
    preprocessing = _of_processor(images, vision.get("num_channels", 3))
    return Sidecar(model or fitting[0], len(labels) or None, tuple(names), preprocessing)


_BICUBIC = 3  # of Pillow's filters
_FROM_384 = 384  # pixels; from there on the processor of ConvNeXts scales whole images


def _of_processor(content: Mapping[str, Any], channels: int) -> Preprocessing | None:
    size, crop, resize = content.get("size"), content.get("crop_size"), None
    has_crop = crop is not None and content.get("do_center_crop", True)
    if isinstance(size, int):  # as earlier versions have it
        is_short = has_crop or content.get("crop_pct")
        size = {"shortest_edge": size} if is_short else {"height": size, "width": size}
    if not isinstance(size, Mapping) or "image_mean" not in content:
        return None
    short = size.get("shortest_edge")
    if short and has_crop:
        image_size, resize = crop if isinstance(crop, int) else crop["height"], short
    elif short and content.get("crop_pct"):
        image_size = short
        resize = int(short / content["crop_pct"]) if short < _FROM_384 else None
    elif "height" in size and size["height"] == size.get("width"):
        image_size = size["height"]
    else:
        return None
    # (pixel * factor - mean) / std, in units of pixel / 255
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    unit = 1 if math.isclose(255 * factor, 1, rel_tol=1e-6) else 255 * factor
    mean, std = content["image_mean"], content["image_std"]
    if not content.get("do_normalize", True):
        mean, std = [0.0] * channels, [1.0] * channels
    moments = [[value / unit for value in values] for values in (mean, std)]
    scaled = {_BICUBIC: "bicubic"}.get(content.get("resample"))
    return _preprocessing(image_size, channels, *moments, resize, scaled)


def _preprocessing(
    image_size: int, channels: int, mean: Any, std: Any, resize: int | None, scaled: str | None
) -> Preprocessing:
    """Of a file; what scales images there is bilinear wherever it is not bicubic."""
    moments = [tuple(map(float, values)) for values in (mean, std)]
    usual = "bicubic" if scaled == "bicubic" else "bilinear"
    return Preprocessing(image_size, channels, *moments, resize, usual)
