"""Converts the weights of a PyTorch file to a checkpoint, for config.teacher.checkpoint.

    python -m rrd_jax.convert --model=resnet32x4 --input=ckpt_epoch_240.pth --output=DIR
    python -m rrd_jax.convert --input=hf:FOLDER --output=DIR

The file is .safetensors, or a file of torch.save (needs `pip install 'rrd_jax[torch]'`) with a
state dict, plain or inside a training script's checkpoint. If it holds several, FILE@KEY names one,
such as FILE@state_dict_ema. hf:FOLDER is a folder of transformers, whose config.json names the
network. Class names and normalization come from a config.json of timm or transformers beside the
file.
`python -m rrd_jax.networks` lists the networks.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import app, flags

from rrd_jax import checkpoints, errors, networks
from rrd_jax.terminal import cli, console
from rrd_jax.weights import exported, files, from_torch, sizes, to_torch

__all__ = ["from_torch", "sizes", "to_torch"]

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "The network, a name of rrd_jax.networks.MODELS. Default: from the config.json of a folder.",
)
_INPUT = flags.DEFINE_string("input", None, "The .pth, .pt or .safetensors file, or hf:FOLDER.")
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write to.")


def run(model: str, source: pathlib.Path, output: pathlib.Path) -> None:
    """Reads the network, runs it on a random image, writes it, and prints a summary.

    Args:
      model: a name of `networks.MODELS` or `networks.ALIASES`; "" for the name beside the weights.
      source: the PyTorch file, or hf:FOLDER.
      output: the folder to write to.

    Raises:
      InputError: the file cannot be read or does not fit, or the folder is in use.
    """
    model = _network_name(model, source)
    file, _ = files.split(source)
    if file.is_dir() and not exported.weights_of(file).is_file():
        raise errors.InputError(f"--input={source} is a folder; wanted is a file of weights")
    if not file.exists():
        raise errors.InputError(f"--input={source} does not exist")
    variables, meta = files.load(source, model, headless=True)
    if meta.get("classifier"):
        raise errors.InputError(
            f"{source} was trained with '{meta['classifier']}', which classifies in its place: it"
            " is no network alone; rrd_jax.load and rrd_jax.predict take the file as it is"
        )
    num_classes, (height, _, channels) = meta["num_classes"], meta["image_shape"]
    shape = (*[height or networks.image_size(model)] * 2, channels)
    network = networks.create(model, num_classes)
    image = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    fitted = networks.fit_positions(variables, network, shape)
    outputs = jax.jit(network.apply)(fitted, image)
    output_name = "logits" if num_classes else "embedding"
    values = np.asarray(outputs.logits if num_classes else outputs.embedding)
    if not np.isfinite(values).all():
        raise errors.InputError(
            f"{source} gives {output_name} that are not finite for a random image"
        )
    digest = checkpoints.save_network(output, variables, meta | {"image_shape": list(shape)})
    console.say(
        f"{model}: {networks.count_parameters(variables['params']):,} parameters,"
        f" {num_classes or 'no'} classes, {channels} image channels{_description(meta)}\n"
        f"{output_name} of a random {shape[0]}x{shape[1]} image: mean {values.mean():.4g}, standard"
        f" deviation {values.std():.4g}\n"
        f"sha256 of the weights: {digest}\n"
        f"written to {output}; use it with --config.teacher.checkpoint={output}"
    )


def _network_name(model: str, source: pathlib.Path) -> str:
    """Returns the network that --model names, or the config.json beside the weights."""
    name = networks.canonical(model or files.network_of(source))
    file, _ = files.split(source)
    if name not in networks.MODELS and file.is_file():
        fitting = files.fitting(source)
        hint = f"{source} fits {' and '.join(fitting)}" if fitting else f"{source} fits none"
        problem = f"unknown model '{name}'" if name else "--model is not given"
        raise errors.InputError(
            f"{problem}; {hint}; known: {errors.name_list(networks.MODELS, name)}"
        )
    networks.factory(name)  # Raises an error for an unknown name.
    return name


def _description(meta: dict[str, Any]) -> str:
    """Returns the classes and the preprocessing as text, as far as they are known."""
    about = meta.get("about") or {}
    names, images = about.get("class_names"), about.get("preprocessing")
    parts = [f"; classes {names[0]} to {names[-1]}"] if names else []
    if images:
        resize = f", resized to {images['resize']}" if images["resize"] else ""
        size = images["image_size"]
        parts.append(f"; images {size}x{size}{resize}, mean {images['mean']}, std {images['std']}")
    return errors.printable("".join(parts))


def _run() -> None:
    model = (_MODEL.value or "").strip()
    for flag in (_INPUT, _OUTPUT):
        if not flag.value.strip():
            raise errors.InputError(f"--{flag.name} is empty")
    run(model, pathlib.Path(_INPUT.value), pathlib.Path(_OUTPUT.value))


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_run)


if __name__ == "__main__":
    flags.mark_flags_as_required(["input", "output"])
    app.run(_main, flags_parser=cli.parse_flags)
