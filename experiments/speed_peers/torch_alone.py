"""What the PyTorch peer's convolutions take alone, and how fast the processor multiplies."""

import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

_TIMES = 5


def convolutions(
    network: nn.Module, images: torch.Tensor, dtype: torch.dtype, *, gradients: bool
) -> float:
    """Seconds of all convolutions of a network, each shape timed alone: medians, added.

    Args:
      network: on the device, its kernels in the layout that a step has them in.
      images: [B, channels, H, W] of a batch, in the layout of a step.
      dtype: that they compute in.
      gradients: whether to add the gradients of kernels and, but for the first layer, of maps.
    """
    counts = Counter()
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, _: counts.update([(module, tuple(inputs[0].shape))])
        )
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        network(images.to(next(network.parameters()).dtype))
    for hook in hooks:
        hook.remove()
    shapes = Counter()
    modules = {}
    for module, shape in counts:
        kernel = tuple(module.weight.shape)
        key = (shape, kernel, module.stride, module.padding, module.groups)
        shapes[key] += 1
        modules[key] = module
    total = 0.0
    for key, count in shapes.items():
        total += count * _alone(key, modules[key], images, dtype, gradients)
    return total


def _alone(key, module, images, dtype, gradients) -> float:
    shape, _, stride, padding, groups = key
    layout = torch.channels_last if _is_last(images) else torch.contiguous_format
    maps = torch.randn(shape, device=images.device).to(dtype, memory_format=layout)
    kernel = module.weight.detach().to(dtype, memory_format=layout)

    def forward():
        return F.conv2d(maps, kernel, None, stride, padding, 1, groups)

    with torch.no_grad():
        seconds = _median(forward, images.device)
        if gradients:
            cotangent = torch.randn_like(forward())
            mask = (shape[1] > 3, True, False)
            rest = ((1, 1), False, (0, 0), groups, mask)
            arguments = (maps, kernel, [0], stride, padding, *rest)
            backward = torch.ops.aten.convolution_backward
            seconds += _median(lambda: backward(cotangent, *arguments), images.device)
    return seconds


def _is_last(images: torch.Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last)


def product(dtype: torch.dtype, device: torch.device) -> float:
    """FLOPs a second of a large product of matrices."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / _median(lambda: left @ right, device)


def _median(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of some work, once it is warm."""
    times = []
    for _ in range(_TIMES + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
