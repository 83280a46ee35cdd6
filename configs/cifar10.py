"""CIFAR-10, by the recipe of CIFAR-100; no figures are published for it.

python -m rrd_jax.data.prepare --name=cifar10 --manual_dir=FOLDER
python -m rrd_jax.main --config=configs/cifar10.py:resnet32x4-resnet8x4,rrd+kd
"""

from rrd_jax.config import defaults, finish


def get_config(argument: str = ""):
    """See the module's docstring; options as in rrd_jax/config/config_string.py."""
    config = defaults()
    config.data.name = "cifar10"
    config.data.mean, config.data.std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return finish(config, "cifar10", argument, pair="resnet32x4-resnet8x4", default="rrd+kd")
