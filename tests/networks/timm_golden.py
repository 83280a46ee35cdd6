"""Adds reference outputs of timm to timm.json, with weights drawn from the entry names.

    python -m tests.networks.timm_golden    (needs torch, torchvision and timm)

For each network of timm or torchvision that the file lacks, the script adds the number of
parameters, the multiply-adds for one image, and the logits of two random images for ten classes.
For `modern.SAMPLE`, it also adds the first four channels of four patches of the first image.
"""

import json
import pathlib

import numpy as np
import timm
import torch
import torchvision

from rrd_jax.networks import inverted
from rrd_jax.weights import published
from tests import golden
from tests.networks import modern

FILE = pathlib.Path(__file__).parents[1] / "golden" / "timm.json"


def build(name: str, side: int | None = None) -> torch.nn.Module:
    """Builds the network of timm or torchvision in evaluation mode, with weights from entry names.

    Args:
      name: name of the network in rrd_jax.
      side: side of the images in pixels, which only transformers need; None for the side of the
        golden numbers.
    """
    sized = {"img_size": side or modern.side(name)} if modern.patch(name) else {}
    if name in inverted.TORCHVISION:
        network = getattr(torchvision.models, name)(num_classes=10).eval()
    else:
        record = published.lookup(name)
        network = timm.create_model(record.timm, num_classes=10, **sized, **record.timm_args).eval()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in weights(network).items()})
    return network


def weights(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns a state dict that is drawn from the entry names."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    texts = ["x".join(map(str, shape)) for shape in shapes.values()]
    return golden.named_weights(list(shapes), texts)


def multiply_adds(network: torch.nn.Module, images: torch.Tensor) -> int:
    """Counts the multiply-adds of convolutions, linear layers and attention for one image."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, torch.nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, torch.nn.Linear):
            total += output[0].numel() * module.in_features
        elif type(module).__name__ == "Attention":
            tokens, width = inputs[0].shape[1:]
            total += 2 * tokens * tokens * width
        elif type(module).__name__ == "AttentionPoolLatent":
            total += 2 * inputs[0].shape[1] * inputs[0].shape[2]

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    with torch.inference_mode():
        network(images[:1])
    for hook in hooks:
        hook.remove()
    return total


def patches(network: torch.nn.Module, images: np.ndarray) -> list:
    """Returns the first four channels of the patches at the upper left 2x2 positions, [2, 2, 4]."""
    with torch.inference_mode():
        features = network.forward_features(torch.from_numpy(images[:1].transpose(0, 3, 1, 2)))
    features = features[0].double().numpy()
    if features.ndim == 2:
        tokens = features[network.num_prefix_tokens :]
        side = round(len(tokens) ** 0.5)
        features = tokens.reshape(side, side, -1)
    else:
        features = features.transpose(1, 2, 0)
    return [[[float(f"{v:.9g}") for v in patch] for patch in row] for row in features[:2, :2, :4]]


def main() -> None:
    """Adds the missing networks to the file."""
    results = json.loads(FILE.read_text())
    for name in modern.names():
        if name in results:
            continue
        network = build(name)
        images = torch.from_numpy(modern.images(name).transpose(0, 3, 1, 2).copy())
        with torch.inference_mode():
            logits = network(images).double().numpy()
        results[name] = {
            "parameters": sum(p.numel() for p in network.parameters()),
            "macs": multiply_adds(network, images),
            "logits": [[float(f"{value:.9g}") for value in row] for row in logits],
        }
        print(name, results[name]["parameters"], flush=True)
    for name in modern.SAMPLE:
        if "patches" not in results[name]:
            network = build(name)
            results[name]["patches"] = patches(network, modern.images(name))
    FILE.write_text(json.dumps(results, indent=0) + "\n")


if __name__ == "__main__":
    main()
