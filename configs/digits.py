"""scikit-learn's handwritten digits, on a CPU: a teacher, the student alone and with the teacher.

    python -m rrd_jax.main --config=configs/digits.py

The teacher, resnet8x4, is trained on all 1,000 training images; the student, resnet8, on the first
200. The job takes 2 minutes on 2 cores. The README lists results over 5 seeds.
"""

from rrd_jax.config import defaults, finish, limit


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = defaults()
    config.baseline = True
    config.data.name = "digits"
    config.data.train_split = "train[:200]"
    config.data.image_size = 8
    config.data.pad = 1
    # A mirrored digit is not a digit.
    config.data.flip = False
    config.data.mean, config.data.std = (0.305,), (0.376,)
    config.teacher.train_split = "train"
    config.teacher.epochs = 15
    config.train.epochs = 100
    config = finish(config, "digits", argument, pair="resnet8x4-resnet8", default="rrd+kd")
    limit(config, negatives=1024)
    return config
