"""Metadata of trained networks: classes, preprocessing and origin."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors
from rrd_jax.data import normalization
from rrd_jax.data.source import DEFAULT_BACKGROUND
from rrd_jax.settings import kinds

_COLOURS = {1: "grey", 3: "RGB"}
# The text is read back from model.json, so it must not change.
_SCALED = "area where the image shrinks, else bilinear"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a network's images.

    Attributes:
      image_size: height and width of the network's images.
      channels: 1 for grayscale, 3 for RGB.
      mean: mean per channel in [0, 1] units, which is subtracted.
      std: standard deviation per channel in [0, 1] units, by which the difference is divided.
      resize: shorter side that an image is scaled to before its center crop; None if smaller images
        are padded with black and larger images are scaled to image_size.
      interpolation: "bilinear" or "bicubic", the method for scaling images of another size for a
        frozen network. Reading image files always uses area averaging.
      background: color behind transparent pixels, see `settings.kinds.Color`; "none" if
        transparency is dropped.
    """

    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: str = "bilinear"
    background: str = DEFAULT_BACKGROUND

    def __post_init__(self):
        errors.check_counts(image_size=self.image_size)
        normalization.check(self.mean, self.std, self.channels)
        if problem := kinds.Color().problem("background", self.background):
            raise errors.InputError(problem)
        object.__setattr__(self, "background", kinds.Color().value(self.background))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image, (H, W, channels)."""
        return (self.image_size, self.image_size, self.channels)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields and a description in words for readers outside this package."""
        fit = "padded with black if smaller, scaled to image_size if larger"
        if self.resize:
            fit = "short side scaled to resize, then a central crop"
        return {
            **dataclasses.asdict(self),
            "mean": list(self.mean),
            "std": list(self.std),
            "colour": _COLOURS.get(self.channels, f"{self.channels} channels"),
            "fit": fit,
            "interpolation": _SCALED if self.interpolation == "bilinear" else self.interpolation,
            "values": "(pixel / 255 - mean) / std",
        }


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """The metadata of a network and its weights.

    Attributes:
      model: a name of `networks.MODELS`, an import path, or a name chosen by the program.
      num_classes: C; 0 for weights without a classifier.
      options: options of a network by import path.
      class_names: names in the order of labels; () if unknown.
      preprocessing: preprocessing of the images; None if unknown.
      classifier: the objective that replaces the network's classifier; "" for none.
      training: origin of the weights as JSON: data set, objectives, epochs, teachers, command and
        package versions.
      metrics: metrics of the checkpoint as JSON, such as top1 and agreement in percent.
    """

    model: str
    num_classes: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    classifier: str = ""
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def dataset_name(self) -> str:
        """The name of the data set for people; "" if unknown."""
        return str(self.training.get("dataset_name") or self.training.get("dataset") or "")

    def class_name(self, label: int) -> str:
        """Returns the name of a class, or the label as text if classes have no names."""
        return self.class_names[label] if self.class_names else str(label)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON value for `from_json`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {
            "options": dict(self.options),
            "class_names": list(self.class_names),
            "preprocessing": self.preprocessing and self.preprocessing.to_json(),
            "training": dict(self.training),
            "metrics": dict(self.metrics),
        }


def from_json(content: Any, location: str) -> ModelInfo:
    """Returns the metadata from the result of `ModelInfo.to_json`.

    Args:
      content: JSON value.
      location: description of the file, for messages.

    Raises:
      InputError: the content is invalid.
    """
    try:
        names = {f.name for f in dataclasses.fields(ModelInfo)}
        fields = {name: value for name, value in content.items() if name in names}
        if fields.get("preprocessing"):
            fields["preprocessing"] = _preprocessing(fields["preprocessing"])
        fields["class_names"] = tuple(map(str, fields.get("class_names") or ()))
        info = ModelInfo(**fields)
        if info.num_classes != 0:
            errors.check_counts(num_classes=info.num_classes)
        if len(info.class_names) not in (0, info.num_classes):
            raise ValueError(
                f"{len(info.class_names)} class names for {info.num_classes} classes",
            )
        return info
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.InputError(
            f"the metadata of the network in {location} is damaged ({error})"
        ) from error


def _preprocessing(content: Mapping[str, Any]) -> Preprocessing:
    names = {f.name for f in dataclasses.fields(Preprocessing)}
    # Version 0.2.0 dropped transparency and did not store this field.
    fields = {"background": kinds.NO_COLOR}
    fields |= {name: value for name, value in content.items() if name in names}
    if fields.get("interpolation") == _SCALED:
        del fields["interpolation"]
    moments = {name: tuple(map(float, fields[name])) for name in ("mean", "std")}
    return Preprocessing(**fields | moments)
