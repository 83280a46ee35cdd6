"""What the speed benchmark measures: sizes of images, precisions, and the variants of PyTorch."""

from typing import Any, NamedTuple

from rrd_jax import parallel

OURS, LOSS, CACHED = "rrd_jax", "rrd+kd", ", remembered"

# Which networks compute in bfloat16; all else is float32 in every row.
PRECISIONS = {"float32": [], "bfloat16": ["student", "teacher"], "teacher": ["teacher"]}


class Variant(NamedTuple):
    """A way to run the step in PyTorch.

    Attributes:
      name: of peers/torch_peer.py.
      layout: "contiguous" or "channels_last".
      first_only: whether a CPU leaves it out where the precision is not float32.
    """

    name: str
    layout: str
    first_only: bool = False


# What a user of PyTorch would try; the fastest is marked in each row. NCHW is PyTorch's layout,
# NHWC its channels_last, for which alone a CPU compiles bfloat16: each takes half a minute.
_VARIANTS = {
    "torch, eager, NCHW": Variant("eager", "contiguous"),
    "torch, eager, NHWC": Variant("eager", "channels_last"),
    "torch, compiled, NCHW": Variant("compiled", "contiguous", first_only=True),
    "torch, compiled, NHWC": Variant("compiled", "channels_last"),
    "torch, max-autotune, NHWC": Variant("max-autotune", "channels_last", first_only=True),
}


class Size(NamedTuple):
    """Images, and the networks for them.

    Attributes:
      config: the file with the recipe.
      teacher: a network's name.
      student: a network's name.
      side: height and width of the images.
      classes: C.
      examples: N; 0 for `epoch` batches.
      epoch: steps of an epoch, where `examples` is 0.
      batch_sizes: the default of --batch_sizes.
      steps: the default of --steps.
      crops: whether the step crops and flips; otherwise the host has done it.
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
QUEUE_SIZE = 16_384  # the published K, in the small rows too


def sizes(on_cpu: bool) -> dict[str, Size]:
    """By name; a CPU gets small networks and sets."""
    return _SMALL if on_cpu else _FULL


def precisions(on_cpu: bool) -> list[str]:
    """The default of --precisions: bfloat16 only where the processor has instructions for it."""
    return ["float32", *(["bfloat16"] if not on_cpu or parallel.has_fast_bfloat16() else [])]


def cases(crops: bool) -> list[str]:
    """Of our reader: losses, with a teacher that runs and, where there are views, remembered."""
    live = ["ce+kd", LOSS]
    return live + ([f"{method}{CACHED}" for method in live] if crops else [])


def peers(precision: str, *, crops: bool, on_cpu: bool) -> dict[str, dict[str, Any]]:
    """By name, what each variant of PyTorch is told beside the task.

    Args:
      precision: a name of PRECISIONS.
      crops: whether the step crops; only then has the teacher a limited number of views, which a
        table can hold.
      on_cpu: whether it is for a CPU, on which compiling is most of the time.
    """
    told = {}
    for name, variant in _VARIANTS.items():
        if variant.first_only and on_cpu and precision != "float32":
            continue
        remembered = [f"{LOSS}{CACHED}"] if crops else []
        told[name] = {
            "variant": variant.name,
            "layout": variant.layout,
            "cases": [LOSS, *remembered],
        }
    return told
