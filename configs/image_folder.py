r"""Your images, in one folder per class: ResNet-34 to ResNet-18 at 224 pixels.

    python -m rrd_jax.main --config=configs/image_folder.py --config.data.manual_dir=ROOT \
      --config.teacher.checkpoint=TEACHER

ROOT contains class/*.jpg, or train/class/*.jpg and a folder test/ or val/. TEACHER is a network for
these classes; without teacher.checkpoint, the teacher is trained first. The recipe is that of
ImageNet.
"""

from rrd_jax.config import finish, imagenet


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = imagenet()
    config.data.name = "image_folder"
    config.data.test_split = "test"
    config.train.save_every = 0
    return finish(config, "image_folder", argument, pair="resnet34-resnet18", default="rrd+kd")
