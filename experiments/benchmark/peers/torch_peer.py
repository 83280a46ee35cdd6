"""Times the distillation step in PyTorch, for experiments.benchmark; see ours.py for requests.

The step has the losses CE, KD and RRD with a queue, and SGD. The task names a variant:

    eager          without a compiler: images and augmentation on the device, the teacher in
                   inference mode with folded batch norms, fused SGD, denormal numbers flushed,
                   TF32 on a GPU
    compiled       as eager, with torch.compile; on a GPU, one CUDA graph per step
    max-autotune   as compiled, with this mode of torch.compile

All variants use the task's `layout`. The networks named in `halves` compute in bfloat16. Cases that
end with `cached` read the teacher's embeddings of all views from a table with random rows, because
their values do not affect the time.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import resident_memory
import torch
import torch_steps
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch_images import VIEWS, Images
from torch_model import Distiller, create, fold

# On a GPU, the CUDA graphs of torch.compile would be nested in the graph of the step.
_MODES = {"compiled": "default", "max-autotune": "max-autotune-no-cudagraphs"}


class _Case:
    """A model with its epochs, compiled and warm.

    Attributes:
      launched: description of how steps are launched.
      start: seconds until the epochs were warm.
    """

    def __init__(self, task: dict[str, Any], name: str, device: torch.device):
        before, start = _allocated(device), time.perf_counter()
        self._task, self._is_cached = task, name.endswith("cached")
        layout = torch.channels_last if task["layout"] == "channels_last" else None
        self._layout = layout or torch.contiguous_format
        self._model, self._optimizer = self._build(device)
        self._data: list[Tensor] = []
        self.epoch, self.launched = self._make_epoch(device)
        self.epoch()
        self.start = time.perf_counter() - start
        self._peak_on_gpu = _peak(device) - before

    def _build(self, device: torch.device) -> tuple[Distiller, torch.optim.Optimizer]:
        task = self._task
        student, teacher = (
            create(task[name], task["classes"], task["side"]) for name in ("student", "teacher")
        )
        fold(teacher.eval())
        if "teacher" in task["halves"]:
            # Autocast would convert the weights at each step.
            teacher.to(torch.bfloat16).fc.float()
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                # Updates of this unused counter would be separate kernels.
                module.num_batches_tracked = None
        queue = F.normalize(torch.randn(task["queue_size"], 128))
        model = Distiller(student, teacher, queue, tuple(task["halves"]))
        model.to(device, memory_format=self._layout)
        optimizer = torch.optim.SGD(
            model.trained(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True
        )
        return model, optimizer

    def _make_epoch(self, device: torch.device) -> tuple[Callable[[], int], str]:
        """Returns the result of `torch_steps.resident`."""
        task, model = self._task, self._model
        shape = (task["examples"], task["side"], task["side"], 3)
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        labels = torch.randint(0, task["classes"], shape[:1])
        table = None
        if self._is_cached:
            shape = (task["examples"] * VIEWS, model.teacher_head.in_features)
            dtype = torch.bfloat16 if "teacher" in task["halves"] else torch.float32
            table = torch.rand(shape, dtype=dtype, device=device)
        split = Images(
            images.to(device), labels.to(device), task["batch_size"], task["crops"], self._layout
        )
        self._data = [split.images] + ([] if table is None else [table])
        return torch_steps.resident(
            model, self._optimizer, split, table, _MODES.get(task["variant"])
        )

    def bytes(self) -> int | None:
        """Returns the peak memory of an epoch: tensors of the case plus memory of a step."""
        if self._peak_on_gpu:
            return self._peak_on_gpu
        growth = resident_memory.growth(self.epoch)
        parameters = list(self._model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        momenta = [
            value
            for state in self._optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        tensor_bytes = sum(
            map(_size, [*parameters, *self._model.buffers(), *gradients, *momenta, *self._data])
        )
        return growth and tensor_bytes + growth


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _allocated(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def _answers(task: dict[str, Any], requests: Iterable[str]) -> Iterable[dict[str, Any]]:
    """Yields a report once all cases are warm, then an answer to each request."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch.set_flush_denormal(True)
    cases = {name: _Case(task, name, device) for name in task["cases"]}
    yield {
        "platform": "gpu" if device.type == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "launched": next(iter(cases.values())).launched,
        "start": {name: case.start for name, case in cases.items()},
    }
    for line in requests:
        kind, _, name = line.strip().partition(" ")
        if kind == "bytes":
            yield {"bytes": cases[name].bytes()}
        else:
            start = time.perf_counter()
            steps = sum(cases[name].epoch() for _ in range(task["epochs"]))
            if device.type == "cuda":
                torch.cuda.synchronize()
            yield {"seconds": (time.perf_counter() - start) / steps}


if __name__ == "__main__":
    for answer in _answers(json.loads(sys.argv[1]), sys.stdin):
        print(json.dumps(answer), flush=True)
