"""Writes the weights of a PyTorch file as a checkpoint, for config.teacher.checkpoint.

    python -m rrd_jax.convert --model=resnet32x4 --input=ckpt_epoch_240.pth --output=DIR

The file is .safetensors, or what torch.save wrote (needs `pip install 'rrd_jax[torch]'`): a state
dict, plain or in what a training script saves. Where it holds several, FILE@KEY names one, such as
FILE@state_dict_ema. Class names and the normalisation of images are taken from a config.json of
timm or Hugging Face beside it. `python -m rrd_jax.networks` lists the networks.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import app, flags

from rrd_jax import checkpoints, cli, console, errors, networks
from rrd_jax.convert import files

_MODEL = flags.DEFINE_string("model", None, "The network, a name of rrd_jax.networks.MODELS.")
_INPUT = flags.DEFINE_string("input", None, "The .pth, .pt or .safetensors file.")
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write to.")


def run(model: str, source: pathlib.Path, output: pathlib.Path) -> None:
    """Reads the network, tries it on a random image, writes it, and prints what it is.

    Args:
      model: a name of `networks.MODELS` or `networks.ALIASES`.
      source: the PyTorch file.
      output: the folder to write to.

    Raises:
      InputError: the file cannot be read or does not fit, or the folder is in use.
    """
    file, _ = files.split(source)
    model = networks.canonical(model)
    if model not in networks.MODELS and file.is_file():
        fitting = files.fitting(source)
        hint = f"{source} fits {' and '.join(fitting)}" if fitting else f"{source} fits none"
        raise errors.InputError(
            f"unknown model '{model}'; {hint}; known: {errors.listed(networks.MODELS, model)}"
        )
    networks.factory(model)  # which raises for a name that is none
    if file.is_dir():
        raise errors.InputError(f"--input={source} is a folder; wanted is a file of weights")
    if not file.is_file():
        raise errors.InputError(f"--input={source} does not exist")
    variables, meta = files.load(source, model)
    if meta.get("classifier"):
        raise errors.InputError(
            f"{source} was trained with '{meta['classifier']}', which classifies in its place: it"
            " is no network alone; rrd_jax.load and rrd_jax.predict take the file as it is"
        )
    num_classes, (height, _, channels) = meta["num_classes"], meta["image_shape"]
    shape = (*[height or networks.image_size(model)] * 2, channels)
    network = networks.create(model, num_classes)
    image = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    logits = np.asarray(jax.jit(network.apply)(variables, image).logits)
    if not np.isfinite(logits).all():
        raise errors.InputError(f"{source} gives logits that are not finite for a random image")
    digest = checkpoints.save_network(output, variables, meta | {"image_shape": list(shape)})
    console.say(
        f"{model}: {networks.count_parameters(variables['params']):,} parameters, {num_classes}"
        f" classes, {channels} image channels{_known(meta)}\n"
        f"logits of a random {shape[0]}x{shape[1]} image: mean {logits.mean():.4g}, standard"
        f" deviation {logits.std():.4g}\n"
        f"sha256 of the weights: {digest}\n"
        f"written to {output}; use it with --config.teacher.checkpoint={output}"
    )


def _known(meta: dict[str, Any]) -> str:
    """What the file, or what lies beside it, says of classes and images."""
    about = meta.get("about") or {}
    names, images = about.get("class_names"), about.get("preprocessing")
    parts = [f"; classes {names[0]} to {names[-1]}"] if names else []
    if images:
        resize = f", resized to {images['resize']}" if images["resize"] else ""
        size = images["image_size"]
        parts.append(f"; images {size}x{size}{resize}, mean {images['mean']}, std {images['std']}")
    return errors.printable("".join(parts))


def _run() -> None:
    for name, value in (
        ("model", _MODEL.value),
        ("input", _INPUT.value),
        ("output", _OUTPUT.value),
    ):
        if not value.strip():
            raise errors.InputError(f"--{name} is empty")
    run(_MODEL.value, pathlib.Path(_INPUT.value), pathlib.Path(_OUTPUT.value))


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_run)


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "input", "output"])
    app.run(_main, flags_parser=cli.parse_flags)
