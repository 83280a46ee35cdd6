"""Describes the networks: python -m rrd_jax.networks [--names=PATTERNS] [--model=NAME].

Without --model, a table of all that have a name, or of those that --names='vit_*,regnet*' names;
behind a = stand other libraries' names of the same network.
With it, one network, by name or import path: parameters, multiply-adds, what it returns and what
its layers are, for --num_classes and --image_shape; the options of a network by import path are set
with --option=width=64, as often as there are options. The exit code is 0, 1 for a bad flag, 2 for
bad input.
"""

import ast
import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags

from rrd_jax import errors, imports, networks
from rrd_jax.terminal import cli, console, tables

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Not on import: tests import several programs, whose flags have the same names."""
    flags.DEFINE_list("names", ["*"], "What the table has; * and ? stand for any characters.")
    flags.DEFINE_string("model", "", "A name of the table, or MODULE:NAME.")
    flags.DEFINE_integer("num_classes", 10, "Classes of --model.", lower_bound=1)
    flags.DEFINE_list(
        "image_shape", None, "Height, width and channels. Default: as published, or 32,32,3."
    )
    flags.DEFINE_multi_string("option", [], "NAME=VALUE of a network by import path.")


def table(patterns: Sequence[str] = ("*",)) -> tables.Table:
    """Header and rows: networks with 100 (CIFAR) or 1 000 (ImageNet) classes, for RGB images.

    Args:
      patterns: names, or with * and ? for several.

    Raises:
      InputError: one names nothing.
    """
    header = ("name", "parameters", "MACs", "taps: channels@size", "embedding", "input size")
    known = [*networks.MODELS, *networks.ALIASES]
    named = {pattern: fnmatch.filter(known, pattern) for pattern in patterns}
    for pattern, found in named.items():
        if not found:
            networks.factory(pattern)  # which raises
    wanted = {networks.canonical(name) for found in named.values() for name in found}
    rows = []
    for name in filter(wanted.__contains__, networks.MODELS):
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
    """What is known of one network, a line each.

    Args:
      name: a key of `networks.MODELS` or `networks.ALIASES`, or an import path.
      num_classes: C.
      image_shape: (H, W, channels).
      options: of a network by import path.

    Raises:
      InputError: there is no such network, or it is none.
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
        "carried beside them": f"{sum(leaf.size for leaf in carried):,} numbers",
        "multiply-adds": f"{summary.macs:,} an image",
        "logits": f"{num_classes}",
        "embedding": "none" if isinstance(outputs.embedding, tuple) else outputs.embedding.shape[1],
        "maps": networks.describe_maps(outputs.maps),
        "maps before their ReLU": networks.describe_maps(outputs.preactivations),
        "classifier": "/".join(summary.classifier) or ("yes" if outputs.head else "not reported"),
    }
    width = max(map(len, lines))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in lines.items())


def _names(name: str) -> str:
    return " = ".join([name, *networks.aliases(name)])


def _options(given: list[str]) -> dict[str, Any]:
    pairs = dict(text.split("=", 1) if "=" in text else (text, "True") for text in given)
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
        raise errors.InputError(
            f"--image_shape is {','.join(FLAGS.image_shape)}, but must be three whole numbers, such"
            " as 32,32,3"
        ) from None
    errors.check_counts(height=height, width=width, channels=channels)
    return (height, width, channels)


def _run() -> None:
    if not FLAGS.model:
        console.print_table(*table(FLAGS.names))
        return
    shape, options = _image_shape(FLAGS.model), _options(FLAGS.option)
    console.say(description(FLAGS.model, FLAGS.num_classes, shape, options))


def main(argv: list[str]) -> None:
    """Prints the table, or one network."""
    del argv
    cli.guard(_run)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=cli.parse_flags)
