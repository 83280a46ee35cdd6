"""The rows of the speed benchmark: sizes of images, precisions and variants of PyTorch."""

from typing import Any, NamedTuple

from rrd_jax import parallel

OURS, LOSS, CACHED = "rrd_jax", "rrd+kd", ", cached"

# The networks that compute in bfloat16; everything else is float32 in all rows.
PRECISIONS = {"float32": [], "bfloat16": ["student", "teacher"], "teacher": ["teacher"]}


class Variant(NamedTuple):
    """A variant of the step in PyTorch.

    Attributes:
      name: name in peers/torch_peer.py.
      layout: "contiguous" or "channels_last".
      first_only: True to omit the variant on CPUs if the precision is not float32.
    """

    name: str
    layout: str
    first_only: bool = False


# Common variants of PyTorch; the tables mark the fastest. NCHW is PyTorch's default layout, NHWC is
# channels_last. On a CPU, bfloat16 is compiled only for NHWC, because each compilation takes half a
# minute.
_VARIANTS = {
    "torch, eager, NCHW": Variant("eager", "contiguous"),
    "torch, eager, NHWC": Variant("eager", "channels_last"),
    "torch, compiled, NCHW": Variant("compiled", "contiguous", first_only=True),
    "torch, compiled, NHWC": Variant("compiled", "channels_last"),
    "torch, max-autotune, NHWC": Variant("max-autotune", "channels_last", first_only=True),
}


class Size(NamedTuple):
    """A size of images, and networks for this size.

    Attributes:
      config: config file with the recipe.
      teacher: name of the teacher's network.
      student: name of the student's network.
      side: height and width of the images.
      classes: number of classes C.
      examples: number of images N; 0 for `epoch` batches.
      epoch: number of steps per epoch if `examples` is 0.
      batch_sizes: default of --batch_sizes.
      steps: default of --steps.
      crops: True if the step crops and flips images; otherwise the host does.
    """

    config: str
    teacher: str
    student: str
    side: int
    classes: int
    examples: int
    epoch: int
    batch_sizes: tuple[int, ...]
    steps: int
    crops: bool


_CIFAR, _IMAGENET = "configs/cifar100.py", "configs/imagenet_r34_r18.py"
_VIT, _MOBILE = "vit_small_patch16_224", "mobilenet_v3_small"
_FULL = {
    "cifar": Size(
        _CIFAR, "resnet32x4", "resnet8x4", 32, 100, 50_000, 0, (64, 512), 100, crops=True
    ),
    "imagenet": Size(_IMAGENET, "resnet34", "resnet18", 224, 1000, 0, 20, (256,), 100, crops=False),
    "transformer": Size(_IMAGENET, _VIT, "resnet18", 224, 1000, 0, 20, (256,), 100, crops=False),
    "mobile": Size(_IMAGENET, "resnet34", _MOBILE, 224, 1000, 0, 20, (256,), 100, crops=False),
}
_SMALL = {
    "cifar": Size(_CIFAR, "resnet8x4", "resnet8", 32, 100, 0, 2, (32,), 10, crops=True),
    "imagenet": Size(_IMAGENET, "resnet34", "resnet18", 96, 1000, 0, 2, (8,), 4, crops=False),
    "transformer": Size(_IMAGENET, _VIT, "resnet18", 96, 1000, 0, 2, (8,), 4, crops=False),
    "mobile": Size(_IMAGENET, "resnet34", _MOBILE, 96, 1000, 0, 2, (8,), 4, crops=False),
}
# The published K, also for the small networks of CPUs.
QUEUE_SIZE = 16_384


def sizes(on_cpu: bool) -> dict[str, Size]:
    """Returns the sizes by name; a CPU gets small networks and data sets."""
    return _SMALL if on_cpu else _FULL


def precisions(on_cpu: bool) -> list[str]:
    """Returns the default of --precisions, with bfloat16 if the device has instructions for it."""
    return ["float32", *(["bfloat16"] if not on_cpu or parallel.has_fast_bfloat16() else [])]


def cases(crops: bool) -> list[str]:
    """Returns the cases of the reader of rrd_jax: losses with a live and a cached teacher.

    Args:
      crops: see `peers`.
    """
    live = ["ce+kd", LOSS]
    return live + ([f"{method}{CACHED}" for method in live] if crops else [])


def peers(precision: str, *, crops: bool, on_cpu: bool) -> dict[str, dict[str, Any]]:
    """Returns the options of each variant of PyTorch, which are added to the task, by name.

    Args:
      precision: a name in PRECISIONS.
      crops: True if the step crops images. Only then is the number of views limited, so that the
        teacher can be cached.
      on_cpu: True for a CPU, on which compilation takes most of the time.
    """
    options = {}
    for name, variant in _VARIANTS.items():
        if variant.first_only and on_cpu and precision != "float32":
            continue
        cached = [f"{LOSS}{CACHED}"] if crops else []
        options[name] = {
            "variant": variant.name,
            "layout": variant.layout,
            "cases": [LOSS, *cached],
        }
    return options
