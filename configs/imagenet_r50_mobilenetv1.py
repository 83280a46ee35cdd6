r"""ImageNet: ResNet-50 to MobileNetV1, the field's pair of two families.

    python -m rrd_jax.main --config=configs/imagenet_r50_mobilenetv1.py \
      --config.teacher.checkpoint=resnet50-0676ba61.pth

100 epochs of batch 256, as ResNet-34 to ResNet-18. Published top-1 (arXiv 2203.08679): teacher
76.16, student 68.87, KD 68.58, CRD 71.37, ReviewKD 72.56, DKD 72.05; there is no figure of RRD's.
"""

from rrd_jax.config import finish, imagenet


def get_config(argument: str = ""):
    """See the module's docstring; options as in rrd_jax/config/config_string.py."""
    config = imagenet()
    return finish(
        config, "imagenet_r50_mobilenetv1", argument, pair="resnet50-mobilenetv1", default="rrd+kd"
    )
