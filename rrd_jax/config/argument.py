"""What a config string says behind its colon: options in any order, separated by commas.

configs/cifar100.py:resnet32x4-resnet8x4,rrd+kd    teacher and student, and a method
configs/cifar100.py:wrn_40_2+resnet56-resnet20     several teachers: config.teacher is a list
configs/cifar100.py:resnet32x4                     one network: trains it alone, as a teacher
configs/cifar100.py:smoke                          the complete job in seconds, on random images
"""

import re

from ml_collections import ConfigDict

from rrd_jax import networks
from rrd_jax.config.methods import check_option, limit, method


def finish(config: ConfigDict, name: str, argument: str, *, pair: str, default: str) -> ConfigDict:
    """Applies the options of a config string, and names the job.

    Args:
      config: the delta so far.
      name: of the config file.
      argument: what stood behind the colon.
      pair: "teacher-student" unless the argument names one.
      default: the method unless the argument names one; a single network is trained with ce.

    Raises:
      InputError: an option is neither a pair of networks, nor a method, nor "smoke".
    """
    method_name, smoke = "", False
    for option in filter(None, argument.split(",")):
        if option == "smoke":
            smoke = True
        elif set(re.split("[-+]", option)) <= set(networks.MODELS):
            pair = option
        else:
            check_option(option)
            method_name = option
    teacher, _, student = pair.rpartition("-")
    method_name = method_name or (default if teacher else "ce")
    if method_name == "ce":
        teacher, config.baseline = "", False
    config.teacher.model, config.student.model = teacher, student
    config.method, config.objectives = method_name, method(method_name)
    config.name = "-".join(filter(None, [name, teacher, student, method_name]))
    if smoke:
        _shrink(config)
    if "+" in teacher:
        models = teacher.split("+")
        teachers = [config.teacher.copy_and_resolve_references() for _ in models]
        for fields, model in zip(teachers, models, strict=True):
            fields.model = model
        with config.ignore_type():
            config.teacher = teachers
    return config


def _shrink(config: ConfigDict) -> None:
    """The same job on few random images, for a look at whether all of it runs."""
    config.name += "-smoke"
    config.data.mock_examples = 24
    config.data.train_split = config.data.train_split.split("[")[0]
    config.data.image_size = min(config.data.image_size, 32)
    config.data.resize = 36
    config.train.epochs = 2
    config.train.batch_size = config.train.eval_batch_size = 8
    config.optimizer.warmup_epochs = min(config.optimizer.warmup_epochs, 0.5)
    config.teacher.epochs = 1
    config.teacher.train_split = None
    # The batch divides no memory: its cursor wraps.
    limit(config, queue_size=20, negatives=20, epochs=1)
