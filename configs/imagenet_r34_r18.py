"""ImageNet: ResNet-34 to ResNet-18.

    python -m rrd_jax.main --config=configs/imagenet_r34_r18.py

Published top-1: teacher 73.31, student 69.76, KD 70.83 to 71.37, CRD 71.17; no figure of RRD's
could be verified. Give your teacher with --config.teacher.checkpoint=WORKDIR; without one,
ResNet-34 is trained first.
"""

from configs import common


def get_config(argument: str = ""):
    """See the module's docstring; options as in configs/common.py."""
    config = common.get_config()
    config.data.name = "imagenet2012"
    config.data.test_split = "validation"
    config.data.image_size = 224
    config.data.augment = "random_resized"
    config.data.mean, config.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.milestones = (0.3, 0.6, 0.9)
    config.train.epochs = 100
    config.train.batch_size = 256
    config.train.save_every = 1000
    return common.finish(
        config, "imagenet_r34_r18", argument, pair="resnet34-resnet18", default="rrd+kd"
    )
