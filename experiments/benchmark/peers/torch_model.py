"""The networks, the loss and the memory of the PyTorch peer, written from their definitions."""

import re

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Identity()
        if stride > 1 or before != width:
            shortcut = nn.Conv2d(before, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class _CifarResNet(nn.Module):
    """A ResNet with 6n + 2 layers for images of about 32 pixels."""

    def __init__(self, depth: int, widths: tuple[int, ...], classes: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        for stage in (1, 2, 3):
            before, width = widths[stage - 1 : stage + 1]
            blocks = [_Block(before, width, 1 if stage == 1 else 2)]
            blocks += [_Block(width, width, 1) for _ in range((depth - 2) // 6 - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class _Headed(nn.Module):
    """A network that computes embeddings, with its classifier in `fc`."""

    def __init__(self, body: nn.Module, fc: nn.Linear):
        super().__init__()
        self.body, self.fc = body, fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


def create(name: str, classes: int, side: int = 32, channels: int = 3) -> nn.Module:
    """Returns a network: of torchvision, or a ResNet with 6n + 2 layers such as resnet32x4.

    Args:
      name: name of the network.
      classes: number of classes.
      side: height and width of the images.
      channels: channels of the images.
    """
    models = torchvision.models
    if name in ("resnet18", "resnet34"):
        return getattr(models, name)(num_classes=classes)
    if name == "mobilenet_v3_small":
        body = models.mobilenet_v3_small(num_classes=classes, dropout=0.0)
        fc, body.classifier[3] = body.classifier[3], nn.Identity()
        return _Headed(body, fc)
    if name == "vit_small_patch16_224":
        body = models.VisionTransformer(side, 16, 12, 6, 384, 4 * 384, num_classes=classes)
        fc, body.heads = body.heads.head, nn.Identity()
        return _Headed(body, fc)
    depth, wide = re.fullmatch(r"resnet(\d+)(x4)?", name).groups()
    widths = (32, 64, 128, 256) if wide else (16, 16, 32, 64)
    return _CifarResNet(int(depth), widths, classes, channels)


def fold(network: nn.Module) -> None:
    """Merges the batch norms of a frozen network into the convolutions before them."""
    after = {"conv1": "bn1", "conv2": "bn2", "0": "1"}
    for module in network.modules():
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv2d) and name in after:
                norm = getattr(module, after[name])
                setattr(module, name, nn.utils.fusion.fuse_conv_bn_eval(conv, norm))
                setattr(module, after[name], nn.Identity())


class Distiller(nn.Module):
    """A student, a teacher and RRD's projections and queue.

    The student, its classifier and its projection are trained.

    Args:
      student: a network with its classifier in `fc`.
      teacher: a network with its classifier in `fc`.
      queue: [K, D], rows with norm 1.
      halves: the networks, "student" and "teacher", that compute in bfloat16 by autocast.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        queue: Tensor,
        halves: tuple[str, ...] = (),
    ):
        super().__init__()
        dim = queue.shape[1]
        self.student, self.head = student, student.fc
        self.teacher, self.teacher_head = teacher.eval(), teacher.fc
        student.fc, teacher.fc = nn.Identity(), nn.Identity()
        self.projection = nn.Linear(self.head.in_features, dim)
        self.teacher_projection = nn.Linear(self.teacher_head.in_features, dim)
        for frozen in (self.teacher, self.teacher_head, self.teacher_projection):
            frozen.requires_grad_(False)
        self.register_buffer("queue", queue)
        self.register_buffer("position", torch.zeros(1, dtype=torch.long))
        self.halves = halves

    def trained(self) -> list[nn.Parameter]:
        """Returns the parameters that are trained."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(
        self, images: Tensor, labels: Tensor, target: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the means of CE, KD and RRD, and the teacher's keys [B, D] for `push`.

        Args:
          images: normalized images [B, channels, H, W].
          labels: labels [B].
          target: the teacher's embeddings of the images; None to run the teacher.
        """
        if target is None:
            # torch.compile supports only no_grad. Compiled steps store no teacher activations.
            mode = torch.no_grad if torch.compiler.is_compiling() else torch.inference_mode
            with mode(), self._autocast("teacher", images):
                target = self.teacher(images)
        with self._autocast("student", images):
            embedding = self.student(images)
        embedding = embedding.float()
        logits = self.head(embedding)
        ce = F.cross_entropy(logits, labels)

        with torch.no_grad():
            target = target.float()
            teacher_log = F.log_softmax(self.teacher_head(target) / 4, 1)
            keys = F.normalize(self.teacher_projection(target))
            # Scaling [B, D] is cheaper than scaling [B, K].
            relations = F.softmax(F.linear(keys / 0.10, self.queue), 1)
        student_log = F.log_softmax(logits / 4, 1)
        kd = 16 * F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
        queries = F.normalize(self.projection(embedding))
        rrd = F.cross_entropy(F.linear(queries / 0.04, self.queue), relations)
        return ce, kd, rrd, keys

    def _autocast(self, part: str, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=part in self.halves)

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Replaces the oldest rows by keys; must follow the backward pass, which reads the rows."""
        size = len(self.queue)
        positions = (self.position + torch.arange(len(keys), device=keys.device)) % size
        self.queue.index_copy_(0, positions[-size:], keys[-size:])
        self.position.add_(len(keys)).remainder_(size)
