"""STL-10: 5 000 labelled training and 8 000 test images, scaled to 32 pixels.

    python -m rrd_jax.data.prepare --name=stl10 --manual_dir=FOLDER
    python -m rrd_jax.main --config=configs/stl10.py:resnet32x4-resnet8x4,rrd+kd

Learning rate 0.05 over 120 epochs, a tenth at 30, 60 and 90: the schedule of the published transfer
to STL-10, here for networks that are trained as a whole. No figures are published for that.
"""

from rrd_jax.config import defaults, finish


def get_config(argument: str = ""):
    """See the module's docstring; options as in rrd_jax/config/config_string.py."""
    config = defaults()
    config.data.name = "stl10"
    config.data.mean, config.data.std = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)
    config.optimizer.milestones = (0.25, 0.5, 0.75)
    config.train.epochs = 120
    return finish(config, "stl10", argument, pair="resnet32x4-resnet8x4", default="rrd+kd")
