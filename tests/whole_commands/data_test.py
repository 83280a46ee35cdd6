"""Whole commands with WebDataset shards, and with data in emulated buckets."""

import io
import re
import tarfile
import threading

import numpy as np
import PIL.Image
import pytest

from rrd_jax import buckets, data, errors
from tests.servers import faults

_CONFIG = "--config=configs/image_folder.py:resnet8,ce"
_FLAGS = (
    "--config.data.image_size=8",
    "--config.data.augment=none",
    "--config.train.batch_size=16",
    "--config.train.epochs=1",
)
_SPLITS = {"train-0": range(32), "train-1": range(32, 64), "val-0": range(64, 96)}


def _png(i):
    pixels = np.random.default_rng(i).integers(0, 60, (8, 8, 3), np.uint8)
    pixels[2 * (i % 4) : 2 * (i % 4) + 2] += 180
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards in `shards` and `cut`, where one is truncated, and the same images in `photos`."""
    root = tmp_path_factory.mktemp("data")
    for name in ("shards", "cut", "photos"):
        (root / name).mkdir()
    for name, indices in _SPLITS.items():
        with tarfile.open(root / "shards" / f"{name}.tar", "w") as tar:
            for i in indices:
                _add(tar, f"{i}.png", _png(i))
                _add(tar, f"{i}.cls", str(i % 4).encode())
                path = root / "photos" / name.partition("-")[0] / f"class {i % 4}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_png(i))
        content = (root / "shards" / f"{name}.tar").read_bytes()
        (root / "cut" / f"{name}.tar").write_bytes(content[: -12_000 if name == "val-0" else None])
    return root


@pytest.fixture(params=["gcs", "s3"])
def server(request, folder, tmp_path, monkeypatch):
    """A server, and the URL of a bucket with the shards and the photos."""
    server = request.getfixturevalue(request.param)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    url = server.bucket()
    for name in ("shards", "photos"):
        buckets.upload(folder / name, buckets.path(f"{url}/{name}"))
    return server, url


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config.data.name=wds:"], 1, "without a pattern"),
        (["--config.data.name=wds:pipe:cat x.tar"], 1, "commands are not run; copy the shards"),
        (["--config.data.name=wds:/nowhere/{0..3}.tar"], 2, "no shard /nowhere/0.tar and 3 more"),
        (["--config.data.name=wds:{folder}/cut"], 2, "cut/val-0.tar is damaged or .*copy or write"),
        (["--config.data.name=wds:{folder}/shards", "--config.data.options.imag=png"], 2,
         "data.options.imag"),
        (["--config.data.name=wds:{folder}/shards", "--config.data.options.label=json"], 2,
         "samples have the files cls, png; name one of them"),
        (["--config.data.scratch=gs://some-bucket/x"], 1, "does not support buckets"),
        (["--config.data.manual_dir=gs://x"], 1, "is not a valid name"),
        (["--config.data.manual_dir=memory://x/y"], 1, "in a bucket, gs://BUCKET/PATH"),
    ],
)  # fmt: skip
def test_shards_and_buckets_that_cannot_be_read_are_refused(
    commands, folder, tmp_path, arguments, code, message
):
    arguments = [argument.replace("{folder}", str(folder)) for argument in arguments]
    outcome = commands.run(_CONFIG, *_FLAGS, f"--workdir={tmp_path}/run", *arguments)
    assert re.search(message, outcome.check_refused(code)), outcome.err
    assert not (tmp_path / "run").exists()


def test_data_in_a_bucket_equal_the_data_on_this_machine(server, folder):
    _, url = server
    fields = {"image_size": 8, "augment": "none"}
    for place in (folder, url):
        photos = data.load(data.Source("image_folder", manual_dir=f"{place}/photos", **fields))
        shards = data.load(data.Source(f"wds:{place}/shards/{{train,val}}-*.tar", **fields))
        versions = photos.version, shards.version
        if place == folder:
            expected = versions
    assert versions == expected
    assert photos.class_names == tuple(f"class {i}" for i in range(4))
    np.testing.assert_array_equal(shards.train.labels, np.arange(64) % 4)


def test_an_object_without_a_digest_that_changes_is_not_copied_in_two_states(server, tmp_path):
    started, url = server
    path = buckets.path(f"{url}/shards/val-0.tar")
    entry = buckets.entries(path)[""]._replace(md5="")
    buckets.download_file(path, tmp_path / "val-0.tar", entry)
    change = faults.call(lambda: buckets.write(path, b"x" * entry.size))
    with (
        started.proxy.fault(change, on="GET .*val-0.tar.*", times=1),
        pytest.raises(errors.BucketError, match="has changed while it was copied"),
    ):
        buckets.download_file(path, tmp_path / "changed.tar", entry)
    assert not (tmp_path / "changed.tar").exists()


def test_folders_in_braces_stand_for_their_shards(server, folder):
    _, url = server
    for name in ("train-0", "val-0"):
        part = name.partition("-")[0]
        shard = folder / "shards" / f"{name}.tar"
        buckets.upload(shard, buckets.path(f"{url}/sets/{part}/{name}.tar"))
    source = data.Source(f"wds:{url}/sets/{{train,val}}", image_size=8, augment="none")
    assert len(data.load(source).train) == 32


def test_a_copy_survives_faults_and_is_shared_by_two_readers(server):
    started, url = server
    before, results = started.proxy.count("GET .*0.png"), []
    source = data.Source("image_folder", image_size=8, augment="none", manual_dir=f"{url}/photos")
    with started.proxy.fault(faults.status(503), on="GET .*png", times=5):
        threads = [
            threading.Thread(target=lambda: results.append(data.load(source).version))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(results)) == 1
    assert len(results) == 2
    images = sum(i % 10 == 0 for part in _SPLITS.values() for i in part)
    assert started.proxy.count("GET .*0.png") - before <= images + 5


@pytest.mark.long
def test_a_run_moves_from_this_machine_to_a_bucket(commands, gcs, folder, tmp_path):
    url = gcs.bucket()
    buckets.upload(folder / "shards", buckets.path(f"{url}/shards"))
    env = gcs.environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    flags = (*_FLAGS, "--config.data.name=wds:{train,val}-*.tar", f"--workdir={tmp_path}/run")
    first = commands.run(_CONFIG, *flags, f"--config.data.manual_dir={folder}/shards", env=env)
    assert first.code == 0, first.err
    flags += (f"--config.data.manual_dir={url}/shards", "--config.train.epochs=2")
    second = commands.run(_CONFIG, *flags, env=env)
    assert second.code == 0, second.err
    assert "resuming from step 4" in second.err + second.out
    buckets.write(
        buckets.path(f"{url}/shards/train-1.tar"), (folder / "shards" / "train-0.tar").read_bytes()
    )
    third = commands.run(_CONFIG, *flags, "--config.train.epochs=3", env=env)
    assert re.search("holds a run on wds/.*restore the data set", third.check_refused(2))
