"""Config strings: the options after the colon, in any order, separated by commas.

    configs/cifar100.py:resnet32x4-resnet8x4,rrd+kd    a teacher, a student and a method
    configs/cifar100.py:wrn_40_2+resnet56-resnet20     several teachers: config.teacher is a list
    configs/cifar100.py:resnet32x4                     one network, trained alone, as a teacher
    configs/cifar100.py:resnet8x4,ce                   one network, trained alone, as a student
    configs/cifar100.py:smoke                          the complete job on random images, in seconds
    configs/vit_to_resnet.py:folder                    your images, in one folder per class
    configs/unlabelled.py:moco                         MoCo-v2's augmentation; dino: DINO's

Custom networks and objectives are named by import path:

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
    """Applies the options of a config string to a config, and names the job.

    Args:
      config: the config of a config file; modified in place.
      name: name of the config file.
      argument: the config string.
      pair: the default networks, "teacher-student".
      default: the default method; a single network is trained with ce.

    Returns:
      The config.

    Raises:
      InputError: an option is neither a pair of networks nor a method nor a known word, or there
        are two pairs or two methods.
    """
    chosen_pair, chosen_method, words = _read(argument)
    teacher, _, student = (chosen_pair or pair).rpartition("-")
    method_name = chosen_method or (default if teacher else "ce")
    if method_name == "ce":
        teacher, config.baseline = "", False
    config.teacher.model, config.student.model = teacher, student
    if chosen_pair:
        # A config file sets options for its default pair only.
        config.teacher.options, config.student.options = Options(), Options()
        config.student.drop_path = FIELDS["student.drop_path"].default
    config.label = "teacher" if chosen_pair and not chosen_method and not teacher else ""
    config.method, config.objectives = method_name, method(method_name)
    job_name = "-".join(filter(None, [name, teacher, student, method_name]))
    config.name = job_name.replace(":", ".")
    if "folder" in words:
        config.name += "-folder"
        config.data.name, config.data.test_split = "image_folder", "test"
        config.train.save_every = 0
    for name in ("moco", "dino"):
        if name in words:
            _set_augmentation(config, name)
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
    """Returns the networks and the method of a config string, "" for none, and its words."""
    options = [option for option in argument.split(",") if option]
    names = [option for option in options if option not in WORDS]
    pairs = [option for option in names if _names_networks(option)]
    method_names = [option for option in names if option not in pairs]
    for option in method_names:
        check_option(option)
    return (
        _only("networks", pairs),
        _only("a method", method_names),
        set(options).intersection(WORDS),
    )


def _only(kind: str, options: list[str]) -> str:
    """Returns the only option of a kind, "" for none; raises an InputError for several."""
    if len(options) > 1:
        raise errors.InputError(
            f"config options '{options[0]}' and '{options[1]}' each name {kind}; omit one"
        )
    return "".join(options)


def _names_networks(option: str) -> bool:
    """Returns True for a pair of networks, or a single network.

    An option with "-" is a pair. A single import path is imported, because it may refer to a
    network or to an objective.
    """
    if "-" not in option:
        if imports.is_path(option) and "+" not in option:
            return networks.is_network(imports.load("network or objective", option))
        return networks.canonical(option) in networks.MODELS
    teachers, _, student = option.rpartition("-")
    models = [*teachers.split("+"), student]
    return all(can_be_network(model) for model in models)


def _set_augmentation(config: ConfigDict, name: str) -> None:
    """Sets MoCo-v2's augmentation (arXiv 2003.04297), or DINO's for global views (2104.14294)."""
    data = config.data
    data.augment = "resized_crop" if data.augment in DEVICE_AUGMENTATIONS else data.augment
    data.jitter_probability, data.grey = 0.8, 0.2
    if name == "moco":
        data.crop_area, data.jitter, data.gaussian_blur = 0.2, (0.4, 0.4, 0.4, 0.1), 0.5
    else:
        data.crop_area, data.jitter, data.gaussian_blur = 0.4, (0.4, 0.4, 0.2, 0.1), 1.0
        data.views.others = (0.1, 0.2)


def _shrink(config: ConfigDict) -> None:
    """Shrinks the job to a few random images and epochs, to test that every part of it runs."""
    config.name += "-smoke"
    config.data.mock_examples = 24
    config.data.train_split = config.data.train_split.split("[")[0]
    config.data.image_size = _smoke_side(config)
    config.train.epochs = 2
    config.train.batch_size = config.train.eval_batch_size = 8
    config.optimizer.warmup_epochs = min(config.optimizer.warmup_epochs, 0.5)
    config.teacher.epochs = 1
    config.teacher.train_split = None
    # The batch size of 8 does not divide 20, so the memory's cursor wraps around within a batch.
    limit(config, queue_size=20, negatives=20, epochs=1)


def teachers(config: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
    """Yields the name on the command line and the section of each teacher."""
    if isinstance(config.teacher, list | tuple):
        yield from ((f"teacher[{i}]", fields) for i, fields in enumerate(config.teacher))
    else:
        yield "teacher", config.teacher


def image_side(config: ConfigDict, smallest: int) -> int:
    """Returns a small image size that all networks of a config accept.

    Args:
      config: a config with a student and its teachers.
      smallest: the result if all networks are designed for images of 32 pixels; for other networks
        the result is 32, rounded down to a multiple of their patch size, at least one patch.
    """
    models = [config.student.model, *(teacher.model for _, teacher in teachers(config))]
    if max(map(networks.image_size, models)) == 32:
        return smallest
    return _patch_multiple(32, models)


def _smoke_side(config: ConfigDict) -> int:
    """Returns the image size of a smoke test, a multiple of the networks' patch size."""
    models = [*config.teacher.model.split("+"), config.student.model]
    return _patch_multiple(min(config.data.image_size, 32), models)


def _patch_multiple(side: int, models: list[str]) -> int:
    """Rounds down to a multiple of all networks' patch sizes, at least one such multiple."""
    patch = math.lcm(*map(networks.patch, models))
    return max(side // patch, 1) * patch
