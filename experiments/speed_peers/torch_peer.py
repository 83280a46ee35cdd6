"""The same distillation step in PyTorch; stands alone, run by experiments/benchmark.py as ours.py.

Three variants, each with CE, KD and RRD with a queue, and SGD:

    published   float32, eager; Pillow's crop and flip in a DataLoader; the loss is read every step
    eager       float32, eager; images and augmentation on the device
    strongest   as much as PyTorch has: channels_last, bfloat16 on a GPU, torch.compile, fused SGD,
                a folded teacher, and all of a step in one CUDA graph

The third also reads a teacher's embeddings of all views from a table, if the task says
`remembered`. Its rows are random: what they hold takes no time.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

_PAD = 4
_PLACES = 2 * _PAD + 1
_VIEWS = _PLACES**2 * 2


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
    """6n + 2 layers for images of about 32 pixels."""

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


def create(name: str, classes: int, channels: int = 3) -> nn.Module:
    """resnet18 and resnet34 of torchvision, or such as resnet32x4, of 6n + 2 layers."""
    if name in ("resnet18", "resnet34"):
        return getattr(torchvision.models, name)(num_classes=classes)
    depth, wide = re.fullmatch(r"resnet(\d+)(x4)?", name).groups()
    widths = (32, 64, 128, 256) if wide else (16, 16, 32, 64)
    return _CifarResNet(int(depth), widths, classes, channels)


def fold(network: nn.Module) -> None:
    """Takes the batch norms of a frozen network into the convolutions before them."""
    after = {"conv1": "bn1", "conv2": "bn2", "0": "1"}
    for module in network.modules():
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv2d):
                norm = getattr(module, after[name])
                setattr(module, name, nn.utils.fusion.fuse_conv_bn_eval(conv, norm))
                setattr(module, after[name], nn.Identity())


class Distiller(nn.Module):
    """The student and its projection, which are trained, and what is compared with them.

    Args:
      student: a network with its classifier in `fc`.
      teacher: likewise.
      queue: [K, D] rows of length 1.
      half: whether the networks compute in bfloat16.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, queue: Tensor, half: bool = False):
        super().__init__()
        size, dim = queue.shape
        self.student, self.head = student, student.fc
        self.teacher, self.teacher_head = teacher.eval(), teacher.fc
        student.fc, teacher.fc = nn.Identity(), nn.Identity()
        self.projection = nn.Linear(self.head.in_features, dim)
        self.teacher_projection = nn.Linear(self.teacher_head.in_features, dim)
        for frozen in (self.teacher, self.teacher_head, self.teacher_projection):
            frozen.requires_grad_(False)
        self.register_buffer("queue", queue)
        self.register_buffer("place", torch.zeros(1, dtype=torch.long))
        self.size, self.half = size, half

    def trained(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(
        self, images: Tensor, labels: Tensor, target: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The means of CE, KD and RRD, and the teacher's keys [B, D], which go to `push`.

        Args:
          images: [B, channels, H, W], normalised.
          labels: [B].
          target: the teacher's embeddings of the images; None to run it.
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.half):
            with torch.no_grad():
                target = self.teacher(images) if target is None else target
            embedding = self.student(images)
        embedding, target = embedding.float(), target.float()
        logits = self.head(embedding)
        ce = F.cross_entropy(logits, labels)

        with torch.no_grad():
            wanted = F.log_softmax(self.teacher_head(target) / 4, 1)
            keys = F.normalize(self.teacher_projection(target))
            relations = F.softmax(keys @ self.queue.T / 0.10, 1)
        found = F.log_softmax(logits / 4, 1)
        kd = 16 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)
        own = F.normalize(self.projection(embedding))
        rrd = -(relations * F.log_softmax(own @ self.queue.T / 0.04, 1)).sum(1).mean()
        return ce, kd, rrd, keys

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Keys take the places of the oldest rows; after the backward pass, which reads those."""
        places = (self.place + torch.arange(len(keys), device=keys.device)) % self.size
        self.queue.index_copy_(0, places[-self.size :], keys[-self.size :])
        self.place.add_(len(keys)).remainder_(self.size)


class Images:
    """A set on the device, in the order of an epoch.

    Args:
      images: [N, H, W, 3] uint8.
      labels: [N].
      batch_size: B.
      crops: whether a step crops and flips.
      layout: of its batches.
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
        pad = _PAD if crops else 0
        self.images = F.pad(images, (0, 0, pad, pad, pad, pad))
        self.steps = len(images) // batch_size
        self.order = torch.zeros(self.steps, batch_size, dtype=torch.long, device=images.device)
        self.step = torch.zeros(1, dtype=torch.long, device=images.device)
        self.mean = torch.tensor([0.5071, 0.4867, 0.4408], device=images.device)
        self.std = torch.tensor([0.2675, 0.2565, 0.2761], device=images.device)

    def shuffle(self) -> None:
        """Begins an epoch."""
        order = torch.randperm(len(self.images), device=self.order.device)
        self.order.copy_(order[: self.order.numel()].view_as(self.order))
        self.step.zero_()

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, 3, H, W], labels, and the number of each view among those of all images."""
        index = self.order.index_select(0, self.step).squeeze(0)
        view = index
        if self.crops:
            shape, device = (3, len(index)), index.device
            top, left, side = torch.randint(0, 2 * _PLACES**2, shape, device=device)
            top, left, side = top % _PLACES, left % _PLACES, side % 2
            view = ((index * _PLACES + top) * _PLACES + left) * 2 + side
            places = torch.arange(self.side, device=device)
            columns = torch.where(side[:, None] == 1, places.flip(0), places) + left[:, None]
            rows = places + top[:, None]
            images = self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        else:
            images = self.images[index]
        images = ((images / 255 - self.mean) / self.std).permute(0, 3, 1, 2)
        return images.contiguous(memory_format=self.layout), self.labels[index], view


class _Pictures(torch.utils.data.Dataset):
    """Pillow's images one by one, as the published loaders make them."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images.numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(images.shape[1], padding=_PAD),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images[i]), self.labels[i]


def _published(model: Distiller, optimizer: Any, data: tuple, task: dict[str, Any]) -> Callable:
    on_gpu = torch.cuda.is_available()
    loader = torch.utils.data.DataLoader(
        _Pictures(*data),
        task["batch_size"],
        shuffle=True,
        # On a CPU the step needs the cores, and a set of two batches would only start processes.
        num_workers=8 if on_gpu else 0,
        drop_last=True,
        pin_memory=on_gpu,
    )
    device = model.queue.device

    def epoch() -> int:
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            ce, kd, rrd, keys = model(images, labels)
            loss = ce + kd + rrd
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.push(keys)
            loss.item()  # for the meter
        return len(loader)

    return epoch


def _resident(
    model: Distiller, optimizer: Any, images: Images, table: Tensor | None, task: dict[str, Any]
) -> tuple[Callable, str]:
    """What makes an epoch, and how its steps are launched."""
    strongest, on_gpu = task["variant"] == "strongest", torch.cuda.is_available()
    total = torch.zeros((), device=model.queue.device)

    def loss():
        shown, labels, view = images.batch()
        ce, kd, rrd, keys = model(shown, labels, None if table is None else table[view])
        return ce + kd + rrd, keys

    @torch.no_grad()
    def advance(loss, keys):
        model.push(keys)
        images.step.add_(1)
        total.add_(loss)

    def make_step(mode: str) -> Callable:
        compiled = (loss, advance)
        if strongest:
            compiled = [
                torch.compile(f, fullgraph=True, dynamic=False, mode=mode) for f in compiled
            ]

        def step():
            value, keys = compiled[0]()
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            compiled[1](value.detach(), keys)

        return step

    launched, step = "one by one", make_step(task["mode"])
    if strongest and on_gpu:
        try:
            images.shuffle()
            step, launched = _captured(step, images.step), "one CUDA graph a step"
        except Exception as error:  # of many kinds; the next best is then measured, and named
            reason = str(error).strip().split("\n")[0]
            launched = f"reduce-overhead, as one CUDA graph failed: {reason}"
            torch.cuda.synchronize()
            plain = make_step("reduce-overhead")

            def step():
                torch.compiler.cudagraph_mark_step_begin()
                plain()

    def epoch() -> int:
        images.shuffle()
        for _ in range(images.steps):
            step()
        total.item()
        return images.steps

    return epoch, launched


def _captured(step: Callable, counter: Tensor) -> Callable:
    """A step as a graph that is launched whole; all that changes lies on the device."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, chooses algorithms, and gives SGD its momenta
            step()
            counter.zero_()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()
    return graph.replay


def _rounds(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is known once all is warm, then the seconds of a step for each time it is asked."""
    start = time.perf_counter()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    strongest = task["variant"] == "strongest"
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    if strongest:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    layout = torch.channels_last if strongest else torch.contiguous_format
    student, teacher = (create(task[name], task["classes"]) for name in ("student", "teacher"))
    if strongest:
        fold(teacher.eval())
        if on_gpu:
            teacher.to(torch.bfloat16).fc.float()
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked = None  # a kernel for each
    queue = F.normalize(torch.randn(task["queue_size"], 128))
    model = Distiller(student, teacher, queue, half=strongest and on_gpu)
    model.to(device, memory_format=layout)
    optimizer = torch.optim.SGD(
        model.trained(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=strongest or None
    )
    shape = (task["examples"], task["side"], task["side"], 3)
    data = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.randint(0, task["classes"], (task["examples"],))
    launched = "one by one"
    if task["variant"] == "published":
        epoch = _published(model, optimizer, (data, labels), task)
    else:
        table = None
        if task["remembered"]:
            rows, kind = task["examples"] * _VIEWS, torch.bfloat16 if on_gpu else torch.float32
            columns = model.teacher_head.in_features
            table = torch.rand(rows, columns, dtype=kind, device=device)
        on_device = (data.to(device), labels.to(device))
        images = Images(*on_device, task["batch_size"], task["crops"], layout)
        epoch, launched = _resident(model, optimizer, images, table, task)
    epoch()
    yield {
        "platform": "gpu" if on_gpu else "cpu",
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "launched": launched,
        "start": time.perf_counter() - start,
    }
    while True:
        start = time.perf_counter()
        steps = sum(epoch() for _ in range(task["epochs"]))
        if on_gpu:
            torch.cuda.synchronize()
        yield {"seconds": (time.perf_counter() - start) / steps}


def _main() -> None:
    rounds = _rounds(json.loads(sys.argv[1]))
    print(json.dumps(next(rounds)), flush=True)
    for _ in sys.stdin:
        print(json.dumps(next(rounds)), flush=True)


if __name__ == "__main__":
    _main()
