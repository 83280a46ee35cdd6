"""What a network with weights says of itself: classes, images, and where it comes from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors

_COLOURS = {1: "grey", 3: "RGB"}
_SCALED = "area where the image shrinks, else bilinear"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what a network sees.

    Attributes:
      image_size: height and width that the network sees.
      channels: 1 for grey, 3 for red, green and blue.
      mean: of each channel, in [0, 1] units, which is taken from it.
      std: of each channel, which it is then divided by.
      resize: the short side that an image is scaled to before its centre is cut out; None where
        smaller images are centred on black and larger ones scaled to image_size.
      interpolation: "bilinear" or "bicubic", by which images are scaled that reach a frozen network
        in another size. Whole images are read by areas, whatever it is.
    """

    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self):
        errors.check_counts(image_size=self.image_size)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise errors.InputError(
                    f"{name} is {values}, but must be {self.channels} numbers, one a channel"
                )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, channels)."""
        return (self.image_size, self.image_size, self.channels)

    def to_json(self) -> dict[str, Any]:
        """Its fields, and in words what readers other than this program need to know."""
        fit = "centred on black where smaller, scaled to image_size where larger"
        if self.resize:
            fit = "short side scaled to resize, then the centre cut out"
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
    """What is known of a network and its weights.

    Attributes:
      model: a name of `networks.MODELS`, an import path, or what a program called it.
      num_classes: C; 0 of weights without a classifier.
      options: of a network by import path.
      class_names: in the order of labels; () where they are not known.
      preprocessing: of its images; None where it is not known.
      classifier: the objective that classifies in the network's place; "" for none.
      training: where the weights come from, as JSON: data set, objectives, epochs, teachers, the
        command and the versions of its start.
      metrics: of the checkpoint, as JSON, such as top1 and agreement in per cent.
    """

    model: str
    num_classes: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    classifier: str = ""
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def class_name(self, label: int) -> str:
        """Of a label; its number where classes have no names."""
        return self.class_names[label] if self.class_names else str(label)

    def to_json(self) -> dict[str, Any]:
        """JSON that `from_json` reads."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {
            "options": dict(self.options),
            "class_names": list(self.class_names),
            "preprocessing": self.preprocessing and self.preprocessing.to_json(),
            "training": dict(self.training),
            "metrics": dict(self.metrics),
        }


def from_json(content: Any, where: str) -> ModelInfo:
    """The About of `About.to_json`; raises an InputError for anything else.

    Args:
      content: JSON.
      where: it is from, for messages.
    """
    try:
        known = {f.name for f in dataclasses.fields(ModelInfo)}
        fields = {name: value for name, value in content.items() if name in known}
        if fields.get("preprocessing"):
            fields["preprocessing"] = _preprocessing(fields["preprocessing"])
        fields["class_names"] = tuple(map(str, fields.get("class_names") or ()))
        about = ModelInfo(**fields)
        if about.num_classes != 0:
            errors.check_counts(num_classes=about.num_classes)
        if len(about.class_names) not in (0, about.num_classes):
            raise ValueError(
                f"it names {len(about.class_names)} classes of {about.num_classes}",
            )
        return about
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.InputError(f"what {where} says of its network is damaged ({error})") from error


def _preprocessing(content: Mapping[str, Any]) -> Preprocessing:
    known = {f.name for f in dataclasses.fields(Preprocessing)}
    fields = {name: value for name, value in content.items() if name in known}
    if fields.get("interpolation") == _SCALED:
        del fields["interpolation"]
    moments = {name: tuple(map(float, fields[name])) for name in ("mean", "std")}
    return Preprocessing(**fields | moments)
