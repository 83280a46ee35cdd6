"""Augmentation and mixing of the compiled step, as they are chosen."""

import dataclasses

from rrd_jax import settings
from rrd_jax.data.augment import mixing, pipeline
from rrd_jax.data.augment.views import Views
from rrd_jax.data.source import Source
from rrd_jax.settings import field, kinds, unless

_IF_MIXED = unless("data.mix", "mixup", "cutmix", "mixup+cutmix")
_IF_BOTH_MIXED = unless("data.mix", "mixup+cutmix")


def _without_changes(values: settings.Values) -> str:
    names = ("jitter", "grey", "gaussian_blur", "solarize", "erase", "views.others")
    is_changed = any(values[f"data.{name}"] for name in names if name != "jitter")
    if is_changed or any(values["data.jitter"]) or values["data.policy"] != "none":
        return ""
    return "nothing comes after the crop"


@dataclasses.dataclass(frozen=True)
class AugmentChoice:
    """The augmentation of the compiled step.

    Attributes:
      pad: crop_flip only: pixels of black on each side; at most data.image_size.
      flip: Mirrors half of the images; crop_flip and resized_crop.
      teacher_views: same: the teacher sees what the student sees; weak: the crop alone, without
        what follows here.
      changes: what else is done to images at random.
    """

    pad: int = field(
        "data.pad", 4, kinds.Integer(0, 16383), unused=unless("data.augment", "crop_flip")
    )
    flip: bool = field(
        "data.flip", True, kinds.Flag(), unused=unless("data.augment", "crop_flip", "resized_crop")
    )
    teacher_views: str = field(
        "data.views.teacher", "same", kinds.Choice(pipeline.TEACHERS_VIEWS), unused=_without_changes
    )
    changes: pipeline.Changes = dataclasses.field(default_factory=pipeline.Changes)

    def create(
        self, source: Source, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> pipeline.Augment:
        """Returns the augmentation of a source's images.

        Args:
          source: the images.
          mean: of each channel, in [0, 1] units.
          std: likewise.
        """
        return pipeline.make_augment(
            source.augment,
            mean=mean,
            std=std,
            pad=self.pad,
            flip=self.flip,
            area=source.crop_area,
            changes=self.changes,
            views=Views(source.views, source.views_seed),
            teacher=self.teacher_views,
        )


@dataclasses.dataclass(frozen=True)
class MixChoice:
    """The mixing of a batch's training images in the step.

    Attributes:
      kind: Mixes each training image with another of its batch; the teacher sees the mixture.
        mixup+cutmix draws one of the two for each batch.
      alpha: The share of an image is drawn from Beta(alpha, alpha).
      cutmix_alpha: mixup+cutmix only: alpha of cutmix; data.mix_alpha is then mixup's (DeiT: 0.8).
      switch: mixup+cutmix only: the share of batches with cutmix.
      probability: Probability that a batch is mixed at all.
    """

    kind: str = field("data.mix", "none", kinds.Choice(mixing.MIXES))
    alpha: float = field(
        "data.mix_alpha", 1.0, kinds.Real(minimum=1e-3, maximum=1e3), unused=_IF_MIXED
    )
    cutmix_alpha: float = field(
        "data.cutmix_alpha", 1.0, kinds.Real(minimum=1e-3, maximum=1e3), unused=_IF_BOTH_MIXED
    )
    switch: float = field("data.mix_switch", 0.5, kinds.CHANCE, unused=_IF_BOTH_MIXED)
    probability: float = field("data.mix_probability", 1.0, kinds.CHANCE, unused=_IF_MIXED)

    def create(self) -> mixing.Mix | None:
        """Returns the function that mixes a batch; None for none."""
        return mixing.make_mix(
            self.kind,
            self.alpha,
            cutmix_alpha=self.cutmix_alpha,
            switch=self.switch,
            probability=self.probability,
        )
