"""The recipe of configs without labels: a foundation model as teacher, and a folder of images."""

from ml_collections import ConfigDict

from rrd_jax.config.config_string import finish, teachers
from rrd_jax.config.fields import imagenet
from rrd_jax.config.methods import leave_out_labels


def without_labels() -> ConfigDict:
    """Returns ImageNet's config for a folder of images without labels, with SEED's optimizer.

    SGD with rate 0.03 and a cosine schedule (arXiv 2101.04731).
    """
    config = imagenet()
    config.data.name = "image_folder"
    config.data.use_labels = False
    config.data.test_split = "test"
    config.optimizer.learning_rate = 0.03
    config.optimizer.schedule = "cosine"
    config.train.save_every = 0
    return config


def finish_without_labels(config: ConfigDict, name: str, argument: str, *, pair: str) -> ConfigDict:
    """Applies the argument of a config without labels; see `finish`, with the method `rrd`.

    Teachers whose names end with _dinov2 see images of 224 pixels.
    """
    config = finish(config, name, argument, pair=pair, default="rrd")
    leave_out_labels(config)
    for _, teacher in teachers(config):
        if teacher.model.endswith("_dinov2"):
            # DINOv2's files specify 518 pixels, which takes five times as much computation.
            teacher.image_size = 224
    return config
