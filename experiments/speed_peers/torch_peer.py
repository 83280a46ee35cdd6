"""Times the same distillation step in PyTorch; experiments/benchmark.py starts it as ours.py.

Three variants, each with CE, KD and RRD with a queue, and SGD:

    published   float32 as PyTorch does it by default, eager; Pillow's crop and flip in a
                DataLoader; the loss is read every step
    eager       the same, but images and augmentation are on the device
    strongest   as much as PyTorch has: channels_last, bfloat16 and TF32 on a GPU, torch.compile,
                fused SGD, the teacher's batch norms folded, all of a step in one CUDA graph

The third also reads a teacher's embeddings of all views from a table, if the task says
`remembered`. Its rows are random: what they hold takes no time.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch_model import Distiller, create, fold
from torchvision import transforms

_PAD = 4
_PLACES = 2 * _PAD + 1
_VIEWS = _PLACES**2 * 2
_MEAN, _STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


class Images:
    """A training split on the device, and the order of an epoch.

    Args:
      images: [N, H, W, 3] uint8.
      labels: [N].
      batch_size: B.
      crops: whether a step crops and flips.
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
        pad = _PAD if crops else 0
        self.images = F.pad(images, (0, 0, pad, pad, pad, pad))
        self.steps = len(images) // batch_size
        self.order = torch.zeros(self.steps, batch_size, dtype=torch.long, device=images.device)
        self.step = torch.zeros(1, dtype=torch.long, device=images.device)
        self.mean, self.std = (torch.tensor(x, device=images.device) for x in (_MEAN, _STD))

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
                transforms.Normalize(_MEAN, _STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images[i]), self.labels[i]


def _published(
    model: Distiller, optimizer: torch.optim.Optimizer, pictures: _Pictures, batch_size: int
) -> Callable[[], int]:
    """Returns a function that makes an epoch and returns its steps."""
    on_gpu = torch.cuda.is_available()
    loader = torch.utils.data.DataLoader(
        pictures,
        batch_size,
        shuffle=True,
        # On a CPU the step needs the cores, and a set of two batches would only start processes.
        num_workers=8 if on_gpu else 0,
        drop_last=True,
        pin_memory=on_gpu,
    )
    device = model.queue.device

    def epoch():
        for images, labels in loader:
            *terms, keys = model(images.to(device), labels.to(device))
            loss = sum(terms)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.push(keys)
            loss.item()  # for the meter
        return len(loader)

    return epoch


def _resident(
    model: Distiller,
    optimizer: torch.optim.Optimizer,
    images: Images,
    table: Tensor | None,
    mode: str | None,
) -> tuple[Callable[[], int], str]:
    """Returns a function that makes an epoch and returns its steps, and how steps are launched.

    Args:
      model: on the device.
      optimizer: of its parameters.
      images: on the device.
      table: the teacher's embeddings of all views; None to run it.
      mode: of torch.compile; None for eager steps.
    """
    total = torch.zeros((), device=model.queue.device)

    def loss():
        shown, labels, view = images.batch()
        *terms, keys = model(shown, labels, None if table is None else table[view])
        return sum(terms), keys

    @torch.no_grad()
    def advance(loss, keys):
        model.push(keys)
        images.step.add_(1)
        total.add_(loss)

    def make_step(mode):
        functions = (loss, advance)
        if mode is not None:
            options = {"fullgraph": True, "dynamic": False, "mode": mode}
            functions = [torch.compile(function, **options) for function in functions]

        def step():
            value, keys = functions[0]()
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            functions[1](value.detach(), keys)

        return step

    step, launched = make_step(mode), "one by one"
    if mode is not None and torch.cuda.is_available():
        images.shuffle()
        try:
            step, launched = _captured(step, images.step), "one CUDA graph a step"
        except Exception as error:  # of many kinds; the next best is then measured and named
            reason = str(error).strip().split("\n")[0]
            launched = f"by reduce-overhead, as one CUDA graph failed: {reason}"
            torch.cuda.synchronize()
            step = _marked(make_step("reduce-overhead"))

    def epoch():
        images.shuffle()
        for _ in range(images.steps):
            step()
        total.item()
        return images.steps

    return epoch, launched


def _marked(step: Callable[[], None]) -> Callable[[], None]:
    """A step that tells reduce-overhead where it begins."""

    def marked():
        torch.compiler.cudagraph_mark_step_begin()
        step()

    return marked


def _captured(step: Callable, counter: Tensor) -> Callable:
    """A step as one CUDA graph; all that changes from step to step lies on the device."""
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


def _build(task: dict[str, Any], device: torch.device) -> tuple[Distiller, torch.optim.Optimizer]:
    strongest, on_gpu = task["variant"] == "strongest", device.type == "cuda"
    student, teacher = (create(task[name], task["classes"]) for name in ("student", "teacher"))
    if strongest:
        fold(teacher.eval())
        if on_gpu:
            teacher.to(torch.bfloat16).fc.float()
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked = None  # nothing reads it, and each is a kernel
    queue = F.normalize(torch.randn(task["queue_size"], 128))
    model = Distiller(student, teacher, queue, half=strongest and on_gpu)
    model.to(device, memory_format=_layout(task))
    optimizer = torch.optim.SGD(
        model.trained(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=strongest or None
    )
    return model, optimizer


def _layout(task: dict[str, Any]) -> torch.memory_format:
    return torch.channels_last if task["variant"] == "strongest" else torch.contiguous_format


def _epoch(task: dict[str, Any], device: torch.device) -> tuple[Callable[[], int], str]:
    """The epoch that the task asks for; returns as `_resident`."""
    model, optimizer = _build(task, device)
    shape = (task["examples"], task["side"], task["side"], 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.randint(0, task["classes"], shape[:1])
    if task["variant"] == "published":
        pictures = _Pictures(images, labels)
        return _published(model, optimizer, pictures, task["batch_size"]), "one by one"
    table = None
    if task["remembered"]:
        shape = (task["examples"] * _VIEWS, model.teacher_head.in_features)
        kind = torch.bfloat16 if model.half else torch.float32
        table = torch.rand(shape, dtype=kind, device=device)
    placed = (images.to(device), labels.to(device))
    images = Images(*placed, task["batch_size"], task["crops"], _layout(task))
    mode = task["mode"] if task["variant"] == "strongest" else None
    return _resident(model, optimizer, images, table, mode)


def _rounds(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields what it reports once all is warm, then seconds a step, round after round."""
    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    if task["variant"] == "strongest":
        torch.set_float32_matmul_precision("high")
    epoch, launched = _epoch(task, device)
    epoch()
    yield {
        "platform": "gpu" if device.type == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "launched": launched,
        "start": time.perf_counter() - start,
    }
    while True:
        start = time.perf_counter()
        steps = sum(epoch() for _ in range(task["epochs"]))
        if device.type == "cuda":
            torch.cuda.synchronize()
        yield {"seconds": (time.perf_counter() - start) / steps}


def _main() -> None:
    rounds = _rounds(json.loads(sys.argv[1]))
    print(json.dumps(next(rounds)), flush=True)
    for _ in sys.stdin:
        print(json.dumps(next(rounds)), flush=True)


if __name__ == "__main__":
    _main()
