r"""ImageNet: ResNet-34 to ResNet-18.

    python -m rrd_jax.main --config=configs/imagenet_r34_r18.py \
      --config.teacher.checkpoint=resnet34-b627a593.pth

100 epochs of batch 256. The teacher is a PyTorch file of torchvision's or timm's resnet34, or a
workdir; without one, it is trained first. Published top-1: teacher 73.31, student 69.76, KD 70.83
to 71.37, CRD 71.17, DKD 71.70, ReviewKD 71.61, DIST 72.07; no figure of RRD's could be verified.
"""

from rrd_jax.config import finish, imagenet


def get_config(argument: str = ""):
    """See the module's docstring; options as in rrd_jax/config/config_string.py."""
    config = imagenet()
    return finish(config, "imagenet_r34_r18", argument, pair="resnet34-resnet18", default="rrd+kd")
