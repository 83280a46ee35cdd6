"""STL-10: 5,000 labelled training images and 8,000 test images, scaled to 32 pixels.

    python -m rrd_jax.data.prepare --name=stl10 --manual_dir=FOLDER
    python -m rrd_jax.main --config=configs/stl10.py:resnet32x4-resnet8x4,rrd+kd

120 epochs with learning rate 0.05, multiplied by 0.1 at epochs 30, 60 and 90. The schedule is that
of the published transfer to STL-10, but here all layers are trained. No results are published for
this recipe.
"""

from rrd_jax.config import defaults, finish


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = defaults()
    config.data.name = "stl10"
    config.data.mean, config.data.std = (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)
    config.optimizer.milestones = (0.25, 0.5, 0.75)
    config.train.epochs = 120
    return finish(config, "stl10", argument, pair="resnet32x4-resnet8x4", default="rrd+kd")
