"""Composites transparent images on a background.

The pixels equal those of Pillow's `Image.alpha_composite` on an opaque image of the background's
color: color x alpha + background x (1 - alpha), rounded to the nearest integer.
"""

import cv2
import numpy as np
import PIL.Image

from rrd_jax.settings import kinds

# The first bytes of JPEG and PNG.
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"
# Offsets of the bit depth and the color type in a PNG, and its color types with an alpha channel.
_DEPTH, _COLOR_TYPE, _ALPHA_TYPES = 24, 25, b"\4\6"
_OPAQUE = 255


def may_be_transparent(content: bytes) -> bool:
    """Returns False for an encoded image that is opaque by its first bytes."""
    if content.startswith(_JPEG):
        return False
    if not content.startswith(_PNG) or len(content) <= _COLOR_TYPE:
        return True
    # A chunk before the pixels can make a color or entries of the palette transparent.
    has_color = content.find(b"tRNS", 0, content.find(b"IDAT")) > 0
    return has_color or content[_COLOR_TYPE] in _ALPHA_TYPES


def rgba(image: PIL.Image.Image, content: bytes = b"") -> np.ndarray | None:
    """Returns uint8 [H, W, 4] of an image with transparent pixels; None for an opaque image.

    Args:
      image: the image.
      content: the encoded image, if known; in some PNG files, Pillow compares the transparent color
        with pixels of another bit depth.
    """
    if not image.has_transparency_data:
        return None
    image.load()
    depth = content[_DEPTH] if content.startswith(_PNG) and "transparency" in image.info else 8
    if image.mode == "RGB" and depth == 16:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        return _unless_opaque((pixels[..., [2, 1, 0, 3]] >> 8).astype(np.uint8))
    if image.mode == "L" and depth < 8:
        image.info["transparency"] *= _OPAQUE // (2**depth - 1)
    if image.mode.startswith("I"):
        # Pillow does not convert 16-bit grayscale with a transparent value.
        values = np.asarray(image)
        gray = (values >> 8).astype(np.uint8)
        alpha = np.where(values == image.info["transparency"], 0, _OPAQUE).astype(np.uint8)
        pixels = np.stack([gray, gray, gray, alpha], axis=-1)
    else:
        # Modes with colors that are multiplied by alpha.
        image = image.convert("LA") if image.mode == "La" else image
        pixels = np.asarray(image.convert("RGBA"))
    return _unless_opaque(pixels)


def _unless_opaque(pixels: np.ndarray) -> np.ndarray | None:
    return None if pixels[..., 3].min() == _OPAQUE else pixels


def composite(pixels: np.ndarray, background: str) -> np.ndarray:
    """Returns an image on a background, uint8 [H, W, 3].

    Args:
      pixels: uint8 [H, W, 4], RGB and alpha.
      background: a color, see `settings.kinds.Color`.
    """
    top = PIL.Image.fromarray(np.ascontiguousarray(pixels), "RGBA")
    below = PIL.Image.new("RGBA", top.size, (*kinds.Color.rgb(background), _OPAQUE))
    return np.asarray(PIL.Image.alpha_composite(below, top))[..., :3]
