"""Trajectories of torch.optim, and of a small vision model that torch.optim trains.

To write them to tests/golden/torch_optim.npz, for tests without PyTorch:

    python -m tests.optim.pytorch
"""

import math
import pathlib

import numpy as np

STEPS = 50
RATE, WARMUP, DECAY = 3e-3, 5, 0.05
FILE = pathlib.Path(__file__).parent.parent / "golden" / "torch_optim.npz"
# Name: (class of torch.optim, its arguments).
OPTIMIZERS = {
    "sgd": ("SGD", {"momentum": 0.9, "weight_decay": 0.01}),
    "nesterov": ("SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    "adam": ("Adam", {"weight_decay": 0.02, "betas": (0.8, 0.99), "eps": 1e-6}),
    "adamw": ("AdamW", {"weight_decay": 0.1}),
    "rmsprop": ("RMSprop", {"weight_decay": 0.01}),
    "rmsprop_momentum": ("RMSprop", {"alpha": 0.9, "momentum": 0.7, "eps": 1e-5}),
    "rmsprop_centered": ("RMSprop", {"centered": True, "momentum": 0.5}),
    "adamax": ("Adamax", {"weight_decay": 0.01}),
}


def rate(step):
    """Returns the learning rate, relative to the peak: a warm-up, then a cosine to 0."""
    if step < WARMUP:
        return 0.1 + 0.9 * step / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def problem():
    """Returns initial parameters p [4, 5] and noise [STEPS, 4, 5]; gradients are 0.1 p + noise."""
    rng = np.random.default_rng(3)
    start = rng.standard_normal((4, 5)).astype(np.float32)
    return start, rng.standard_normal((STEPS, 4, 5)).astype(np.float32)


def trajectory(name):
    """Returns the parameters after each step [STEPS, 4, 5], with a variable learning rate."""
    import torch

    kind, options = OPTIMIZERS[name]
    start, noise = problem()
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = getattr(torch.optim, kind)([parameter], lr=0.05, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    path = []
    for step in range(STEPS):
        parameter.grad = 0.1 * parameter.detach() + torch.tensor(noise[step])
        optimizer.step()
        schedule.step()
        path.append(parameter.detach().numpy().copy())
    return np.stack(path)


def vision():
    """Returns the weights of a model with two blocks under PyTorch's names, images and labels."""
    rng = np.random.default_rng(4)
    shapes = {"stem.weight": (8, 3, 3, 3), "stem.bias": (8,)}
    shapes |= {"norm.weight": (8,), "norm.bias": (8,)}
    for block in ("blocks.0", "blocks.1"):
        shapes |= {f"{block}.norm.weight": (8,), f"{block}.norm.bias": (8,)}
        shapes |= {f"{block}.fc1.weight": (16, 8), f"{block}.fc1.bias": (16,)}
        shapes |= {f"{block}.fc2.weight": (8, 16), f"{block}.fc2.bias": (8,)}
    shapes |= {"head.weight": (5, 8), "head.bias": (5,)}
    weights = {
        name: (0.3 * rng.standard_normal(shape) + ("norm.weight" in name)).astype(np.float32)
        for name, shape in shapes.items()
    }
    images = rng.standard_normal((STEPS, 4, 6, 6, 3)).astype(np.float32)
    return weights, images, rng.integers(0, 5, (STEPS, 4))


def _logits(w, images):
    import torch.nn.functional as F

    x = F.conv2d(images.permute(0, 3, 1, 2), w["stem.weight"], w["stem.bias"], padding=1)
    x = x.permute(0, 2, 3, 1)
    for block in ("blocks.0", "blocks.1"):
        y = F.layer_norm(x, (8,), w[f"{block}.norm.weight"], w[f"{block}.norm.bias"], eps=1e-6)
        y = F.linear(y, w[f"{block}.fc1.weight"], w[f"{block}.fc1.bias"])
        y = F.gelu(y, approximate="tanh")
        x = x + F.linear(y, w[f"{block}.fc2.weight"], w[f"{block}.fc2.bias"])
    x = F.layer_norm(x, (8,), w["norm.weight"], w["norm.bias"], eps=1e-6)
    return F.linear(x.mean((1, 2)), w["head.weight"], w["head.bias"])


def _scale(name, decay=0.7):
    """Returns the factor of the rate; as in timm, the last norm is in the layer of block 2."""
    layer = {"stem": 0, "norm": 2, "head": 3}.get(name.split(".")[0])
    return decay ** (3 - (int(name.split(".")[1]) + 1 if layer is None else layer))


def train_vision():
    """Trains with AdamW, clipping, layer decay and smoothing; returns weights and losses."""
    import torch

    weights, images, labels = vision()
    w = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in weights.items()}
    groups = [
        {"params": [p], "lr": RATE * _scale(name), "weight_decay": DECAY if p.ndim > 1 else 0.0}
        for name, p in w.items()
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            _logits(w, torch.tensor(images[step])), torch.tensor(labels[step]), label_smoothing=0.1
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(w.values()), 0.5)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return {name: p.detach().numpy() for name, p in w.items()} | {"losses": np.array(losses)}


def golden_arrays():
    """Returns all arrays of the golden file."""
    paths = {name: trajectory(name) for name in OPTIMIZERS}
    return paths | {f"vision/{name}": value for name, value in train_vision().items()}


if __name__ == "__main__":
    np.savez_compressed(FILE, **golden_arrays())
