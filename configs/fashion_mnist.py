"""Fashion-MNIST, 10 000 of its training images: resnet32x4 to resnet8.

    apt-get install dataset-fashion-mnist
    python -m rrd_jax.main --config=configs/fashion_mnist.py

The data are prepared at the first start. On a GPU a run of 80 epochs takes minutes;
docs/results.md has what was measured.
"""

from rrd_jax.config import defaults, finish, limit


def get_config(argument: str = ""):
    """See the module's docstring; options as in rrd_jax/config/config_string.py."""
    config = defaults()
    config.baseline = True
    config.data.name = "fashion_mnist"
    config.data.train_split = "train[:10000]"
    config.data.mean, config.data.std = (0.2860,), (0.3530,)
    config.train.epochs = 80
    config = finish(config, "fashion_mnist", argument, pair="resnet32x4-resnet8", default="rrd+kd")
    limit(config, queue_size=4096, negatives=4096)
    return config
