"""The config fields, collected from the dataclasses that declare them, and the base recipes.

Every field can be set on the command line, such as --config.optimizer.learning_rate=0.1, and
--print_config prints all fields of a run with their values.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from rrd_jax import settings
from rrd_jax.config.options import Options
from rrd_jax.data.augment.pipeline import Changes
from rrd_jax.data.augment.second_view import SecondView
from rrd_jax.data.source import Source
from rrd_jax.settings import Field, field
from rrd_jax.settings.kinds import Auto, Choice, Flag, Mapped, Optional, Path, Text
from rrd_jax.training import choices
from rrd_jax.training.recipe import Training


def _with_teacher(values: settings.Values) -> str:
    return "the run has a teacher" if values.with_models() else ""


@dataclasses.dataclass(frozen=True)
class RunFields:
    """The fields of a run that are declared in no other package.

    Attributes:
      name: Name of the job; the default workdir is runs/<name>.
      dtype: Data type of the networks' computations; auto for bfloat16 on accelerators and float32
        on CPUs.
      compilation_cache: Folder in which compiled programs are cached between starts; '' for
        JAX_COMPILATION_CACHE_DIR or ~/.cache/rrd_jax, with one subfolder per kind of processor; off
        to disable the cache.
      label: Name of a run without a teacher in log lines and tables; '' for student. The config
        string of a single network without a method sets teacher.
      method: Name of the method in tables.
      objectives: name: {weight, warmup, options}; `python -m rrd_jax.objectives` lists the
        objectives. A custom objective may have any name and needs the field `factory`, its import
        path, such as 'my_losses:angular'.
      baseline: Also trains the student alone, in <workdir>/alone.
      from_scratch: If the student starts from student.checkpoint, also trains it from random
        weights, in <workdir>/scratch, without student.freeze and student.backbone_rate. The table
        then compares both.
    """

    name: str = field("name", "", Text(), changeable=True)
    dtype: str = field("dtype", "auto", Choice(choices.DTYPES))
    compilation_cache: str = field("compilation_cache", "", Path(), changeable=True)
    label: str = field("label", "", Text(), changeable=True, unused=_with_teacher)
    method: str = field("method", "", Text())
    objectives: Mapping[str, Any] = field("objectives", {}, Mapped())
    baseline: bool = field("baseline", False, Flag())
    from_scratch: bool = field("from_scratch", False, Flag(), changeable=True)


DECLARING = (
    RunFields,
    Training,
    choices.NetworkChoice,
    choices.StartChoice,
    Source,
    choices.AugmentChoice,
    Changes,
    SecondView,
    choices.MixChoice,
    choices.TeacherFields,
    choices.CacheChoice,
    choices.TeachingChoice,
    choices.OptimizerChoice,
    choices.AlignmentChoice,
    choices.ReportChoice,
    choices.RobustnessChoice,
)
SECTIONS = ("", "data", "data.views", "student", "teacher", "optimizer", "train", "eval", "report")


def collect(classes: tuple[type, ...]) -> dict[str, Field]:
    """Returns the config fields that dataclasses declare, by path, in the order of SECTIONS."""
    declared = [field for cls in classes for field in settings.fields_of(cls).values()]
    declared.sort(key=lambda field: SECTIONS.index(field.section))
    return {field.path: field for field in declared}


FIELDS = collect(DECLARING)


def defaults() -> ConfigDict:
    """Returns all fields at their defaults: CIFAR-100's recipe (arXiv 2407.12073, 1910.10699)."""
    return config_of(FIELDS)


def legacy_defaults() -> ConfigDict:
    """Returns all fields at the values that a workdir without these fields was trained with."""
    return config_of(
        {
            path: dataclasses.replace(declared, default=declared.legacy)
            if isinstance(declared.kind, Auto)
            else declared
            for path, declared in FIELDS.items()
        }
    )


def config_of(fields: Mapping[str, Field]) -> ConfigDict:
    """Returns a config with these fields at their defaults; `fields` maps paths to declarations."""
    config = ConfigDict()
    for declared in fields.values():
        holder, kind = config, declared.kind
        for section in filter(None, declared.section.split(".")):
            if section not in holder:
                holder[section] = ConfigDict()
            holder = holder[section]
        if isinstance(kind, Mapped):
            holder[declared.name] = ConfigDict() if declared.path == "objectives" else Options()
        elif isinstance(kind, Optional):
            holder[declared.name] = config_dict.placeholder(kind.type)
        elif isinstance(kind, Auto):
            # A reference of this type accepts both "auto" and values of the other kind.
            reference = config_dict.FieldReference(declared.default, field_type=kind.type)
            holder[declared.name] = reference
        else:
            holder[declared.name] = declared.default
    return config


def imagenet() -> ConfigDict:
    """Returns ImageNet's recipe: 100 epochs, batch 256, rate 0.1, milestones at 30, 60 and 90."""
    config = defaults()
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
    return config


def deit() -> ConfigDict:
    """Returns DeiT's recipe for ImageNet (arXiv 2012.12877), without its repeated augmentation.

    300 epochs of batch 1024 with AdamW. The label smoothing of 0.1 is set separately, with
    `methods.smooth_labels`, once the objectives are known.
    """
    config = imagenet()
    config.data.policy = "rand_increasing"
    config.data.policy_noise = 0.5
    config.data.erase = 0.25
    config.data.mix, config.data.mix_alpha = "mixup+cutmix", 0.8
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay_norm_and_bias = False
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.warmup_start = 1e-6
    config.optimizer.final_learning_rate = 1e-5
    config.train.epochs = 300
    config.train.batch_size = 1024
    config.train.ema = 0.99996
    return config
