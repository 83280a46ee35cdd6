import importlib
import json
import os
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import table
from experiments.benchmark.reader import Reader, ReaderError
from rrd_jax import networks, parallel
from rrd_jax.config import parse
from rrd_jax.data.augment import pipeline
from rrd_jax.jobs import program
from rrd_jax.objectives.batch import Batch
from rrd_jax.training import recipe
from rrd_jax.weights import to_torch

_SMALL = ("--sizes=cifar", "--batch_sizes=4", "--precisions=float32", "--steps=1", "--repeats=1")


def _run(tmp_path, *options):
    command = [sys.executable, "-m", "experiments.benchmark", f"--workdir={tmp_path}", *options]
    return subprocess.run(command, capture_output=True, text=True)


def _cores():
    return sorted(os.sched_getaffinity(0))


def _fake_torch(tmp_path, device):
    """Returns an interpreter that prints a device and fails for all other programs."""
    python = tmp_path / "python"
    answer = f'[ "$1" = -c ] && echo {device} && exit 0'
    last = "IndexError: list\nset VERBOSE=1 to see more"
    python.write_text(f'#!/bin/sh\n{answer}\necho "{last}" >&2\nexit 1\n')
    python.chmod(0o755)
    return str(python)


@pytest.fixture
def peer(monkeypatch):
    """The peer's module, for its networks, loss and memory."""
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    monkeypatch.syspath_prepend("experiments/benchmark/peers")
    return importlib.import_module("torch_peer")


@pytest.mark.long
def test_the_reader_of_rrd_jax_runs_rounds_with_a_cached_teacher_and_reports_its_figures(tmp_path):
    case = "rrd+kd, cached"
    models = {"config": "configs/cifar100.py", "teacher": "resnet8", "student": "resnet8"}
    images = {"side": 8, "classes": 4, "examples": 8, "batch_size": 4}
    task = models | images | {"queue_size": 20, "epochs": 1, "cases": [case], "halves": ["teacher"]}
    reader = Reader(sys.executable, "ours.py", task, tmp_path / "log", _cores(), tmp_path)
    try:
        assert reader.ready["fill"] > 0
        assert reader.ready["start"][case] > 0
        assert reader.request("round", case)["seconds"] > 0
        # At least the kernels and momenta of resnet8.
        peak = reader.request("bytes", case)["bytes"]
        assert peak is None or peak > 2 * 4 * 75_000
    finally:
        reader.close()


def test_a_reader_that_ends_early_raises_the_line_of_its_error(tmp_path):
    fake = _fake_torch(tmp_path, "cpu")
    with pytest.raises(ReaderError, match="^IndexError: list$"):
        Reader(fake, "torch_peer.py", {}, tmp_path / "log", _cores(), tmp_path)


def _figures():
    """Returns the figures of two rounds, as in speed.json."""
    seconds = {
        "rrd_jax: ce+kd": [0.19, 0.21],
        "rrd_jax: rrd+kd": [0.2, 0.22],
        "rrd_jax: ce+kd, cached": [0.1, 0.1],
        "rrd_jax: rrd+kd, cached": [0.1, 0.11],
        "torch, eager, NCHW: rrd+kd": [0.5, 0.6],
        "torch, compiled, NHWC: rrd+kd": [0.3, 0.44],
        "torch, compiled, NHWC: rrd+kd, cached": [0.08, 0.11],
    }
    start = dict.fromkeys((key.partition(": ")[2] for key in seconds), 7.0)
    ours = {"device": "NVIDIA H100", "fill": 24.0, "start": start}
    peer = {"start": dict.fromkeys(start, 2.0), "launched": "one by one"}
    return {
        "size": "cifar",
        "precision": "float32",
        "cores": 1,
        "task": {"side": 32, "batch_size": 50, "examples": 500, "crops": True},
        "ready": {"rrd_jax": ours, "torch, eager, NCHW": peer, "torch, compiled, NHWC": peer},
        "failed": {"torch, max-autotune, NHWC": "IndexError: list"},
        "seconds": seconds,
        "bytes": {"rrd_jax: rrd+kd": {"bytes": 5e7}, "torch, eager, NCHW: rrd+kd": {"bytes": None}},
    }


def _cells(table):
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table.split("\n")]


def test_the_first_table_compares_rrd_jax_with_the_fastest_peer_of_each_row():
    header, _, live, cached_and_live, cached = _cells(table.summary([_figures()]))
    row = dict(zip(header, live, strict=True))
    assert row["teacher, rrd_jax / PyTorch"] == "runs / runs"
    # The ratios of two rounds are 0.3 / 0.2 and 0.44 / 0.22.
    assert (row["speed ratio to fastest PyTorch"], row["min to max"]) == ("1.75", "1.50 to 2.00")
    assert row["fastest variant"] == "compiled, NHWC"
    assert row["peak MB"] == "50 / -"
    assert row["time to ready"] == "7 / 2 s"
    assert cached_and_live[4:7] == ["cached / runs", "3.50", "3.00 to 4.00"]
    assert cached[4:7] == ["cached / cached", "0.90", "0.80 to 1.00"]
    assert row["ms per step"] == "210.000 / 370.000"


def test_the_growth_of_memory_includes_memory_that_is_freed(monkeypatch):
    monkeypatch.syspath_prepend("experiments/benchmark/peers")
    growth = importlib.import_module("resident_memory").growth
    if growth(lambda: None) is None:
        pytest.skip("this system does not report the memory of processes")
    # Some of the memory may be resident already.
    assert growth(lambda: np.ones(2**23).sum()) >= 0.9 * 2**26
    assert growth(lambda: None) < 2**23


@pytest.mark.long
def test_failed_peers_are_rows_and_the_other_readers_continue(tmp_path):
    process = _run(tmp_path, *_SMALL, f"--torch_python={_fake_torch(tmp_path, 'cpu')}")
    assert process.returncode == 0, process.stderr
    assert "torch, eager, NCHW failed: IndexError: list\n" in process.stdout
    assert process.stdout.count("| failed ") == 5
    assert (tmp_path / "speed.md").read_text().strip() in process.stdout
    (figures,) = json.loads((tmp_path / "speed.json").read_text())
    assert len(figures["failed"]) == 5
    assert len(figures["seconds"]) == 4
    assert all(len(rounds) == 1 and rounds[0] > 0 for rounds in figures["seconds"].values())
    assert figures["ready"]["rrd_jax"]["fill"] > 0


@pytest.mark.long
def test_peers_on_another_device_are_refused(tmp_path):
    process = _run(tmp_path, f"--torch_python={_fake_torch(tmp_path, 'gpu')}")
    assert process.returncode == 2
    assert "computes on a gpu, jax on a cpu" in process.stderr
    assert len(process.stderr.strip().split("\n")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes=cifra"], "unknown size 'cifra'; did you mean 'cifar'?"),
        (["--batch_sizes=0"], "--batch_sizes has '0'"),
        (["--precisions=float16"], "unknown precision 'float16'"),
        ([f"--torch_python={sys.executable}x"], f"{sys.executable}x"),
        (["--torch_python=false"], "false cannot be used: exit code 1"),
    ],
)
@pytest.mark.long
def test_invalid_flags_give_one_line(tmp_path, options, message):
    process = _run(tmp_path, *options)
    assert process.returncode == 2
    assert message in process.stderr
    assert len(process.stderr.strip().split("\n")) == 1


def _tensors(torch, tree):
    return {name: torch.from_numpy(np.array(value)) for name, value in tree.items()}


def _our_step():
    """Returns the step of CIFAR-100's config without augmentation, and four batches of images."""
    config = runpy.run_path("configs/cifar100.py")["get_config"]("resnet8-resnet8,rrd+kd")
    config.data.augment = "none"
    config.train.batch_size = 16
    config.objectives.rrd.update(queue_size=24, dim=8)
    training, mesh = parse(config).student.training, parallel.make_mesh(jax.devices()[:1])
    plan, shape = recipe.create(training, num_classes=4, examples=64), (8, 8, 3)
    built = program.build(plan, mesh, shape, 4, resident=False, teacher=plan.student)
    teacher = networks.init(plan.student, jax.random.key(1), shape)
    rng = np.random.default_rng(0)
    batches = [
        Batch(
            image=rng.integers(0, 256, (16, *shape), np.uint8),
            label=rng.integers(0, 4, 16, np.int32),
            index=np.arange(16, dtype=np.int32),
        )
        for _ in range(4)
    ]
    return training, built, teacher, batches


def test_the_peer_computes_equal_losses_and_steps(peer):
    import torch

    training, built, teacher, batches = _our_step()
    state = built.create(0, teacher)
    models = []
    for variables in (
        {"params": state.params["student"], "batch_stats": state.batch_stats},
        teacher,
    ):
        model = peer.create("resnet8", classes=4)
        model.load_state_dict(_tensors(torch, to_torch("resnet8", variables)))
        models.append(model)
    queue = torch.from_numpy(np.array(state.memory["rrd"].rows))
    distiller = peer.Distiller(*models, queue)
    layers = (
        (distiller.projection, state.params["objectives"]["rrd"]),
        (distiller.teacher_projection, state.frozen["rrd"]),
    )
    for layer, params in layers:
        weights = {"weight": params["kernel"].T, "bias": params["bias"]}
        layer.load_state_dict(_tensors(torch, weights))
    optimizer = torch.optim.SGD(distiller.trained(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    for batch in batches:
        state, logged = built.train_step(state, teacher, batch)
        images = torch.from_numpy(np.array(training.normalize(batch.image))).permute(0, 3, 1, 2)
        *terms, keys = distiller(images, torch.from_numpy(batch.label).long())
        losses = dict(zip(("loss/ce", "loss/kd", "loss/rrd"), terms, strict=True))
        for name, loss in losses.items():
            np.testing.assert_allclose(loss.item(), logged[name], rtol=1e-4, err_msg=name)
        optimizer.zero_grad()
        sum(terms).backward()
        optimizer.step()
        distiller.push(keys)
    np.testing.assert_allclose(distiller.queue, state.memory["rrd"].rows, rtol=1e-4, atol=1e-5)
    kernel = state.params["student"]["conv1"]["kernel"].transpose(3, 2, 0, 1)
    peer_kernel = distiller.student.conv1.weight.detach()
    np.testing.assert_allclose(peer_kernel, kernel, rtol=1e-3, atol=1e-4)


def test_the_peer_crops_equal_views(peer):
    import torch

    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    ours = pipeline.make_augment("crop_flip", mean=mean, std=std, pad=4, flip=True)
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    peer_images = peer.Images(
        torch.from_numpy(images), torch.arange(16), 16, True, torch.contiguous_format
    )
    peer_images.shuffle()
    views, index, view = peer_images.batch()
    assert 0 <= int(view.min()) <= int(view.max()) < 16 * ours.views
    np.testing.assert_array_equal(view // ours.views, index)
    expected = ours.show(jnp.asarray(view.numpy() % ours.views), None, images[index.numpy()])
    np.testing.assert_allclose(views.permute(0, 2, 3, 1), expected, atol=1e-5)


@pytest.mark.long
def test_the_folded_teacher_of_the_peer_equals_the_network(peer):
    import torch

    network = networks.create("resnet8x4", 10)
    variables = networks.init(network, jax.random.key(0), (32, 32, 3))
    rng = np.random.default_rng(0)
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), variables["batch_stats"]
    )
    images = rng.standard_normal((2, 32, 32, 3)).astype(np.float32)
    folded = peer.create("resnet8x4", 10).eval()
    folded.load_state_dict(_tensors(torch, to_torch("resnet8x4", variables)))
    peer.fold(folded)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    logits = folded(torch.from_numpy(images).permute(0, 3, 1, 2)).detach()
    expected = network.apply(variables, images, train=False).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
