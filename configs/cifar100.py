"""CIFAR-100, the benchmark of arXiv 2407.12073: any pair of networks and any method.

    python -m rrd_jax.main --config=configs/cifar100.py:resnet32x4-resnet8x4,rrd+kd

Published top-1 for that pair: teacher 79.42, student 72.50, KD 73.33, RRD 74.48, RRD+KD 75.08.
Without teacher.checkpoint the teacher is trained first, by the same recipe.
"""

from configs import common


def get_config(argument: str = ""):
    """See the module's docstring; options as in configs/common.py."""
    config = common.get_config()
    config.data.name = "cifar100"
    return common.finish(
        config, "cifar100", argument, pair="resnet32x4-resnet8x4", default="rrd+kd"
    )
