"""scikit-learn's real handwritten digits: teacher, student alone and distilled in minutes on a CPU.

python -m rrd_jax.main --config=configs/digits.py
"""

from configs import common


def get_config(argument: str = ""):
    """See the module's docstring; options as in configs/common.py."""
    config = common.get_config()
    config.baseline = True
    config.data.name = "digits"
    config.data.image_size = 8
    config.data.augment = "crop_flip"
    config.data.pad = 1
    config.data.flip = False  # digits have a handedness
    config.data.mean, config.data.std = (0.305,), (0.376,)
    config.train.epochs = 30
    config.train.log_every = 10
    config = common.finish(config, "digits", argument, pair="resnet20-resnet8", default="rrd+kd")
    if "rrd" in config.objectives:
        config.objectives.rrd.queue_size = min(config.objectives.rrd.queue_size, 1024)
    return config
