"""All config fields: those of a run as a whole, and those that dataclasses below declare.

Any field can be set on the command line, --config.optimizer.learning_rate=0.1, and --print_config
prints them all with their values of a run.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from rrd_jax import settings
from rrd_jax.config.options import Options
from rrd_jax.data.augment.pipeline import Changes
from rrd_jax.data.source import Source
from rrd_jax.settings import Field, field
from rrd_jax.settings.kinds import Choice, Flag, Mapped, Optional, Text
from rrd_jax.training import choices
from rrd_jax.training.recipe import Training


@dataclasses.dataclass(frozen=True)
class RunFields:
    """The fields of a run that no dataclass of another room declares.

    Attributes:
      name: The job's name; its default workdir is runs/<name>.
      dtype: What convolutions compute in; auto: bfloat16 on accelerators, else float32.
      compilation_cache: Folder of compiled programs, for the next start; '' for
        JAX_COMPILATION_CACHE_DIR or ~/.cache/rrd_jax, where each kind of processor has its own; off
        for none.
      method: What the objectives are called in tables.
      objectives: name: {weight, warmup, options}; `python -m rrd_jax.objectives` lists the
        objectives. One by import path has a field `factory` too, such as 'my_losses:angular', and
        may have any name.
      baseline: Trains the student alone too, in <workdir>/alone.
      from_scratch: Where the student starts from student.checkpoint, trains it from random weights
        too, in <workdir>/scratch, without student.freeze and student.backbone_rate. The table says
        what the checkpoint is worth.
    """

    name: str = field("name", "", Text(), changeable=True)
    dtype: str = field("dtype", "auto", Choice(choices.DTYPES))
    compilation_cache: str = field("compilation_cache", "", Text(), changeable=True)
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
    choices.MixChoice,
    choices.TeacherFields,
    choices.CacheChoice,
    choices.TeachingChoice,
    choices.OptimizerChoice,
    choices.AlignmentChoice,
)
SECTIONS = ("", "data", "data.views", "student", "teacher", "optimizer", "train", "eval")


def collect(classes: tuple[type, ...]) -> dict[str, Field]:
    """Returns the config fields that dataclasses declare, by path and in the order of sections."""
    declared = [field for cls in classes for field in settings.fields_of(cls).values()]
    declared.sort(key=lambda field: SECTIONS.index(field.section))
    return {field.path: field for field in declared}


FIELDS = collect(DECLARING)


def defaults() -> ConfigDict:
    """Returns CIFAR-100's recipe (arXiv 2407.12073, 1910.10699): every field at its default."""
    return config_of(FIELDS)


def config_of(fields: Mapping[str, Field]) -> ConfigDict:
    """Returns a config of these fields, by path, at their defaults."""
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
        else:
            holder[declared.name] = declared.default
    return config


def imagenet() -> ConfigDict:
    """Returns ImageNet's recipe: 100 epochs of batch 256, rate 0.1, milestones 30, 60, 90."""
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

    300 epochs of batch 1024 by AdamW; `methods.smooth_labels` has its label smoothing, 0.1.
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
