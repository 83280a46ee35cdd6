import importlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import convert, networks, optim, parallel
from rrd_jax.data import augment
from tests import tiny

_SMALL = ("--sizes=cifar", "--batch_sizes=4", "--steps=1", "--repeats=1")


def _run(tmp_path, *options):
    command = [sys.executable, "experiments/benchmark.py", f"--workdir={tmp_path}", *options]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def peer(monkeypatch):
    """The peer's module; its networks, loss and memory are run here, not its steps."""
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    monkeypatch.syspath_prepend("experiments/speed_peers")
    return importlib.import_module("torch_peer")


def test_it_runs_without_peers_and_says_so(tmp_path):
    done = _run(tmp_path, *_SMALL)
    assert done.returncode == 0, done.stderr
    assert "no interpreter given: torch, published loop; torch, eager; torch, str" in done.stdout
    assert (tmp_path / "speed.md").read_text().strip() in done.stdout
    assert "images/s" not in done.stdout  # on a CPU there are only ratios
    (kept,) = json.loads((tmp_path / "speed.json").read_text())
    assert len(kept["seconds"]) == 5
    assert all(len(runs) == 1 and runs[0] > 0 for runs in kept["seconds"].values())
    assert kept["ready"]["rrd_jax"]["fill"] > 0


def _fake_torch(tmp_path, device):
    python = tmp_path / "python"
    answer = f'[ "$1" = -c ] && echo {device} && exit 0'
    last = "IndexError: list\nset VERBOSE=1 to see more"
    python.write_text(f'#!/bin/sh\n{answer}\necho "{last}" >&2\nexit 1\n')
    python.chmod(0o755)
    return f"--torch_python={python}"


def test_peers_that_fail_are_rows_and_the_rest_goes_on(tmp_path):
    done = _run(tmp_path, *_SMALL, _fake_torch(tmp_path, "cpu"))
    assert done.returncode == 0, done.stderr
    assert "cifar, batch 4: torch, published loop failed: IndexError: list\n" in done.stdout
    assert done.stdout.count("| failed ") == 4
    (kept,) = json.loads((tmp_path / "speed.json").read_text())
    assert len(kept["failed"]) == 4
    assert len(kept["seconds"]) == 5


def test_peers_on_another_device_are_refused(tmp_path):
    done = _run(tmp_path, _fake_torch(tmp_path, "gpu"))
    assert done.returncode == 2
    assert "computes on a gpu, jax on a cpu" in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes=cifra"], "unknown size 'cifra'; did you mean 'cifar'?"),
        (["--batch_sizes=x"], "--batch_sizes has 'x'"),
        (["--batch_sizes=0"], "--batch_sizes has '0'"),
        (["--torch_python=none"], "none"),
        ([f"--torch_python={sys.executable}x"], f"{sys.executable}x"),
        (["--torch_python=false"], "false cannot be used: exit code 1"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, options, message):
    done = _run(tmp_path, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1


def _tensors(torch, tree):
    return {name: torch.from_numpy(np.array(value)) for name, value in tree.items()}


def test_the_peer_computes_the_same_losses_and_follows_the_same_steps(peer):
    import torch

    options = {"momentum": 0.9, "weight_decay": 5e-4}
    mesh = parallel.make_mesh(jax.devices()[:1])
    rate = 0.05
    sgd = optim.sgd(lambda step: rate, **options)
    state, step, teacher, batches = tiny.job(mesh, optimizer=sgd)

    networks = []
    for variables in (
        {"params": state.params["student"], "batch_stats": state.batch_stats},
        teacher,
    ):
        network = peer.create("resnet8", classes=4, channels=1)
        network.load_state_dict(_tensors(torch, convert.to_torch("resnet8", variables)))
        networks.append(network)
    queue = torch.from_numpy(np.array(state.memory["rrd"].rows))
    model = peer.Distiller(*networks, queue)
    layers = (
        (model.projection, state.params["objectives"]["rrd"]),
        (model.teacher_projection, state.frozen["rrd"]),
    )
    for layer, ours in layers:
        weights = {"weight": ours["kernel"].T, "bias": ours["bias"]}
        layer.load_state_dict(_tensors(torch, weights))
    optimizer = torch.optim.SGD(model.trained(), lr=rate, **options)

    for batch in batches:
        state, logged = step(state, teacher, batch)
        images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2)
        *terms, keys = model(images, torch.from_numpy(batch["label"]).long())
        found = dict(zip(("loss/ce", "loss/kd", "loss/rrd"), terms, strict=True))
        for name, term in found.items():
            np.testing.assert_allclose(term.item(), logged[name], rtol=1e-4, err_msg=name)
        optimizer.zero_grad()
        sum(terms).backward()
        optimizer.step()
        model.push(keys)
    np.testing.assert_allclose(model.queue, state.memory["rrd"].rows, rtol=1e-4, atol=1e-5)
    moved = state.params["student"]["conv1"]["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_allclose(model.student.conv1.weight.detach(), moved, rtol=1e-3, atol=1e-4)


def test_the_peer_cuts_the_same_views(peer):
    import torch

    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    ours = augment.make_augment("crop_flip", mean=mean, std=std, pad=4, flip=True)
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    theirs = peer.Images(
        torch.from_numpy(images), torch.arange(16), 16, True, torch.contiguous_format
    )
    theirs.shuffle()
    found, index, view = theirs.batch()
    assert 0 <= int(view.min()) <= int(view.max()) < 16 * ours.views
    np.testing.assert_array_equal(view // ours.views, index)
    shown = ours.show(jnp.asarray(view.numpy() % ours.views), images[index.numpy()])
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), shown, atol=1e-5)


def test_the_peers_folded_teacher_is_the_same_network(peer):
    import torch

    network = networks.create("resnet8x4", 10)
    variables = networks.init(network, jax.random.key(0), (32, 32, 3))
    rng = np.random.default_rng(0)
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), variables["batch_stats"]
    )
    images = rng.standard_normal((2, 32, 32, 3)).astype(np.float32)
    folded = peer.create("resnet8x4", 10).eval()
    folded.load_state_dict(_tensors(torch, convert.to_torch("resnet8x4", variables)))
    peer.fold(folded)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    found = folded(torch.from_numpy(images).permute(0, 3, 1, 2)).detach()
    wanted = network.apply(variables, images, train=False).logits
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
