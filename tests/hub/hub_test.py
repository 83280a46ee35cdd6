"""Downloads from a server with the interface of the hub, and uploads to it."""

import json

import chex
import numpy as np
import pytest
import safetensors.numpy

import rrd_jax
from rrd_jax import data, errors, export, hub
from rrd_jax.hub import client
from rrd_jax.weights import files, to_torch
from tests.data import huggingface_test
from tests.servers import hub as servers
from tests.weights.state_dicts_test import random_variables

_NETWORK = "mobilenetv3_small_100"


def _tables(folder):
    """Returns the Parquet files of a data set with two splits, by name."""
    table = huggingface_test._set()
    table.to_parquet(folder / "train.parquet")
    table.select(range(4)).to_parquet(folder / "test.parquet")
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server with repositories of networks and of data."""
    with servers.connected(tmp_path_factory.mktemp("cache")) as started:
        variables = random_variables(_NETWORK, 10, (32, 32, 3))
        entries = to_torch(_NETWORK, variables, layout="timm")
        config = {"architecture": _NETWORK, "num_classes": 10, "pretrained_cfg": {}}
        pickled = {"pytorch_model.bin": b"\x80pickle", "config.json": json.dumps(config).encode()}
        started.add("org/pickle", pickled)
        weights = {"model.safetensors": safetensors.numpy.save(entries)}
        for name in ("timm", "again"):
            started.add(f"org/{name}", pickled | weights)
        changed = {"model_args": {"output_stride": 8}} | config
        others = {
            "changed": json.dumps(changed),
            "unknown": '{"architecture": "swin_base"}',
            "bert": '{"model_type": "bert"}',
            "neither": "{}",
            "damaged": "[1]",
            "unnamed": json.dumps(config | {"architecture": ""}),
            "typed": json.dumps({"model_type": ["vit"]}),
        }
        for name, text in others.items():
            started.add(f"org/{name}", {"config.json": text.encode()})
        started.add("org/nothing", {"x.txt": b"x"})
        started.add("org/lora", {"adapter_config.json": b"{}"})
        started.add("org/uncached", pickled)
        started.add("org/private", {"config.json": b"{}"}, private=True)
        started.add("org/gated", {"config.json": b"{}"}, gated=True)
        tables = _tables(tmp_path_factory.mktemp("tables"))
        card = b"---\nconfigs:\n- config_name: one\n  data_files:\n"
        card += b"  - {split: train, path: a/train*}\n  - {split: test, path: b/test*}\n"
        card += b"- config_name: two\n  data_dir: b\n---\n"
        twice = {f"{folder}/{name}": c for folder in "ab" for name, c in tables.items()}
        started.add("org/set", {f"data/{name}": c for name, c in tables.items()}, "dataset")
        started.add("org/twice", twice, "dataset")
        started.add("org/card", twice | {"README.md": card}, "dataset")
        started.add("org/csv", {"train.csv": b"x"}, "dataset")
        yield started


def test_the_weights_of_a_repository_are_those_of_its_folder(server):
    server.requests.clear()
    assert files.network_of("hf-hub:org/timm") == _NETWORK
    assert not any("model.safetensors" in request for request in server.requests)
    folder, which = files.split("hf-hub:org/timm")
    variables, meta = files.load("hf-hub:org/timm", "", headless=True)
    local, _ = files.load(folder / "model.safetensors", _NETWORK)
    np.testing.assert_equal(variables, local)
    assert (meta["num_classes"], which) == (10, "")
    assert not any("pytorch_model" in request for request in server.requests)
    assert rrd_jax.load("hf-hub:org/timm").name == _NETWORK


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pickle", "no model.safetensors"),
        ("changed", "output_stride=8"),
        ("unknown", "swin_base, which is not supported"),
        ("bert", "bert"),
        ("damaged", "config.json that is not a JSON object"),
        ("unnamed", "without timm's"),
        ("typed", "values that are not valid"),
        ("neither", "without timm's architecture or transformers' model_type"),
        ("nothing", "no config.json"),
        ("lora", "LoRA"),
        ("private", "does not exist, or is private"),
        ("gated", "is gated"),
        ("missing", "does not exist, or is private"),
        ("timm@v9", "no revision 'v9'"),
        ("timm@" + "0" * 40, "no revision '0000"),
    ],
)
def test_a_repository_that_cannot_be_loaded_is_refused_in_a_line(server, name, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        rrd_jax.load(f"hf-hub:org/{name}")
    assert f"hf-hub:org/{name}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "/snapshots/" not in str(caught.value)


def test_a_server_that_fails_once_is_asked_again(server, monkeypatch):
    def pauses():
        yield 0.0
        server.status = 0
        yield 0.0

    monkeypatch.setattr(client, "PAUSES", pauses())
    monkeypatch.setattr(server, "status", 503)
    assert rrd_jax.load("hf-hub:org/again").num_classes


def test_a_server_that_fails_is_refused_in_a_line(server, monkeypatch):
    monkeypatch.setattr(client, "PAUSES", ())
    monkeypatch.setattr(server, "status", 500)
    with pytest.raises(errors.HubError, match="status 500"):
        rrd_jax.load("hf-hub:org/failing")


def test_a_token_is_never_part_of_an_error(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret\x01secret")
    with pytest.raises(errors.InputError) as caught:
        rrd_jax.load("hf-hub:org/never")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("set", {}),
        ("twice", {"subset": "b"}),
        ("card", {"subset": "one"}),
        ("card", {"subset": "two"}),
    ],
)
def test_the_images_of_a_repository_are_read(server, tmp_path, monkeypatch, name, options):
    monkeypatch.setattr(huggingface_test.datasets.config, "HF_DATASETS_CACHE", tmp_path)
    source = data.Source(f"hf-hub:org/{name}", image_size=8, augment="none", options=options)
    huggingface_test._check(data.load(source))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("csv", {}, "no Parquet files"),
        ("twice", {}, "several subsets; .*data.options.subset: a, b"),
        ("card", {"subset": "three"}, "no subset 'three'.*one, two"),
        ("missing", {}, "does not exist"),
    ],
)
def test_other_data_are_refused(server, name, options, message):
    with pytest.raises(errors.InputError, match=message):
        data.load(data.Source(f"hf-hub:org/{name}", image_size=8, options=options))


def test_a_partial_copy_of_a_data_set_is_not_a_smaller_data_set(server, tmp_path, monkeypatch):
    from huggingface_hub import hf_hub_download

    tables = _tables(tmp_path)
    server.add("org/partial", {f"data/{name}": c for name, c in tables.items()}, "dataset")
    hf_hub_download("org/partial", "data/train.parquet", repo_type="dataset")
    monkeypatch.setattr(server, "status", 503)
    with pytest.raises(errors.HubError, match="some may be missing"):
        data.load(data.Source("hf-hub:org/partial", image_size=8))


def test_a_cache_that_cannot_be_written_is_not_a_problem_of_the_network(
    server, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(errors.HubError, match="set HF_HOME to a folder"):
        rrd_jax.load("hf-hub:org/uncached")


@pytest.mark.parametrize(
    ("token", "repository", "private", "message"),
    [
        ("", "me/net", False, "needs a token"),
        ("hf_wrongwrong", "me/net", False, "token is not valid"),
        (servers.TOKEN, "other/net", False, "belongs to me and org"),
        (servers.TOKEN, "net", False, "--push=ORG/NAME"),
        (servers.TOKEN, "org/timm", True, "is public, but --private"),
    ],
)
def test_a_push_that_cannot_succeed_is_refused(
    server, monkeypatch, token, repository, private, message
):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(errors.InputError, match=message):
        hub.check_push(repository, private=private)


@pytest.mark.long
def test_an_exported_network_is_pushed_and_loaded_again(server, tmp_path, monkeypatch):
    split = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 4
    run = tmp_path / "run"
    rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16, workdir=run)
    monkeypatch.setenv("HF_TOKEN", servers.TOKEN)
    request = export.Request(run, ["hub"], push="me/pushed", license="mit", private=True)
    export.run(request)
    repository = server.repositories["model", "me/pushed"]
    assert repository.private
    card = repository.files()["README.md"].decode()
    assert card.startswith("---\nlicense: mit\n")
    assert "rrd_jax.load('hf-hub:me/pushed')" in card
    assert servers.TOKEN not in str(repository.files())
    pushed, local = rrd_jax.load("hf-hub:me/pushed"), rrd_jax.load(run)
    chex.assert_trees_all_equal(pushed.variables["params"], local.variables["params"])
