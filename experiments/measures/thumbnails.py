"""Thumbnails of images."""

import numpy as np


def thumbnails(images: np.ndarray, size: int = 32) -> np.ndarray:
    """Reduces images [N, H, W, channels] uint8 to at most `size` pixels per side."""
    if max(images.shape[1:3]) <= size:
        return images
    import PIL.Image

    scale = size / max(images.shape[1:3])
    height, width = (max(1, round(side * scale)) for side in images.shape[1:3])
    small = np.empty((len(images), height, width, images.shape[-1]), np.uint8)
    for i, image in enumerate(images):
        picture = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        scaled = np.asarray(picture.resize((width, height), PIL.Image.Resampling.BOX))
        small[i] = scaled.reshape(small.shape[1:])
    return small
