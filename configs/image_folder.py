r"""Your own images, in a folder for each class: ResNet-34 to ResNet-18 at 224 pixels.

    python -m rrd_jax.main --config=configs/image_folder.py --config.data.manual_dir=ROOT \
      --config.teacher.checkpoint=TEACHER

ROOT holds class/*.jpg, or train/class/*.jpg with test/ or val/ beside it. ImageNet's recipe;
TEACHER is a network for these classes, and without one it is trained first.
"""

from rrd_jax.config import finish, imagenet


def get_config(argument: str = ""):
    """See the module's docstring; options as in rrd_jax/config/config_string.py."""
    config = imagenet()
    config.data.name = "image_folder"
    config.data.test_split = "test"
    config.train.save_every = 0
    return finish(config, "image_folder", argument, pair="resnet34-resnet18", default="rrd+kd")
