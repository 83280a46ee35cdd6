"""Tiny ImageNet, 200 classes at 64 pixels: VGG-13 to VGG-8.

    python -m rrd_jax.data.prepare --name=tiny_imagenet --manual_dir=FOLDER
    python -m rrd_jax.main --config=configs/tiny_imagenet.py:vgg13-vgg8,rrd+kd

The recipe is that of CIFAR-100, with crops of 64 from 72 pixels. --config.data.image_size=32 scales
the images down, as in the published transfer to this data set. No results are published for this
recipe.
"""

from rrd_jax.config import defaults, finish


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = defaults()
    config.data.name = "tiny_imagenet"
    config.data.test_split = "validation"
    config.data.image_size = 64
    config.data.mean, config.data.std = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    return finish(config, "tiny_imagenet", argument, pair="vgg13-vgg8", default="rrd+kd")
