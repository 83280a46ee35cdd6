"""Converts the weights in a PyTorch file to a checkpoint, for config.teacher.checkpoint.

    python -m rrd_jax.convert --model=resnet32x4 --input=ckpt_epoch_240.pth --output=DIR
    python -m rrd_jax.convert --input=hf:FOLDER --output=DIR
    python -m rrd_jax.convert --input=hf-hub:ORG/NAME --output=DIR

The input is a .safetensors file, or a file written by torch.save (requires `pip install
'rrd_jax[torch]'`) that holds a state dict or a training checkpoint with a state dict. FILE@KEY
selects one of several state dicts, such as FILE@state_dict_ema. hf:FOLDER is a transformers folder,
whose config.json names the network. Class names and normalization are read from a timm or
transformers config.json next to the file. `python -m rrd_jax.networks` lists the networks.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from absl import app, flags

from rrd_jax import buckets, checkpoints, errors, networks, user_paths
from rrd_jax.terminal import cli, console, path_flags
from rrd_jax.weights import exported, files, from_torch, sizes, to_torch

__all__ = ["from_torch", "sizes", "to_torch"]

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "The network, a name in rrd_jax.networks.MODELS. Default: the network that config.json names.",
)
_INPUT = path_flags.define_path(
    "input",
    None,
    "The .pth, .pt or .safetensors file, also in gs://BUCKET or s3://BUCKET; hf:FOLDER or"
    " hf-hub:ORG/NAME.",
    bucket=True,
    repository=True,
)
_OUTPUT = path_flags.define_path(
    "output", None, "The folder to write to, also in a bucket.", bucket=True
)


def run(model: str, source: pathlib.Path, output: pathlib.Path) -> None:
    """Converts a file to a checkpoint, runs the network on a random image, and prints a summary.

    Args:
      model: a name in `networks.MODELS` or `networks.ALIASES`; "" for the network that the
        config.json next to the weights names.
      source: the PyTorch file, hf:FOLDER, or hf-hub:ORG/NAME.
      output: the folder to write to.

    Raises:
      InputError: the file cannot be read or does not fit the network, or the folder is in use or a
        file.
    """
    _check_output(output)
    model = _network_name(model, source)
    file, _ = files.split(source)
    if file.is_dir() and not exported.weights_file(file).is_file():
        raise errors.InputError(f"--input={source} is a folder; set it to a weight file")
    if not file.exists():
        raise errors.InputError(f"--input={source} does not exist; check the path")
    variables, meta = files.load(source, model, headless=True)
    if meta.get("classifier"):
        raise errors.InputError(
            f"{source} was trained with '{meta['classifier']}', which replaces the network's"
            " classifier, so it cannot be converted; pass the file to rrd_jax.load or"
            " rrd_jax.predict"
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
            f"{source}: {output_name} not finite for a random image; check the weights"
        )
    digest = checkpoints.save_network(output, variables, meta | {"image_shape": list(shape)})
    console.say(
        f"{model}: {networks.count_parameters(variables['params']):,} parameters,"
        f" {num_classes or 'no'} classes, {channels} image channels{_description(meta)}\n"
        f"{output_name} for a random {shape[0]}x{shape[1]} image: mean {values.mean():.4g},"
        f" standard deviation {values.std():.4g}\n"
        f"sha256 of the weights: {digest}\n"
        f"written to {output}; use it with --config.teacher.checkpoint={output}"
    )


def _check_output(output: pathlib.Path) -> None:
    """Raises an InputError if --output, or a folder that contains it, is a file."""
    if buckets.is_bucket(output):
        return buckets.check(output)
    nearest = next((path for path in (output, *output.absolute().parents) if path.exists()), None)
    if nearest and not nearest.is_dir():
        problem = (
            "is a file" if nearest == output else f"is not possible because {nearest} is a file"
        )
        raise errors.InputError(
            f"--output={output} {problem}; set it to a folder, which is created if it is missing"
        )


def _network_name(model: str, source: pathlib.Path) -> str:
    """Returns the network that --model or the config.json next to the weights names."""
    name = networks.canonical(model or files.network_of(source))
    file, _ = files.split(source)
    if name not in networks.MODELS and file.is_file():
        fitting = files.fitting_networks(source)
        hint = f"{source} fits {' and '.join(fitting)}" if fitting else f"{source} fits no network"
        problem = f"unknown model '{name}'" if name else "--model is missing"
        raise errors.InputError(
            f"{problem}; {hint}; known: {errors.name_list(networks.MODELS, name)}"
        )
    # Raises an error for an unknown name.
    networks.factory(name)
    return name


def _description(meta: dict[str, Any]) -> str:
    """Describes the classes and the preprocessing, if the file names them."""
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
            raise errors.InputError(f"--{flag.name} is empty; set it to a path")
    run(model, user_paths.path_of(_INPUT.value), user_paths.path_of(_OUTPUT.value))


def _main(argv: list[str]) -> None:
    del argv
    for flag, description in ((_INPUT, "a file of weights"), (_OUTPUT, "a new folder")):
        if flag.value is None:
            cli.stop(1, f"--{flag.name} is missing; name {description}")
    cli.guard(_run)


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
