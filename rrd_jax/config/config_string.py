"""What a config string says behind its colon: options in any order, separated by commas.

configs/cifar100.py:resnet32x4-resnet8x4,rrd+kd    teacher and student, and a method
configs/cifar100.py:wrn_40_2+resnet56-resnet20     several teachers: config.teacher is a list
configs/cifar100.py:resnet32x4                     one network: trains it alone, as a teacher
configs/cifar100.py:smoke                          the complete job in seconds, on random images
configs/vit_to_resnet.py:folder                    own images, of a folder for each class
configs/unlabelled.py:moco                         MoCo-v2's augmentation; dino: DINO's

Networks and objectives of one's own are named by import path:

configs/cifar100.py:resnet56-my_nets:Small,rrd+my_losses:angular
"""

import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from rrd_jax import errors, imports, networks
from rrd_jax.config.fields import FIELDS
from rrd_jax.config.methods import WORDS, can_be_network, check_option, limit, method
from rrd_jax.config.options import Options
from rrd_jax.data.source import DEVICE_AUGMENTATIONS


def finish(config: ConfigDict, name: str, argument: str, *, pair: str, default: str) -> ConfigDict:
    """Applies the options of a config string, and names the job.

    Args:
      config: the delta so far.
      name: of the config file.
      argument: what stood behind the colon.
      pair: "teacher-student" unless the argument names one.
      default: the method unless the argument names one; a single network is trained with ce.

    Raises:
      InputError: an option is neither a pair of networks, nor a method, nor one of these words, or
        there are two pairs or two methods.
    """
    given_pair, given_method, words = _read(argument)
    teacher, _, student = (given_pair or pair).rpartition("-")
    method_name = given_method or (default if teacher else "ce")
    if method_name == "ce":
        teacher, config.baseline = "", False
    config.teacher.model, config.student.model = teacher, student
    if given_pair:  # options of a launch file are for its own pair
        config.teacher.options, config.student.options = Options(), Options()
        config.student.drop_path = FIELDS["student.drop_path"].default
    config.method, config.objectives = method_name, method(method_name)
    job_name = "-".join(filter(None, [name, teacher, student, method_name]))
    config.name = job_name.replace(":", ".")
    if "folder" in words:
        config.name += "-folder"
        config.data.name, config.data.test_split = "image_folder", "test"
        config.train.save_every = 0
    for name in ("moco", "dino"):
        if name in words:
            _augment_as(config, name)
    if "smoke" in words:
        _shrink(config)
    if "+" in teacher:
        models = teacher.split("+")
        sections = [config.teacher.copy_and_resolve_references() for _ in models]
        for fields, model in zip(sections, models, strict=True):
            fields.model = model
        with config.ignore_type():
            config.teacher = sections
    return config


def _read(argument: str) -> tuple[str, str, set[str]]:
    """The networks and the method that a config string names, "" for none; and its words."""
    options = [option for option in argument.split(",") if option]
    others = [option for option in options if option not in WORDS]
    pairs = [option for option in others if _names_networks(option)]
    method_names = [option for option in others if option not in pairs]
    for option in method_names:
        check_option(option)
    return (
        _only("networks", pairs),
        _only("a method", method_names),
        set(options).intersection(WORDS),
    )


def _only(kind: str, options: list[str]) -> str:
    """The only option of a kind, "" for none."""
    if len(options) > 1:
        raise errors.InputError(
            f"config options '{options[0]}' and '{options[1]}' each name {kind}; leave one out"
        )
    return "".join(options)


def _names_networks(option: str) -> bool:
    """Whether a config option is a pair of networks, or one network.

    With a "-" it is a pair; without, an import path alone may lead to a network or an objective.
    """
    if "-" not in option:
        if imports.is_path(option) and "+" not in option:
            return networks.is_network(imports.load("network or objective", option))
        return networks.canonical(option) in networks.MODELS
    teachers, _, student = option.rpartition("-")
    models = [*teachers.split("+"), student]
    return all(can_be_network(model) for model in models)


def _augment_as(config: ConfigDict, name: str) -> None:
    """The augmentation of MoCo-v2 (arXiv 2003.04297) or DINO (2104.14294, its two large views)."""
    data = config.data
    data.augment = "resized_crop" if data.augment in DEVICE_AUGMENTATIONS else data.augment
    data.jitter_probability, data.grey = 0.8, 0.2
    if name == "moco":
        data.crop_area, data.jitter, data.gaussian_blur = 0.2, (0.4, 0.4, 0.4, 0.1), 0.5
    else:
        data.crop_area, data.jitter, data.gaussian_blur = 0.4, (0.4, 0.4, 0.2, 0.1), 1.0
        data.views.others = (0.1, 0.2)


def _shrink(config: ConfigDict) -> None:
    """The same job on few random images, for a look at whether all of it runs."""
    config.name += "-smoke"
    config.data.mock_examples = 24
    config.data.train_split = config.data.train_split.split("[")[0]
    config.data.image_size = _side(config)
    config.data.resize = 36
    config.train.epochs = 2
    config.train.batch_size = config.train.eval_batch_size = 8
    config.optimizer.warmup_epochs = min(config.optimizer.warmup_epochs, 0.5)
    config.teacher.epochs = 1
    config.teacher.train_split = None
    # The batch divides no memory: its cursor wraps.
    limit(config, queue_size=20, negatives=20, epochs=1)


def teachers(config: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
    """Yields the section of each teacher, with its name on the command line."""
    if isinstance(config.teacher, list | tuple):
        yield from ((f"teacher[{i}]", fields) for i, fields in enumerate(config.teacher))
    else:
        yield "teacher", config.teacher


def image_side(config: ConfigDict, smallest: int) -> int:
    """Height and width of small images that a config's networks can see.

    Args:
      config: whose networks.
      smallest: where all of them are for images of 32 pixels; others see 32, or whole squares.
    """
    taught_by = (teacher.model for _, teacher in teachers(config))
    models = [config.student.model, *taught_by]
    if max(map(networks.image_size, models)) == 32:
        return smallest
    square = math.lcm(*map(networks.patch, models))
    return max(32 // square, 1) * square


def _side(config: ConfigDict) -> int:
    """Of the images of a short job, which must hold whole squares of transformers."""
    models = [*config.teacher.model.split("+"), config.student.model]
    square = math.lcm(*map(networks.patch, models))
    side = min(config.data.image_size, 32)
    return max(side // square, 1) * square
