"""Batches of the PyTorch peer, from a split on the device."""

import torch
from torch import Tensor
from torch.nn import functional as F

PAD = 4
_OFFSETS = 2 * PAD + 1
VIEWS = _OFFSETS**2 * 2
_MEAN, _STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


class Images:
    """A training split on the device, and the order of an epoch.

    Args:
      images: uint8 [N, H, W, 3].
      labels: labels [N].
      batch_size: B.
      crops: True if a step crops and flips images.
      layout: memory format of the batches.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        crops: bool,
        layout: torch.memory_format,
    ):
        self.side, self.crops, self.layout, self.labels = images.shape[1], crops, layout, labels
        pad = PAD if crops else 0
        self.images = F.pad(images, (0, 0, pad, pad, pad, pad))
        self.steps = len(images) // batch_size
        self.order = torch.zeros(self.steps, batch_size, dtype=torch.long, device=images.device)
        self.step = torch.zeros(1, dtype=torch.long, device=images.device)
        mean, std = (torch.tensor(x, device=images.device) for x in (_MEAN, _STD))
        self.factor, self.shift = 1 / (255 * std), -mean / std

    def shuffle(self) -> None:
        """Starts an epoch with a new order of the images."""
        order = torch.randperm(len(self.images), device=self.order.device)
        self.order.copy_(order[: self.order.numel()].view_as(self.order))
        self.step.zero_()

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns images [B, 3, H, W], labels [B] and the index of each view among all views."""
        index = self.order.index_select(0, self.step).squeeze(0)
        images, view = self._cut(index) if self.crops else (self.images[index], index)
        images = (images.float() * self.factor + self.shift).permute(0, 3, 1, 2)
        return images.contiguous(memory_format=self.layout), self.labels[index], view

    def _cut(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Returns a view [B, H, W, 3] of each image, and the index of each view."""
        shape, device = (3, len(index)), index.device
        top, left, side = torch.randint(0, 2 * _OFFSETS**2, shape, device=device)
        top, left, side = top % _OFFSETS, left % _OFFSETS, side % 2
        view = ((index * _OFFSETS + top) * _OFFSETS + left) * 2 + side
        offsets = torch.arange(self.side, device=device)
        columns = torch.where(side[:, None] == 1, offsets.flip(0), offsets) + left[:, None]
        rows = offsets + top[:, None]
        # On a CPU, one index per pixel is twice as fast as three.
        _, height, width, channels = self.images.shape
        pixels = (index[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
        flat = self.images.view(-1, channels).index_select(0, pixels.view(-1))
        return flat.view(len(index), self.side, self.side, channels), view
