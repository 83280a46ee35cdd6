"""Examples in the forms that people keep them in, as the one form that feeds take."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image

from rrd_jax import errors

WANTED = (
    "a dict with 'image' and 'label', or a pair (image, label): encoded bytes, a PIL image, or an"
    " array [height, width, channels] of uint8; and an integer"
)
_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")


def conform(example: Any, channels: int | None = None) -> dict[str, Any]:
    """An example as `image` (encoded bytes, or [H, W, 1 or 3] uint8), `label` and `file_name`.

    Args:
      example: a mapping with `image`, `label` and, if it has one, `file_name`; or a pair.
      channels: that an array is to have, 1 or 3; None for its own.

    Raises:
      InputError: anything else; it says what was found.
    """
    named = _named(example)
    image = pixels(named["image"])
    if channels and isinstance(image, np.ndarray):
        image = _with_channels(image, channels)
    conformed = {"image": image, "label": label(named)}
    if isinstance(named.get("file_name"), str | bytes):
        conformed["file_name"] = named["file_name"]
    return conformed


def without_label(example: Any) -> dict[str, Any]:
    """An example with label 0, whatever it has: as `conform` takes it, or an image alone.

    Raises:
      InputError: there is no image.
    """
    if hasattr(example, "_asdict"):
        example = example._asdict()
    if isinstance(example, tuple | list) and len(example) == 2:
        example = {"image": example[0]}
    if not isinstance(example, Mapping):
        example = {"image": example}
    if "image" not in example:
        raise errors.InputError(f"it has {_listed(example)}, but no 'image'")
    return {**example, "label": 0}


def label(example: Any) -> int:
    """The label alone of an example as `conform` takes it."""
    value = _named(example)["label"]
    try:
        return operator.index(value)
    except TypeError:
        raise errors.InputError(
            f"its label is {described(value)}, but must be an integer, the number of its class"
        ) from None


def pixels(image: Any) -> bytes | np.ndarray:
    """An image as it is encoded, or [H, W, 1 or 3] uint8.

    Tensors may have their channels first, and floats in [0, 1] are rounded to 256 levels: what
    torchvision's ToTensor gives.

    Raises:
      InputError: no image, or one whose pixels are normalised already.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, PIL.Image.Image):
        return _from_pil(image)
    if not hasattr(image, "__array__"):
        raise errors.InputError(f"its image is {described(image)}; it must be {WANTED}")
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        # Torch has channels first, whatever the last dimension.
        of_torch = type(image).__module__.partition(".")[0] == "torch"
        if of_torch or array.shape[-1] not in (1, 3, 4):
            array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise errors.InputError(f"its image is {described(image)}; it must be {WANTED}")
    if array.shape[-1] == 4:
        array = array[..., :3]  # without transparency
    return np.ascontiguousarray(_as_uint8(array))


def described(value: Any) -> str:
    """What a value is, in a few words."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = type(value).__name__
        return f"a {kind} of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int | float | str | None):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}..."
    return f"a value of type {type(value).__name__}"


def _as_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "buif":
        raise errors.InputError(f"its image is {described(array)}; it must be {WANTED}")
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.floating):
        if low >= -1e-6 and high <= 1 + 1e-6:
            return np.round(array.astype(np.float32) * 255).clip(0, 255).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.integer) and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    raise errors.InputError(
        f"its image has values of type {array.dtype} from {low:.4g} to {high:.4g}; give uint8, or"
        " floats in [0, 1]: images are normalised here, by data.mean and data.std"
    )


def _from_pil(image: PIL.Image.Image) -> np.ndarray:
    if image.mode in _GREY:
        return np.array(image.convert("L"))[..., None]
    if image.mode in _COLOUR:
        return np.array(image.convert("RGB"))
    raise errors.InputError(
        f"its image is a PIL image of mode {image.mode}; convert it to L or RGB"
    )


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    if image.shape[-1] == channels:
        return image
    if channels == 1:
        raise errors.InputError(
            "its image has colours, but those looked at first are grey: give all of them in one way"
        )
    return np.repeat(image, 3, axis=-1)


def _named(example: Any) -> Mapping[str, Any]:
    """The parts of an example by name; raises an InputError where one is missing."""
    if hasattr(example, "_asdict"):
        example = example._asdict()
    if isinstance(example, tuple | list) and len(example) == 2:
        example = {"image": example[0], "label": example[1]}
    if not isinstance(example, Mapping):
        raise errors.InputError(f"it is {described(example)}, but must be {WANTED}")
    if "image" not in example:
        raise errors.InputError(f"it has {_listed(example)}, but no 'image'; it must be {WANTED}")
    if example.get("label") is None:
        raise errors.InputError(
            f"it has {_listed(example)}, but no label: networks are trained and tested on labelled"
            " images"
        )
    return example


def _listed(example: Mapping) -> str:
    return ", ".join(f"'{key}'" for key in example) or "nothing"
