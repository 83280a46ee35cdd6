r"""ImageNet: ResNet-50 to MobileNetV1, the usual benchmark across two families.

    python -m rrd_jax.main --config=configs/imagenet_r50_mobilenetv1.py \
      --config.teacher.checkpoint=resnet50-0676ba61.pth

100 epochs with batch size 256, as for ResNet-34 to ResNet-18. Published top-1 in percent (arXiv
2203.08679): teacher 76.16, student 68.87, KD 68.58, CRD 71.37, ReviewKD 72.56, DKD 72.05. No result
of RRD is published.
"""

from rrd_jax.config import finish, imagenet


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = imagenet()
    return finish(
        config, "imagenet_r50_mobilenetv1", argument, pair="resnet50-mobilenetv1", default="rrd+kd"
    )
