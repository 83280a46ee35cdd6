"""Converts examples of users' data sets to the form that feeds expect."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from rrd_jax import errors
from rrd_jax.data.images import decoding, transparency
from rrd_jax.settings import kinds

EXPECTED_FORM = (
    "expected a dict with 'image' and 'label', or a pair (image, label), where the image is encoded"
    " bytes, a PIL image or a uint8 array [height, width, channels], and the label is an integer"
)
_GRAY_MODES = ("1", "L", "LA")
_COLOR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")


def conform(example: Any, channels: int | None = None, background: str = "white") -> dict[str, Any]:
    """Returns an example as a dict of `image`, `label` and optionally `file_name`.

    The image is encoded bytes that are decoded upright, or uint8 [H, W, 1 or 3].

    Args:
      example: a mapping with `image`, `label` and optionally `file_name`, or a pair.
      channels: channels of returned arrays, 1 or 3; None to keep the number of channels.
      background: color behind transparent pixels of arrays and PIL images, see
        `settings.kinds.Color`; encoded bytes are not changed.

    Raises:
      InputError: the example has an unsupported form.
    """
    parts = _as_mapping(example)
    image = pixels(parts["image"], background)
    if channels and isinstance(image, np.ndarray) and image.shape[-1] != channels:
        if channels == 1:
            raise errors.InputError(
                "the image has 3 channels, but the images checked first have 1; use the same number"
                " of channels for all images"
            )
        image = np.repeat(image, 3, axis=-1)
    conformed = {"image": image, "label": label(parts)}
    if isinstance(parts.get("file_name"), str | bytes):
        conformed["file_name"] = parts["file_name"]
    return conformed


def conform_with_form(
    example: Any, channels: int | None = None, background: str = "white"
) -> tuple[dict[str, Any], str]:
    """Returns the result of `conform`, and a description of the image in the example."""
    return conform(example, channels, background), describe(_as_mapping(example)["image"])


def without_label(example: Any) -> dict[str, Any]:
    """Returns an example, or an image without a label, as a mapping with label 0.

    Raises:
      InputError: the example has no image.
    """
    is_image = not isinstance(example, Mapping | tuple | list)
    return {**_as_mapping({"image": example} if is_image else example), "label": 0}


def label(example: Any) -> int:
    """Returns the label of an example; raises an InputError if the label is not an integer."""
    value = _as_mapping(example).get("label")
    try:
        return operator.index(value)
    except TypeError:
        raise errors.InputError(
            f"the label is {describe(value)}, but must be an integer, the index of the class"
        ) from None


def pixels(image: Any, background: str) -> bytes | np.ndarray:
    """Returns an image as encoded bytes, or as uint8 [H, W, 1 or 3].

    Arrays with channels first and floats in [0, 1], as from torchvision's ToTensor, are converted.
    The EXIF orientation of PIL images is applied, as it is when encoded bytes are decoded.

    Args:
      image: an image in any form of `EXPECTED_FORM`; a fourth channel of an array is alpha.
      background: color behind transparent pixels of arrays and PIL images, see
        `settings.kinds.Color`.

    Raises:
      InputError: the image has an unsupported form, or its pixels are already normalized.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return decoding.Upright(image)
    if isinstance(image, PIL.Image.Image):
        return _from_pil(PIL.ImageOps.exif_transpose(image), background)
    if not hasattr(image, "__array__"):
        raise errors.InputError(f"the image is {describe(image)}; {EXPECTED_FORM}")
    check_unmasked(image, "the image")
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        # PyTorch tensors have channels first, for any size of the last dimension.
        is_tensor = type(image).__module__.partition(".")[0] == "torch"
        if is_tensor or array.shape[-1] not in (1, 3, 4):
            array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise errors.InputError(f"the image is {describe(image)}; {EXPECTED_FORM}")
    if array.shape[-1] < 4:
        return np.ascontiguousarray(_as_uint8(array))
    if background == kinds.NO_COLOR:
        return np.ascontiguousarray(_as_uint8(array[..., :3]))
    return transparency.composite(_as_uint8(array), background)


def check_unmasked(value: Any, subject: str) -> None:
    """Raises an InputError for an array with masked values, which would be used otherwise."""
    if np.ma.is_masked(value):
        raise errors.InputError(
            f"{subject}: {np.ma.count_masked(value):,} values are masked; remove these examples, or"
            " fill the values"
        )


def describe(value: Any) -> str:
    """Returns a short description of a value for messages."""
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
        raise errors.InputError(f"the image is {describe(array)}; {EXPECTED_FORM}")
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.floating):
        if low >= -1e-6 and high <= 1 + 1e-6:
            return np.round(array.astype(np.float32) * 255).clip(0, 255).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.integer) and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    raise errors.InputError(
        f"the image has values of type {array.dtype} from {low:.4g} to {high:.4g}; give uint8, or"
        " floats in [0, 1]: data.mean and data.std normalize the images"
    )


def _from_pil(image: PIL.Image.Image, background: str) -> np.ndarray:
    rgba = None if background == kinds.NO_COLOR else transparency.rgba(image)
    if rgba is not None:
        composite = transparency.composite(rgba, background)
        is_gray = image.mode in _GRAY_MODES and (composite == composite[..., :1]).all()
        return composite[..., :1] if is_gray else composite
    if image.mode in _GRAY_MODES:
        return np.array(image.convert("L"))[..., None]
    if image.mode in _COLOR_MODES:
        return np.array(image.convert("RGB"))
    raise errors.InputError(
        f"the image is a PIL image of mode {image.mode}; convert it to L or RGB"
    )


def _as_mapping(example: Any) -> Mapping[str, Any]:
    """Returns an example as a mapping; raises an InputError if the example has no image."""
    if hasattr(example, "_asdict"):
        example = example._asdict()
    if isinstance(example, tuple | list) and len(example) == 2:
        example = {"image": example[0], "label": example[1]}
    if not isinstance(example, Mapping) or "image" not in example:
        raise errors.InputError(f"the example is {describe(example)}; {EXPECTED_FORM}")
    return example
