"""Describes networks: python -m rrd_jax.networks [--names=PATTERNS] [--model=NAME].

Without --model, prints a table of all networks, or of those that match --names='vit_*,regnet*';
names in other libraries follow after a =.
With --model, prints one network, given by name or import path: parameters, multiply-adds, outputs
and maps, for --num_classes and --image_shape. Set the options of a network given by import path
with one --option=width=64 per option. The exit code is 0, 1 for an invalid flag, 2 for invalid
input.
"""

import ast
import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags

from rrd_jax import errors, imports, networks
from rrd_jax.settings import kinds
from rrd_jax.terminal import cli, console, runtime_errors, tables

FLAGS = flags.FLAGS
# Larger images cannot be resized by OpenCV.
_LENGTH = kinds.Integer(1, kinds.PIXELS.maximum)


def define_flags() -> None:
    """Defines the flags; not at import, since tests import programs whose flags share names."""
    flags.DEFINE_list("names", ["*"], "Names to list; patterns with * and ? are allowed.")
    flags.DEFINE_string("model", "", "Network to describe: a name of the table, or MODULE:NAME.")
    flags.DEFINE_integer(
        "num_classes", 10, "Number of classes of --model.", lower_bound=1, upper_bound=kinds.LARGEST
    )
    flags.DEFINE_list(
        "image_shape",
        None,
        "Height, width and channels. Default: the published size, or 32,32,3 for MODULE:NAME.",
    )
    flags.DEFINE_multi_string("option", [], "NAME=VALUE, an option of a network MODULE:NAME.")


def table(patterns: Sequence[str] = ("*",)) -> tables.Table:
    """Returns the table of networks with 100 (CIFAR) or 1 000 (ImageNet) classes for RGB images.

    Args:
      patterns: names, or patterns with * and ?.

    Raises:
      InputError: a pattern matches no network.
    """
    header = ("name", "parameters", "MACs", "maps: channels@size", "embedding", "input size")
    names = [*networks.MODELS, *networks.ALIASES]
    matches = {pattern: fnmatch.filter(names, pattern) for pattern in patterns}
    for pattern, matching in matches.items():
        if not matching:
            # Raises the error for an unknown name.
            networks.factory(pattern)
    selected = {networks.canonical(name) for matching in matches.values() for name in matching}
    rows = []
    for name in filter(selected.__contains__, networks.MODELS):
        size = networks.image_size(name)
        network = networks.create(name, 100 if name in networks.CIFAR else 1000)
        summary = networks.summarize(network, (size, size, 3))
        outputs = summary.outputs
        width = str(outputs.embedding.shape[-1])
        maps = networks.describe_maps(outputs.maps)
        cells = (f"{summary.parameters:,}", f"{summary.macs:,}", maps, width)
        rows.append((_names(name), *cells, f"{size}x{size}"))
    return header, rows


def description(
    name: str, num_classes: int, image_shape: tuple[int, int, int], options: dict[str, Any]
) -> str:
    """Returns a description of one network, with one property per line.

    Args:
      name: a key of `networks.MODELS` or `networks.ALIASES`, or an import path.
      num_classes: number of classes C.
      image_shape: (H, W, channels).
      options: options of a network given by import path.

    Raises:
      InputError: the network is unknown or invalid.
    """
    network = networks.create(name, num_classes, options=options)
    networks.check(network, name, num_classes, image_shape)
    summary = networks.summarize(network, image_shape)
    outputs = summary.outputs
    carried = jax.tree.leaves(summary.variables["batch_stats"])
    lines = {
        "network": _names(networks.canonical(name)),
        "images": "x".join(map(str, image_shape)),
        "parameters": f"{summary.parameters:,}",
        "other variables": f"{sum(leaf.size for leaf in carried):,} numbers",
        "multiply-adds": f"{summary.macs:,} per image",
        "logits": f"{num_classes}",
        "embedding": "none" if isinstance(outputs.embedding, tuple) else outputs.embedding.shape[1],
        "maps": networks.describe_maps(outputs.maps),
        "maps before ReLU": networks.describe_maps(outputs.preactivations),
        "patches": networks.describe_maps(() if outputs.patches is None else (outputs.patches,)),
        "classifier": "/".join(summary.classifier) or ("yes" if outputs.head else "not reported"),
    }
    width = max(map(len, lines))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in lines.items())


def _names(name: str) -> str:
    return " = ".join([name, *networks.aliases(name)])


def _options(texts: list[str]) -> dict[str, Any]:
    pairs = dict(text.split("=", 1) if "=" in text else (text, "True") for text in texts)
    return {name: _literal(value) for name, value in pairs.items()}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _image_shape(name: str) -> tuple[int, int, int]:
    if not FLAGS.image_shape:
        size = 32 if imports.is_path(name) else networks.image_size(name)
        return (size, size, 3)
    try:
        height, width, channels = map(int, FLAGS.image_shape)
    except ValueError:
        raise errors.FieldError(
            f"--image_shape is {','.join(FLAGS.image_shape)}, but must be three integers, such as"
            " 32,32,3"
        ) from None
    for name, value in (("height", height), ("width", width), ("channels", channels)):
        if problem := _LENGTH.problem(f"--image_shape: the {name}", value):
            raise errors.FieldError(problem)
    return (height, width, channels)


def _run() -> None:
    if not FLAGS.model:
        console.print_table(*table(FLAGS.names))
        return
    shape, options = _image_shape(FLAGS.model), _options(FLAGS.option)
    try:
        console.say(description(FLAGS.model, FLAGS.num_classes, shape, options))
    except (MemoryError, RuntimeError) as error:
        if not runtime_errors.is_out_of_memory(error):
            raise
        raise errors.InputError(
            f"'{FLAGS.model}' with {FLAGS.num_classes} classes for images of shape {shape} does not"
            " fit into memory; use a smaller --image_shape or --num_classes"
        ) from error


def main(argv: list[str]) -> None:
    """Prints the table of networks, or the description of one."""
    del argv
    cli.guard(_run)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=cli.parse_flags)
