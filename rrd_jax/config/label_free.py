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


def finish_without_labels(
    config: ConfigDict, name: str, argument: str, *, pair: str, default: str = "rrd"
) -> ConfigDict:
    """Applies the argument of a config without labels; see `finish`.

    Teachers whose names end with _dinov2 see images of 224 pixels.
    """
    config = finish(config, name, argument, pair=pair, default=default)
    leave_out_labels(config)
    for _, teacher in teachers(config):
        if teacher.model.endswith("_dinov2"):
            # DINOv2's files specify 518 pixels, which takes five times as much computation.
            teacher.image_size = 224
    return config


def take_words(argument: str, *words: str) -> tuple[set[str], str]:
    """Returns those of the words that a config string has, and the config string without them."""
    options = argument.split(",")
    rest = ",".join(option for option in options if option not in words)
    return set(words).intersection(options), rest


def use_drawings(config: ConfigDict, *, smoke: bool) -> None:
    """Sets generated drawings as data, and teachers that are trained with their labels.

    With `smoke`, there are 200 drawings, and each run has an epoch.
    """
    config.data.name = "drawings"
    config.data.augment = "crop_flip"
    config.data.mix = "none"
    config.data.mean = config.data.std = (0.5, 0.5, 0.5)
    config.teacher.use_labels = True
    config.teacher.learning_rate = 0.05
    config.train.batch_size = 50
    if smoke:
        # A number that eight devices can share.
        config.train.batch_size = 40
        config.optimizer.warmup_epochs = 0.0
        config.data.train_split = "train[:200]"
        config.data.test_split = "test[:50]"
        config.teacher.epochs = config.train.epochs = 1
