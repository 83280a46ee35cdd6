r"""ImageNet: ResNet-34 to ResNet-18.

    python -m rrd_jax.main --config=configs/imagenet_r34_r18.py \
      --config.teacher.checkpoint=resnet34-b627a593.pth

100 epochs with batch size 256. The teacher is a PyTorch file of resnet34 from torchvision or timm,
or a workdir; without teacher.checkpoint, the teacher is trained first. Published top-1 in percent:
teacher 73.31, student 69.76, KD 70.83 to 71.37, CRD 71.17, DKD 71.70, ReviewKD 71.61, DIST 72.07.
No published result of RRD could be verified.
"""

from rrd_jax.config import finish, imagenet


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = imagenet()
    return finish(config, "imagenet_r34_r18", argument, pair="resnet34-resnet18", default="rrd+kd")
