"""CIFAR-10: ResNet-32x4 to ResNet-8x4, with the recipe of CIFAR-100.

    python -m rrd_jax.data.prepare --name=cifar10 --manual_dir=FOLDER
    python -m rrd_jax.main --config=configs/cifar10.py:resnet32x4-resnet8x4,rrd+kd

No results are published for this recipe.
"""

from rrd_jax.config import defaults, finish


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = defaults()
    config.data.name = "cifar10"
    config.data.mean, config.data.std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return finish(config, "cifar10", argument, pair="resnet32x4-resnet8x4", default="rrd+kd")
