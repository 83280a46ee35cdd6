"""Choices for the augmentation and mixing of images in the train step."""

import dataclasses

from rrd_jax import settings
from rrd_jax.data.augment import mixing, pipeline
from rrd_jax.data.augment.second_view import SecondView
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
    return "no augmentation follows the crop"


@dataclasses.dataclass(frozen=True)
class AugmentChoice:
    """The augmentation of images in the train step.

    Attributes:
      pad: Black pixels added on each side before the crop, at most data.image_size; for crop_flip.
      flip: Mirrors half of the images; for crop_flip and resized_crop.
      teacher_views: The teacher's images. same: the student's augmented images; weak: the crop
        without the augmentations that follow it.
      changes: the random changes that follow the crop.
      second: the second view, for objectives that compare two views.
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
    second: SecondView = dataclasses.field(default_factory=SecondView)

    def create(
        self, source: Source, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> pipeline.Augment:
        """Returns the augmentation of a source's images.

        Args:
          source: the images.
          mean: mean of each channel, for pixel values in [0, 1].
          std: standard deviation of each channel, for pixel values in [0, 1].
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
            second=self.second,
        )


@dataclasses.dataclass(frozen=True)
class MixChoice:
    """The mixing of training images within a batch in the train step.

    Attributes:
      kind: Mixes each training image with another image of its batch, for student and teacher.
        mixup+cutmix draws one of the two for each batch.
      alpha: Parameter of Beta(alpha, alpha), from which the share of an image is drawn.
      cutmix_alpha: Alpha of cutmix in mixup+cutmix, where data.mix_alpha is that of mixup (DeiT:
        0.8).
      switch: Share of batches with cutmix in mixup+cutmix.
      probability: Probability that a batch is mixed.
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
        """Returns the function that mixes a batch, or None for no mixing."""
        return mixing.make_mix(
            self.kind,
            self.alpha,
            cutmix_alpha=self.cutmix_alpha,
            switch=self.switch,
            probability=self.probability,
        )
