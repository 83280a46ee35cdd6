"""Times RRD's loss and its gradient in PyTorch; as memory_loss_ours.py, with forms of its own.

`eager` and `compiled` differentiate the loss as one writes it down, in the forms that were fastest;
`chunks` and `attention` are the two attentions of rrd_jax in PyTorch's own operations.
"""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

_TAU_S, _TAU_T = 0.04, 0.1
_CHUNK = 512


def _softmax(student, teacher, rows):
    log_p = F.log_softmax((student / _TAU_S) @ rows.T, 1)
    return -(F.softmax((teacher / _TAU_T) @ rows.T, 1) * log_p).sum(1).mean()


def _logsumexp(student, teacher, rows):
    similarities = (student / _TAU_S) @ rows.T
    p = F.softmax((teacher / _TAU_T) @ rows.T, 1)
    return (torch.logsumexp(similarities, 1) - (p * similarities).sum(1)).mean()


def _differentiated(loss):
    def value_and_gradient(student, teacher, rows):
        student = student.detach().requires_grad_()
        value = loss(student, teacher, rows)
        return value.detach(), torch.autograd.grad(value, student)[0]

    return value_and_gradient


@torch.no_grad()
def _attention(student, teacher, rows):
    batch, rows = len(student), rows[None, None]
    queries = torch.cat([student / _TAU_S, teacher / _TAU_T])
    means, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries[None, None], rows, rows, scale=1.0
    )
    means, total = means[0, 0], total.reshape(-1)
    losses = total[:batch] - (queries[:batch] * means[batch:]).sum(1)
    return losses.mean(), (means[:batch] - means[batch:]) / _TAU_S / batch


@torch.no_grad()
def _chunks(student, teacher, rows):
    batch, queries = len(student), torch.cat([student / _TAU_S, teacher / _TAU_T])
    top = torch.full((2 * batch,), -1e30)
    total, mean = torch.zeros(2 * batch), torch.zeros_like(queries)
    for part in rows.split(_CHUNK):
        similarities = queries @ part.T
        new = torch.maximum(top, similarities.amax(1))
        weights = similarities.sub_(new[:, None]).exp_()
        scale = (top - new).exp()
        total = total * scale + weights.sum(1)
        mean = torch.addmm(mean * scale[:, None], weights, part)
        top = new
    mean = mean / total[:, None]
    losses = (top + total.log())[:batch] - (queries[:batch] * mean[batch:]).sum(1)
    return losses.mean(), (mean[:batch] - mean[batch:]) / _TAU_S / batch


_FORMS = {
    "eager": _differentiated(_softmax),
    "compiled": _differentiated(torch.compile(_softmax, dynamic=False)),
    "compiled_lse": _differentiated(torch.compile(_logsumexp, dynamic=False)),
    "chunks": _chunks,
    "attention": _attention,
}


def seconds(function, arrays, clock) -> float:
    """A call's, after one that warms up."""
    function(*arrays)
    found, end = [], clock() + 0.2
    while clock() < end or not found:
        start = clock()
        function(*arrays)
        found.append(clock() - start)
    return statistics.median(found)


def _main() -> None:
    task = json.loads(sys.argv[1])
    clock = time.process_time if task["cpu_time"] else time.perf_counter
    torch._dynamo.config.cache_size_limit = 64  # one program for each size
    versions = {"torch": torch.__version__}
    print(json.dumps({"platform": "cpu", "versions": versions}), flush=True)
    for line in sys.stdin:
        _, form, batch, size = line.split()  # the first asks for a round
        generator = torch.Generator().manual_seed(0)
        arrays = [
            F.normalize(torch.randn(n, task["dim"], generator=generator))
            for n in (int(batch), int(batch), int(size))
        ]
        print(json.dumps({"seconds": seconds(_FORMS[form], arrays, clock)}), flush=True)


if __name__ == "__main__":
    _main()
