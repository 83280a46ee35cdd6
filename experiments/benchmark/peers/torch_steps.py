"""Epochs of the PyTorch peer, with all images on the device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch_images import Images
from torch_model import Distiller


def resident(
    model: Distiller,
    optimizer: torch.optim.Optimizer,
    images: Images,
    table: Tensor | None,
    mode: str | None,
) -> tuple[Callable[[], int], str]:
    """Returns a function that runs an epoch, and a description of how steps are launched.

    Args:
      model: model on the device.
      optimizer: optimizer of the model's parameters.
      images: images on the device.
      table: the teacher's embeddings of all views; None to run the teacher.
      mode: mode of torch.compile; None for eager steps.

    Returns:
      A function that runs an epoch and returns the number of steps, and the description.
    """
    total = torch.zeros((), device=model.queue.device)

    def loss():
        batch, labels, view = images.batch()
        *terms, keys = model(batch, labels, None if table is None else table[view])
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
            step, launched = _captured(step, images.step), "one CUDA graph per step"
        # PyTorch raises many types of errors. The fallback is measured, and named in the report.
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            launched = f"by reduce-overhead, because one CUDA graph failed: {reason}"
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
    """Returns a step that marks its beginning for reduce-overhead."""

    def marked():
        torch.compiler.cudagraph_mark_step_begin()
        step()

    return marked


def _captured(step: Callable, counter: Tensor) -> Callable:
    """Returns a step as one CUDA graph; everything that changes between steps is on the device."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Compiles, selects algorithms and creates the momenta of SGD.
        for _ in range(3):
            step()
            counter.zero_()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()
    return graph.replay
