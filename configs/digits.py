"""scikit-learn's real handwritten digits: teacher, student alone, distilled student, on a CPU.

    python -m rrd_jax.main --config=configs/digits.py

A good teacher and a small budget: resnet8x4 has seen all 1 000 training images, resnet8 gets the
first 200 of them. Takes 2 minutes on 2 cores. The README has the figures over 5 seeds.
"""

from rrd_jax.config import defaults, finish, limit


def get_config(argument: str = ""):
    """See the module's docstring; options as in rrd_jax/config/config_string.py."""
    config = defaults()
    config.baseline = True
    config.data.name = "digits"
    config.data.train_split = "train[:200]"
    config.data.image_size = 8
    config.data.pad = 1
    config.data.flip = False  # a mirrored digit is none
    config.data.mean, config.data.std = (0.305,), (0.376,)
    config.teacher.train_split = "train"
    config.teacher.epochs = 15
    config.train.epochs = 100
    config = finish(config, "digits", argument, pair="resnet8x4-resnet8", default="rrd+kd")
    limit(config, queue_size=1024, negatives=1024)
    return config
