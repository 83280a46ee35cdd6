"""Fashion-MNIST: ResNet-32x4 to ResNet-8, on 10,000 of the training images.

    apt-get install dataset-fashion-mnist
    python -m rrd_jax.main --config=configs/fashion_mnist.py

The first start prepares the data set. On a GPU, a run of 80 epochs takes minutes; docs/results.md
lists measured results.
"""

from rrd_jax.config import defaults, finish, limit


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = defaults()
    config.baseline = True
    config.data.name = "fashion_mnist"
    config.data.train_split = "train[:10000]"
    config.data.mean, config.data.std = (0.2860,), (0.3530,)
    config.train.epochs = 80
    config = finish(config, "fashion_mnist", argument, pair="resnet32x4-resnet8", default="rrd+kd")
    limit(config, queue_size=4096, negatives=4096)
    return config
