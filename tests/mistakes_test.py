"""Messages and exit codes of commands for mistakes that users have made."""

import json
import os
import re
import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

from rrd_jax import networks
from rrd_jax.weights import to_torch
from tests import fresh, launch

_STUDENT = ":resnet8,smoke"
_PAIR = ":resnet8-resnet8,smoke,rrd+kd"


def _run_digits(commands, argument, *fields, **options):
    flags = [f"--config.{field}" for field in fields]
    return commands.run(f"--config=configs/digits.py{argument}", *flags, **options)


@pytest.mark.parametrize(
    ("argument", "fields", "code", "message"),
    [
        # A config string.
        (":resnet8-resnet8,smoke,rrd,kd", "", 1, "'rrd' and 'kd' each name a method"),
        (":resnet8-resnet8,resnet14-resnet8", "", 1, "each name networks"),
        # Values.
        (
            _STUDENT,
            "data.image_size=320 data.augment=random_resized data.resize=256",
            1,
            "data.resize is 256, less",
        ),
        (_PAIR, "teacher.epochs=0", 1, "teacher.epochs is 0"),
        (_PAIR, "teacher.learning_rate=0", 1, "teacher.learning_rate is 0"),
        (_PAIR, "teacher.weight=-1", 1, "teacher.weight is -1"),
        (_STUDENT, "train.save_every=-1", 1, "train.save_every is -1"),
        (_PAIR, "objectives.rrd.weight=-1", 1, "objectives.rrd.weight is -1"),
        (_PAIR, "objectives.rrd.weight=nan", 1, "objectives.rrd.weight is nan"),
        (
            _PAIR,
            "objectives.ce.weight=0 objectives.kd.weight=0 objectives.rrd.weight=0",
            1,
            "all weights in config.objectives are 0",
        ),
        (_STUDENT, "data.pad=100000", 1, "data.pad is 100000"),
        (_STUDENT, "optimizer.milestones=abc", 1, "optimizer.milestones"),
        (_STUDENT, "optimizer.milestones=(nan,)", 1, "optimizer.milestones"),
        (_STUDENT, "data.mean=abc", 1, "data.mean"),
        (_STUDENT, "data.std=(nan,)", 1, "data.std"),
        (_STUDENT, "seed=99999999999999999999", 1, "seed"),
        (_STUDENT, "data.mock_examples=-5", 1, "data.mock_examples is -5"),
        (_STUDENT, "data.train_split=train[5:2]", 1, "has no images: its start must be before"),
        (_STUDENT, "data.resize=-4", 1, "data.resize is -4"),
        (_STUDENT, "data.image_size=1000000", 1, "data.image_size is 1000000"),
        (_PAIR, "objectives.rrd.queue_size=1000000000000", 1, "objectives.rrd.queue_size"),
        (_PAIR, "objectives.rrd.dim=100000000", 1, "100000000 x 4 bytes"),
        (_PAIR, "objectives.rrd.initial=foo", 1, "initial.*foo.*unit"),
        (
            ":vit_tiny_patch16_224,smoke",
            "data.image_size=32 student.options.heads=5",
            1,
            "no network has the fields of vit_tiny_patch16_224.heads=5.: .*; change the options",
        ),
        (_STUDENT, "foo=1", 1, "unknown field 'foo'"),
        (_STUDENT, "learning_rate=0.1", 1, "optimizer.learning_rate"),
        (_STUDENT, "data.image_size=1", 1, "data.image_size is 1"),
        # Values that float32 rounds to an invalid value.
        (_STUDENT, "train.ema=0.9999999999", 1, "train.ema is 0.9999999999"),
        (_STUDENT, "optimizer.learning_rate=1e-40", 1, "optimizer.learning_rate is 1e-40"),
        (_PAIR, "objectives.kd.temperature=1000", 1, "objectives.kd.temperature is 1000"),
        (":resnet8-resnet8,dkd", "objectives.dkd.alpha=0 objectives.dkd.beta=0", 1, "are all 0"),
    ],
)
def test_an_invalid_config_is_refused(commands, argument, fields, code, message, tmp_path):
    outcome = _run_digits(commands, argument, *fields.split(), cwd=launch.CONFIGS.parent)
    assert re.search(message, outcome.check_refused(code)), outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config=README.md"], 1, 'README.md", line'),
        (["--config=configs/digits.py:smoke", "--mode=foo"], 1, "mode"),
        (["--config=configs/digits.py:smoke", "--workdri=x"], 1, "Did you mean: workdir"),
        (["--config=configs/digits.py:smoke", "--workdir=README.md"], 2, "README.md is a file"),
        (["--config=configs/digits.py:smoke", "--workdir=/proc/run"], 2, "cannot be used"),
    ],
)
def test_invalid_flags_are_refused(commands, arguments, code, message):
    assert re.search(message, commands.run(*arguments).check_refused(code))


@pytest.mark.parametrize("platform", ["gpu", "tpu", "foo"])
def test_an_unavailable_platform_gives_one_line(commands, platform):
    outcome = _run_digits(commands, _STUDENT, env={"JAX_PLATFORMS": platform})
    assert platform in outcome.check_refused(69)


def test_an_unusable_data_folder_is_refused(commands):
    outcome = _run_digits(commands, _STUDENT, "data.mock_examples=0", "data.dir=/proc")
    assert "/proc" in outcome.check_refused(2, 74)


def test_invalid_studies_are_refused(commands):
    config = "--config=configs/digits.py:resnet8-resnet8,smoke"
    for methods, message in (
        ("kd,kd", "twice"),
        ("", "methods"),
        ("foo", "foo"),
        ("smoke", "not a method"),
    ):
        outcome = commands.run(config, f"--methods={methods}", module="experiments.study")
        assert message in outcome.check_refused(1, 2)
    for flag in ("--set=seed=3", "--set=objectives.rrd.dim=8", "--study=x.py"):
        outcome = commands.run(config, "--methods=ce", flag, module="experiments.study")
        assert flag.partition("=")[0] in outcome.check_refused(1, 2)
    outcome = commands.run(
        "--model=resnet101", "--input=README.md", "--output=x", module="rrd_jax.convert"
    )
    assert "resnet110" not in outcome.check_refused(2)


# Folders of images.


def _write_images(root, classes=("ants", "bees"), number=24, suffix="png"):
    rng = np.random.default_rng(0)
    for i, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(number):
            pixels = rng.integers(0, 80, (12, 14, 3), np.uint8)
            pixels[..., i % 3] += 120
            PIL.Image.fromarray(pixels).save(root / name / f"{k}.{suffix}")


def _run_image_folder(commands, root, workdir, *fields):
    small = ("data.mock_examples=0", "data.image_size=8", "data.augment=crop_flip")
    flags = [f"--config.{field}" for field in (*small, "train.epochs=1", *fields)]
    return commands.run(
        "--config=configs/image_folder.py:resnet8,smoke",
        f"--config.data.manual_dir={root}",
        f"--workdir={workdir}",
        *flags,
    )


def _huge_png():
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.long
def test_a_folder_with_unusual_files_is_read_with_notes(commands, tmp_path):
    root = tmp_path / "images"
    _write_images(root)
    _write_images(root, ("wasps",), suffix="tiff")
    (root / "ants" / "zero.png").write_bytes(b"")
    (root / "ants" / "huge.png").write_bytes(_huge_png())
    (root / "stray.png").write_bytes((root / "ants" / "0.png").read_bytes())
    (root / "empty").mkdir()
    (root / "ants" / "loop").symlink_to(root)
    os.mkfifo(root / "bees" / "pipe.png")
    cv2.imwrite(str(root / "bees" / "grey16.png"), np.full((9, 9), 3000, np.uint16))
    outcome = _run_image_folder(commands, root, tmp_path / "run")
    assert outcome.code == 0, outcome.err
    for message in ("huge.png", "stray.png", "empty", "3 classes"):
        assert message in outcome.out, outcome.out
    assert "zero.png" in (tmp_path / "run" / "data.json").read_text()
    assert not outcome.err
    (root / "ants" / "0.png").write_bytes((root / "bees" / "0.png").read_bytes())
    outcome = _run_image_folder(commands, root, tmp_path / "run")
    assert "the data set is now" in outcome.check_refused(2)


@pytest.mark.parametrize(
    "held_out", fresh.mark_long_except(["val", "valid", "validation", "dev", ""], ["val"])
)
@pytest.mark.long
def test_split_folders_are_recognized(commands, held_out, tmp_path):
    for name in ("train", held_out):
        if name:
            _write_images(tmp_path / "images" / name, number=60)
    outcome = _run_image_folder(commands, tmp_path / "images", tmp_path / "run")
    assert outcome.code == 0, outcome.err


# Weights.


@pytest.mark.long
def test_prefixed_weights_are_read_and_damaged_or_unrelated_weights_are_refused(commands, tmp_path):
    variables = fresh.init(networks.create("resnet8", 10), (8, 8, 1))
    state_dict = to_torch("resnet8", variables)
    damaged = state_dict | {"conv1.weight": np.full_like(state_dict["conv1.weight"], np.nan)}
    prefixed = {f"module.student.{name}": value for name, value in state_dict.items()}
    unrelated = {f"encoder.{i}.weight": np.ones(3, np.float32) for i in range(50)}
    contents = {
        "good": (prefixed, ""),
        "nan": (damaged, "conv1.weight"),
        "unrelated": (unrelated, "fit"),
    }
    for name, (content, message) in contents.items():
        path = tmp_path / f"{name}.safetensors"
        safetensors.numpy.save_file(content, path)
        outcome = commands.run(
            f"--config=configs/digits.py{_PAIR}",
            f"--config.teacher.checkpoint={path}",
            "--config.train.epochs=1",
            "--config.teacher.cache=off",
            f"--workdir={tmp_path / name}",
            cwd=launch.CONFIGS.parent,
            seconds=240,
        )
        if message:
            assert message in outcome.check_refused(2)
        else:
            assert outcome.code == 0, outcome.err


# Workdirs.


@pytest.mark.long
def test_a_damaged_workdir_is_resumed_or_refused(commands, tmp_path):
    run = tmp_path / "run"
    config = f"--config=configs/digits.py{_STUDENT}"
    first = commands.run(config, f"--workdir={run}")
    assert first.code == 0, first.err
    lines = (run / "metrics.jsonl").read_text().splitlines()
    for content in ("null", "[1]", "\0\1"):
        original = (run / "config.json").read_text()
        (run / "config.json").write_text(content)
        outcome = commands.run(config, f"--workdir={run}")
        assert "config.json is damaged" in outcome.check_refused(2)
        (run / "config.json").write_text(original)
    (run / "metrics.jsonl").write_text("\n".join(["garbled", *lines[:1], '{"epoch": 1}', "[]"]))
    outcome = commands.run(config, f"--workdir={run}", "--config.train.epochs=3")
    assert outcome.code == 0, outcome.err
    assert "metrics.jsonl" in outcome.out
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 3]


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (
            "c.train.epochs = config_dict.required_placeholder(int)",
            1,
            "a required_placeholder has no",
        ),
        ("c.objectives = {'a b': {'factory': 'x:y'}}", 1, "invalid objective name 'a b'"),
        ("c.surplus = type(c)({'a': 1})", 1, "unknown field 'surplus'; --print_config"),
        ("raise GeneratorExit", 1, "GeneratorExit"),
        ("'a'.b", 1, "AttributeError: 'str' object has no attribute 'b'"),
    ],
)
def test_a_mistake_in_a_launch_file_gives_one_line(commands, line, code, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import config_dict\nfrom rrd_jax.config import defaults\n"
        "def get_config(argument=''):\n    c = defaults()\n"
        f"    with c.unlocked(), c.ignore_type(): {line}\n    return c\n"
    )
    assert message in commands.run(f"--config={path}").check_refused(code)


def test_an_empty_output_path_is_refused(commands):
    arguments = ("--model=resnet8", "--input=README.md", "--output=")
    outcome = commands.run(*arguments, module="rrd_jax.convert")
    assert "--output is empty" in outcome.check_refused(2)
