r"""CIFAR-100, the benchmark of arXiv 2407.12073, for any pair of networks and any method.

    python -m rrd_jax.main --config=configs/cifar100.py:resnet32x4-resnet8x4,rrd+kd
    python -m rrd_jax.main --config=configs/cifar100.py:vgg13-mobilenetv2_cifar,rrd \
      --config.teacher.checkpoint=vgg13_vanilla/ckpt_epoch_240.pth

240 epochs with batch size 64 and learning rate 0.05, or 0.01 for MobileNet and ShuffleNet. Without
teacher.checkpoint, the teacher is trained first, with the same recipe. Published top-1 in percent:

    teacher         student             teacher  student  KD     CRD    RRD    RRD+KD
    wrn_40_2        wrn_16_2            75.61    73.26    74.92  75.48  75.33  75.66
    wrn_40_2        wrn_40_1            75.61    71.98    73.54  74.14  73.55  74.67
    resnet56        resnet20            72.34    69.06    70.66  71.16  70.71  72.19
    resnet110       resnet20            74.31    69.06    70.67  71.46  70.72  71.74
    resnet110       resnet32            74.31    71.14    73.08  73.48  73.10  73.54
    resnet32x4      resnet8x4           79.42    72.50    73.33  75.51  74.48  75.08
    vgg13           vgg8                74.64    70.36    72.98  73.94  73.99  74.32
    vgg13           mobilenetv2_cifar   74.64    64.60    67.37  69.73  67.93  69.98
    resnet50_cifar  mobilenetv2_cifar   79.34    64.60    67.35  69.11  68.84  69.13
    resnet50_cifar  vgg8                79.34    70.36    73.81  74.30  74.01  74.26
    resnet32x4      shufflenetv1_cifar  79.42    70.50    74.07  75.11  74.11  75.18
    resnet32x4      shufflenetv2_cifar  79.42    71.82    74.45  75.65  74.80  76.83
    wrn_40_2        shufflenetv1_cifar  75.61    70.50    74.83  76.05  74.98  76.31
"""

from rrd_jax.config import defaults, finish, teachers


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = defaults()
    config.data.name = "cifar100"
    config = finish(config, "cifar100", argument, pair="resnet32x4-resnet8x4", default="rrd+kd")
    if config.student.model.startswith(("mobilenet", "shufflenet")):
        for _, teacher in teachers(config):
            teacher.learning_rate = config.optimizer.learning_rate
        config.optimizer.learning_rate = 0.01
    return config
