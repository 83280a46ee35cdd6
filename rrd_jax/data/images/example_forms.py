"""Converts examples from the forms that people keep them in to the one that feeds take."""

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
    """Returns an example as `image`, `label` and, if it has one, `file_name`.

    The image is encoded bytes, or [H, W, 1 or 3] uint8.

    Args:
      example: a mapping with `image`, `label` and, if it has one, `file_name`; or a pair.
      channels: channels of arrays, 1 or 3; None for their own.

    Raises:
      InputError: the example has another form.
    """
    named = _named(example)
    image = pixels(named["image"])
    if channels and isinstance(image, np.ndarray) and image.shape[-1] != channels:
        if channels == 1:
            raise errors.InputError(
                "its image has colours, but those looked at first are grey: give all of them in one"
                " way"
            )
        image = np.repeat(image, 3, axis=-1)
    conformed = {"image": image, "label": label(named)}
    if isinstance(named.get("file_name"), str | bytes):
        conformed["file_name"] = named["file_name"]
    return conformed


def without_label(example: Any) -> dict[str, Any]:
    """Returns an example with label 0, whatever its label, or an image alone.

    Raises:
      InputError: there is no image.
    """
    is_image = not isinstance(example, Mapping | tuple | list)
    return {**_named({"image": example} if is_image else example), "label": 0}


def label(example: Any) -> int:
    """Returns the label of an example; raises an InputError if it is no integer."""
    value = _named(example).get("label")
    try:
        return operator.index(value)
    except TypeError:
        raise errors.InputError(
            f"its label is {described(value)}, but must be an integer, the number of its class"
        ) from None


def pixels(image: Any) -> bytes | np.ndarray:
    """Returns an image as it is encoded, or as [H, W, 1 or 3] uint8.

    Tensors may have their channels first, and floats in [0, 1] are rounded to 256 levels: the
    result of torchvision's ToTensor.

    Raises:
      InputError: the image has another form, or its pixels are normalized already.
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
    """Returns a few words about a value."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = type(value).__name__
        return f"a {kind} of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(repr, value)) or 'nothing'}"
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


def _named(example: Any) -> Mapping[str, Any]:
    """Returns the parts of an example by name; raises an InputError if it has no image."""
    if hasattr(example, "_asdict"):
        example = example._asdict()
    if isinstance(example, tuple | list) and len(example) == 2:
        example = {"image": example[0], "label": example[1]}
    if not isinstance(example, Mapping) or "image" not in example:
        raise errors.InputError(f"it is {described(example)}, but must be {WANTED}")
    return example
