import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import shard_utils

from rrd_jax import data, errors
from rrd_jax.data.builders import archives, ordered, registry
from rrd_jax.data.images import transforms
from tests.data import published

_MAKERS = {
    "cifar10": published.cifar10,
    "cifar100": published.cifar100,
    "stl10": published.stl10,
    "imagenet2012": published.imagenet,
    "tiny_imagenet": published.tiny_imagenet,
}
_OPTIONS = {"image_size": 16, "resize": 18, "augment": "none"}
_STREAMED = _OPTIONS | {"augment": "random_resized"}


def _load(name, **fields):
    return data.load(data.Source(name, **fields))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(folder of prepared sets, {name: contents of its archive})."""
    root = tmp_path_factory.mktemp("prepared")
    expected = {}
    for name, make in _MAKERS.items():
        (root / name).mkdir()
        expected[name] = make(root / name)
        registry.prepare(
            name, registry.create_builder(name, str(root), str(root / name)), verify=False
        )
    return str(root), expected


@pytest.fixture
def cifar100(tmp_path):
    """A folder with an archive of CIFAR-100 whose checksum differs from the published checksum."""
    published.cifar100(tmp_path)
    return tmp_path


def _flags(folder, name="cifar100"):
    return f"--name={name}", f"--manual_dir={folder}", f"--data_dir={folder}/d"


def _read(prepared, name, split):
    """Reads a split with the plain builder of TFDS.

    Returns:
      (builder, list of examples, contents of the archive).
    """
    root, expected = prepared
    builder = tfds.builder(name, data_dir=root, file_format="array_record")
    return builder, list(builder.as_data_source(split)), expected[name]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_plain_builder_reads_cifar(prepared, name):
    builder, train, expected = _read(prepared, name, "train")
    examples = train + list(builder.as_data_source("test"))
    assert {e["id"].decode() for e in examples} == set(expected)
    for example in examples:
        image, *labels = expected[example["id"].decode()]
        np.testing.assert_array_equal(example["image"], image)
        assert [example[k] for k in ("label", "coarse_label") if k in example] == labels
    features = builder.info.features
    if name == "cifar10":
        assert features["label"].names == published.CIFAR10_NAMES
    else:
        assert features["label"].names[7] == "fine_07"
        assert features["coarse_label"].names[7] == "coarse_07"


def test_the_order_equals_the_shuffle_of_tfds(prepared):
    # Verified on a machine with TensorFlow: the stock builders of cifar10, cifar100, stl10 and
    # imagenet2012 write identical records from these archives, in identical order.
    class Stock(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "stock"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"number": np.int32})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": ((i, {"number": i}) for i in range(30))}

        def _generate_examples(self):
            raise NotImplementedError

    stock = Stock(data_dir=prepared[0])
    stock.download_and_prepare(file_format="array_record")
    order = [int(example["number"]) for example in stock.as_data_source("train")]
    _, train, _ = _read(prepared, "cifar100", "train")
    assert [int(example["id"][-5:]) for example in train] == order


def test_the_plain_builder_reads_stl10(prepared):
    for split in ("train", "test", "unlabelled"):
        builder, examples, expected = _read(prepared, "stl10", split)
        images, labels = expected[split]
        actual = sorted((e["image"].tobytes(), int(e["label"])) for e in examples)
        assert actual == sorted(zip(map(bytes, images), labels.tolist(), strict=True))
        assert builder.info.features["label"].names == published.STL10_NAMES
    with pytest.raises(errors.InputError, match="split 'unlabelled' .* has no labels"):
        _load("stl10", dir=prepared[0], train_split="unlabelled", **_STREAMED)


def test_the_plain_builder_reads_imagenet(prepared):
    builder, examples, expected = _read(prepared, "imagenet2012", "train")
    int2str = builder.info.features["label"].int2str
    assert {e["file_name"].decode() for e in examples} == set(expected["train"])
    for example in examples:
        name = example["file_name"].decode()
        assert int2str(example["label"]) == name.split("_")[0]
        # Images 1 and 2 are grayscale and CMYK.
        if not name.endswith(("_1.JPEG", "_2.JPEG")):
            np.testing.assert_array_equal(
                example["image"], published.pixels(expected["train"][name])
            )
    listed = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    labels = dict(zip(sorted(expected["validation"]), listed.read_text().split(), strict=False))
    examples = builder.as_data_source("validation")
    assert {e["file_name"].decode(): int2str(e["label"]) for e in examples} == labels


def test_imagenet_files_are_stored_unchanged_and_decoded_as_rgb(prepared):
    root, expected = prepared
    imagenet = _load("imagenet2012", dir=root, test_split="validation", **_STREAMED)
    stored = {e["file_name"].decode(): e["image"] for e in imagenet.train.examples}
    assert stored == expected["imagenet2012"]["train"]
    assert {transforms.decode(image, 3).shape for image in stored.values()} == {(30, 40, 3)}
    batch = next(iter(imagenet.train.train_batches(15, 0, 0, 1)))
    assert batch["image"].shape == (15, 16, 16, 3)


def test_tiny_imagenet_stores_files_unchanged_and_reads_validation_annotations(prepared):
    root, expected = prepared
    tiny = _load("tiny_imagenet", dir=root, test_split="validation", **_STREAMED)
    assert tiny.num_classes == 200
    builder = tfds.builder("tiny_imagenet", data_dir=root)
    names = builder.info.features["label"].names
    assert names == sorted(names)
    for split, part in (("train", tiny.train), ("validation", tiny.test)):
        actual = {e["file_name"].decode(): (e["image"], names[e["label"]]) for e in part.examples}
        assert actual == expected["tiny_imagenet"][split]


def test_a_large_split_is_sharded_and_keeps_its_order(prepared, tmp_path, monkeypatch):
    root, _ = prepared
    monkeypatch.setattr(shard_utils.ShardConfig, "min_shard_size", 2000)
    manual = os.path.join(root, "imagenet2012")
    registry.prepare(
        "imagenet2012", registry.create_builder("imagenet2012", str(tmp_path), manual), verify=False
    )
    builder = tfds.builder("imagenet2012", data_dir=str(tmp_path))
    assert builder.info.splits["train"].num_shards > 2
    names = [e["file_name"] for e in builder.as_data_source("train")]
    assert names == [e["file_name"] for e in _read(prepared, "imagenet2012", "train")[1]]


def test_the_error_for_a_missing_archive_names_file_url_and_folder(run, tmp_path):
    code, _, err = run(*_flags(tmp_path))
    assert code == 2
    assert f"{tmp_path}/cifar-100-binary.tar.gz is missing" in err
    assert "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz" in err
    assert err.count("\n") == 1


def test_an_archive_with_another_size_or_checksum_is_refused(run, cifar100, monkeypatch):
    code, _, err = run(*_flags(cifar100))
    assert code == 2
    assert "bytes, not 168513733, so it is incomplete or not the published file" in err
    path = cifar100 / "cifar-100-binary.tar.gz"

    def publish(*checksum):
        archive = archives.Archive(path.name, "http://x", path.stat().st_size, *checksum)
        monkeypatch.setattr(registry.DATASETS["cifar100"], "ARCHIVES", (archive,))

    publish("md5", "0" * 32)
    code, _, err = run(*_flags(cifar100))
    assert code == 2
    assert (
        f"not {'0' * 32}, so it is incomplete or not the published file; download it again" in err
    )
    assert not (cifar100 / "d" / "cifar100" / "3.0.2").exists()
    code, out, err = run(*_flags(cifar100), "--no_verify")
    assert code == 0
    assert "warning" in err
    assert "train 30, test 10" in out
    shutil.rmtree(cifar100 / "d")
    publish("sha256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert run(*_flags(cifar100))[0] == 0
    assert "already" in run(*_flags(cifar100))[1]


@pytest.mark.parametrize("name", ["cifar100", "imagenet2012", "tiny_imagenet"])
def test_a_truncated_archive_is_refused_and_leaves_no_files(name, run, tmp_path):
    _MAKERS[name](tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, _, err = run(*_flags(tmp_path, name), "--no_verify")
    assert code == 2
    assert "cannot be read" in err
    assert "download it again from http" in err
    # One line is the warning, the other one is the error.
    assert err.count("\n") == 2
    assert not list((tmp_path / "d" / name).glob("*"))
    with pytest.raises(errors.InputError, match="is not prepared"):
        _load(name, dir=f"{tmp_path}/d", **_STREAMED)


def test_an_archive_with_other_content_is_refused(run, tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    published._tar(path, "cifar-10-batches-bin", {"x": b"y"})
    for reason in (" ('batches.meta.txt')", ""):
        code, _, err = run(*_flags(tmp_path, "cifar10"), "--no_verify")
        assert code == 2
        assert f"cifar-10-binary.tar.gz cannot be read{reason}" in err
        path.write_bytes(gzip.compress(b"no tar"))


def test_a_killed_preparation_is_not_mistaken_for_a_prepared_set(cifar100, run):
    program = (
        "import os\n"
        "from rrd_jax.data.images import transforms\n"
        "from rrd_jax.data.builders import registry\n"
        "transforms.encode_png = lambda image: os._exit(9)\n"
        f"builder = registry.create_builder('cifar100', '{cifar100}/d', '{cifar100}')\n"
        "registry.prepare('cifar100', builder, verify=False)\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    with pytest.raises(errors.InputError, match="is not prepared"):
        _load("cifar100", dir=f"{cifar100}/d", **_OPTIONS)
    code, out, err = run(*_flags(cifar100), "--no_verify")
    assert code == 0
    assert "left over from an interrupted preparation; remove it" in err
    assert "train 30" in out


def test_checksums_equal_those_of_tfds():
    digests = {
        "cifar10": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "cifar100": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        "stl10": "f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
    }
    for name, digest in digests.items():
        (archive,) = registry.DATASETS[name].ARCHIVES
        assert (archive.algorithm, archive.digest) == ("sha256", digest)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "nothing is prepared"),
        (RuntimeError("write() failed: No space left on device"), 74, "No space left"),
    ],
)
def test_an_interrupted_preparation_and_a_full_disk_leave_no_files(
    cifar100, run, monkeypatch, error, code, message
):
    def fail(image):
        raise error

    monkeypatch.setattr(transforms, "encode_png", fail)
    exit_code, _, err = run(*_flags(cifar100), "--no_verify")
    assert exit_code == code
    assert message in err.splitlines()[-1]
    assert not list((cifar100 / "d" / "cifar100").iterdir())


def test_repeated_names_and_empty_splits_are_refused():
    examples = ordered.Examples(["a", "b", "a"], 9, lambda i: {})
    with pytest.raises(errors.InputError, match="two images 'a' in split 'train'"):
        ordered._shards("set", "train", examples)
    with pytest.raises(errors.InputError, match="no images for split 'train'"):
        ordered._shards("set", "train", ordered.Examples([], 0, lambda i: {}))


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for name in ("file", "file/below"):
        with pytest.raises(errors.InputError, match="(?s)(is a file|cannot be written).*data.dir"):
            _load("digits", dir=str(tmp_path / name), **_OPTIONS)


def test_a_disk_that_is_too_small_is_refused_before_writing(cifar100, run, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
    code, _, err = run(*_flags(cifar100), "--no_verify")
    assert code == 74
    assert "0.0 GB free, but 'cifar100' needs" in err


def test_a_set_prepared_as_tfrecord_is_refused_with_the_command_to_run(prepared, tmp_path, run):
    shutil.copytree(os.path.join(prepared[0], "cifar100"), tmp_path / "cifar100")
    path = tmp_path / "cifar100" / "3.0.2" / "dataset_info.json"
    info = json.loads(path.read_text())
    info["fileFormat"] = "tfrecord"
    path.write_text(json.dumps(info))
    message = "as tfrecord, .*remove that folder .*put cifar-100-b.*run `python -m rrd_jax.data.pr"
    with pytest.raises(errors.InputError, match=message):
        _load("cifar100", dir=str(tmp_path), **_OPTIONS)
    code, _, err = run("--name=cifar100", f"--data_dir={tmp_path}")
    assert code == 2
    assert "as tfrecord" in err


def test_errors_of_stock_tfds_sets_name_tensorflow_or_the_failure(run, tmp_path, monkeypatch):
    def fail(self, **options):
        raise AssertionError("Manual directory is empty.\n  Put files there.")

    monkeypatch.setattr(tfds.image_classification.MNIST, "download_and_prepare", fail)
    for name, spec, messages in (
        ("emnist/letters", None, ("TFDS prepares 'emnist/letters' with TensorFlow", "[prepare]")),
        ("mnist", True, ("'mnist' (AssertionError: Manual directory is empty. Put files there.)",)),
    ):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, spec=spec: spec)
        code, _, err = run(f"--name={name}", f"--data_dir={tmp_path}")
        assert code == 2
        assert all(message in err for message in messages), err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ((), 1, "--name is missing; known: digits, drawings, fashion_mnist"),
        (("--name=cifar1000",), 1, "unknown data set 'cifar1000'; did you mean 'cifar100'?"),
        (("--name=emnist/x",), 2, "'emnist/x' cannot be opened"),
    ],
)
def test_invalid_flags_and_names_are_refused_in_one_line(run, flags, code, message):
    exit_code, _, err = run(*flags)
    assert exit_code == code
    assert message in err
    assert err.count("\n") == 1


def test_preparing_and_loading_do_not_import_tensorflow(tmp_path):
    published.imagenet(tmp_path)
    program = (
        "import sys\n"
        "from rrd_jax import data\nfrom rrd_jax.terminal import cli\n"
        "from rrd_jax.data import prepare\n"
        "prepare.main(cli.parse_flags(sys.argv))\n"
        "size = {'image_size': 8, 'resize': 8, 'dir': sys.argv[3].split('=')[1]}\n"
        "crops = {'test_split': 'train', 'augment': 'random_resized'}\n"
        "data.load(data.Source('imagenet2012', **crops, **size))\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program, *_flags(tmp_path, "imagenet2012"), "--no_verify"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "train 15, validation 6" in done.stdout


def _shard(folder, split="train"):
    return next(folder.glob(f"*-{split}.array_record*"))


def _cut(folder):
    os.truncate(_shard(folder), _shard(folder).stat().st_size // 2)


def _flip(folder):
    content = bytearray(_shard(folder).read_bytes())
    content[len(content) // 2] ^= 255
    _shard(folder).write_bytes(content)


def _shorten(folder):
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace('"30"', '"300"'))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "example 0: "),
        (_flip, r"example \d+: "),
        (_shorten, "example 299: index 299 out of bound"),
        (lambda folder: _shard(folder, "test").unlink(), "-of-00001 is missing or empty"),
        (lambda folder: (folder / "dataset_info.json").unlink(), "dataset_info.json is missing"),
        (lambda folder: (folder / "dataset_info.json").write_text("{"), "Failed to load JSON"),
        (lambda folder: (folder / "dataset_info.json").write_text("[]"), "do not match"),
        (lambda folder: (folder / "features.json").unlink(), "Cannot restore"),
        (lambda folder: (folder / "features.json").write_text("{"), "Expecting property name"),
        (lambda folder: _shard(folder).write_bytes(b""), "-of-00001 is missing or empty"),
    ],
)
def test_damaged_prepared_data_are_refused_with_the_command_to_run(
    prepared, tmp_path, damage, reason
):
    folder = shutil.copytree(os.path.join(prepared[0], "cifar100"), tmp_path / "cifar100") / "3.0.2"
    damage(folder)
    remedy = "remove that folder, and prepare it again with `python -m rrd_jax.data.prepare --name="
    message = f"^data set 'cifar100' under {folder} is damaged \\(.*{reason}.*; {remedy}"
    with pytest.raises(errors.InputError, match=message) as caught:
        _ = _load("cifar100", dir=str(tmp_path), **_OPTIONS).train.images
    assert "\n" not in str(caught.value)
