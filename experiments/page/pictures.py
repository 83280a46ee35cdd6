"""Small pictures as data URIs."""

import base64
import io
from collections.abc import Iterable

import numpy as np


def data_uris(images: Iterable[np.ndarray], quality: int = 70) -> tuple[str, ...]:
    """Images [h, w, channels] uint8 as PNG or WebP, whichever is smaller."""
    return tuple(_data_uri(image, quality) for image in images)


def _data_uri(image: np.ndarray, quality: int) -> str:
    import PIL.Image

    picture = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3])
    found = []
    for kind, options in (("PNG", {"optimize": True}), ("WEBP", {"quality": quality})):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        found.append((len(file.getvalue()), kind.lower(), file.getvalue()))
    _, kind, content = min(found)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
