"""The export command with a test format; tests/exports covers the public formats."""

import errno
import json
import pathlib
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import rrd_jax
from rrd_jax import checkpoints, errors, export, networks
from rrd_jax.comparison import compared_networks, measurements
from rrd_jax.exports import writer
from rrd_jax.weights import to_torch
from tests import launch
from tests.conftest import use_one_device
from tests.exports import private

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_device", "tiny_network")]
_NAMES = ("a, b", 'the "c"', "Füße", "日本", *"efghij")


@pytest.fixture(scope="module")
def run(tiny_network, tmp_path_factory):
    """The workdir of a job with SimKD, which replaces the classifier; tests must not modify it."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        launch.run(launch.digits("smoke,resnet8-tiny,simkd"), folder)
    return folder


@pytest.fixture
def form():
    with private.registered() as registered:
        yield registered


def _export(workdir, output, **fields):
    options = {"format": ["private"], "output": output and str(output)} | fields
    return export.run(export.Request(pathlib.Path(workdir), **options))


def test_an_exported_file_is_verified_and_contains_class_names(run, form, tmp_path, capsys):
    (outcome,) = _export(
        run, tmp_path / "deep" / "it.private", load_options={"class_names": _NAMES}
    )
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["it.private"]
    compared = outcome.written.comparison
    assert (compared.images, compared.description, compared.agreement) == (24, "test images", 100)
    assert compared.top1 == compared.network_top1
    assert compared.difference < 1e-5
    assert form.open(outcome.written.path, 0).about.class_names == _NAMES
    line, use = capsys.readouterr().out.splitlines()[-2:]
    assert line.startswith(f"{tmp_path}/deep/it.private, ")
    assert ": verified with tests 1.0 on 24 test images: largest relative logit error " in line
    assert use == f"try it: python -m rrd_jax.predict --workdir={outcome.written.path} IMAGE..."


@pytest.mark.parametrize(
    ("change", "output", "message"),
    [
        (lambda x: x + 1e-3, "logits", "error .*e-.* \\(at most 1e-04 is allowed"),
        (lambda x: x[:, ::-1], "logits", "error .* same top-1 for"),
        (lambda x: x * np.nan, "logits", "the file's logits are not finite"),
        (lambda x: x[:, 1:], "logits", "have shape"),
        (lambda x: x[1:], "logits", "returns 0 rows of logits for a batch of 1"),
        (lambda x: x * 1.01, "embedding", "error 1.0e-02"),
    ],
)
def test_a_file_with_wrong_outputs_is_refused_and_removed(run, tmp_path, change, output, message):
    with (
        private.registered(write=private.faulty_write(change, output)),
        pytest.raises(errors.InputError, match=f"format 'private' not written: .*{message}"),
    ):
        _export(run, tmp_path / "new" / "it.private")
    assert not list(tmp_path.iterdir())


def test_8_bit_weights_may_differ_within_limits(run, tmp_path):
    def register(change):
        return private.registered(write=private.faulty_write(change))

    with register(lambda x: x + 1e-2):
        (outcome,) = _export(run, tmp_path / "it.private", quantize="int8")
    assert outcome.written.comparison.difference > 1e-3
    with (
        register(lambda x: x[:, ::-1]),
        pytest.raises(errors.InputError, match="with 8-bit weights, only .*omit --quantize"),
    ):
        _export(run, tmp_path / "other.private", quantize="int8")


def test_only_exported_files_are_overwritten_and_only_with_the_flag(run, form, tmp_path):
    path = tmp_path / "it.private"
    path.write_text("a letter")
    with pytest.raises(errors.InputError, match=r"already exists; .*--overwrite"):
        _export(run, path)
    with pytest.raises(errors.InputError, match="not written by this command"):
        _export(run, path, overwrite=True)
    # The check precedes loading.
    with pytest.raises(errors.InputError, match=r"already exists; .*--overwrite"):
        _export(tmp_path / "no run", path)
    assert path.read_text() == "a letter"
    path.unlink()
    _export(run, path)
    _export(run, path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["it.private"]


def test_export_into_the_checkpoints_of_a_run_is_refused(run, form):
    with pytest.raises(errors.InputError, match="in the checkpoints of a run"):
        _export(run, run / "checkpoints" / "it.private")


def test_a_full_disk_leaves_no_files(run, tmp_path):
    def write(exportable, path, options):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with private.registered(write=write), pytest.raises(errors.DiskError, match="free disk space"):
        _export(run, tmp_path / "it.private")
    assert not list(tmp_path.iterdir())

    def fail(exportable, path, options):
        raise errors.DiskError(f"{path} cannot be written")

    # The message names the output, not the temporary file.
    output = tmp_path / "it.private"
    with (
        private.registered(write=fail),
        pytest.raises(errors.DiskError, match=f"format 'private' not written: {output} cannot"),
    ):
        _export(run, output)


def test_unsupported_options_are_refused_before_weights_are_read(run, form, tmp_path, monkeypatch):
    monkeypatch.setattr(compared_networks, "load", lambda *_: pytest.fail("weights are read"))
    with pytest.raises(errors.InputError, match=r"--names is not .* --nofold, --quantize"):
        _export(run, tmp_path / "it.private", names="torch")


def test_a_missing_library_is_reported_and_does_not_stop_other_formats(run, tmp_path, capsys):
    with (
        private.registered(modules=("no_such_module",), extra="some") as absent,
        pytest.raises(errors.UnavailableError, match=r"pip install 'rrd_jax\[some\]'"),
    ):
        _export(run, tmp_path / "it.private")
    refused = private.FORMAT._replace(
        name="refused", extension=".x", write=private.faulty_write(lambda x: -x)
    )
    with (
        private.replaced_formats(private.FORMAT, absent._replace(name="absent"), refused),
        pytest.raises(errors.InputError, match="1 of 3 formats not written"),
    ):
        _export(run, tmp_path, format=["all"], names="torch")
    out = capsys.readouterr().out
    assert "note: format 'private' ignores --names" in out
    assert "warning: format 'refused' not written: the file's outputs differ" in out
    assert "note: skipped: format 'absent' needs no_such_module" in out
    assert [line.split()[3] for line in out.splitlines() if line.startswith("| absent")] == ["not"]
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.private"]


def test_a_format_that_does_not_support_the_network_is_skipped_with_a_note(run, tmp_path, capsys):
    def refuse(*_):
        raise errors.UnfitError("it has no names there")

    unfit = private.FORMAT._replace(name="unfit", extension=".x", write=refuse)
    with private.replaced_formats(private.FORMAT, unfit):
        _export(run, tmp_path, format=["all"])
        out = capsys.readouterr().out
        assert "note: skipped: format 'unfit' not written: it has no names there" in out
        assert "| not supported " in out
        with pytest.raises(errors.InputError, match="format 'unfit' not written"):
            _export(run, tmp_path, format=["unfit"])
    with (
        private.replaced_formats(unfit, unfit._replace(name="other", extension=".y")),
        pytest.raises(errors.InputError, match="no format written"),
    ):
        _export(run, tmp_path, format=["all"])


def test_output_folders_receive_distinct_file_names(run, form, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    with pytest.raises(errors.InputError, match=r"ends in .private.*--output=.*new.private or"):
        _export(copy, tmp_path / "new")
    _export(copy, f"{tmp_path}/folder/", quantize="int8")
    _export(copy, tmp_path / "folder", teacher=True)
    _export(f"{copy}@best", None)
    paths = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.private"))
    names = ["folder/resnet8-teacher.private", "folder/tiny-int8.private"]
    assert paths == [*names, "run/exports/tiny.private"]
    about = compared_networks.load(run).about
    assert writer.file_name(about.__class__("nets.a:Mine", 2), form) == "Mine.private"


def test_a_pytorch_file_is_exported_with_preprocessing_from_options(run, form, tmp_path):
    variables, _ = checkpoints.load_student(run / "teacher")
    path = tmp_path / "teacher.safetensors"
    safetensors.numpy.save_file(to_torch("resnet8", variables), path)
    output = tmp_path / "it.private"
    with pytest.raises(
        errors.InputError, match="the preprocessing of .* is unknown.*--mean=.*--image_size"
    ):
        _export(path, output, load_options={"network": "resnet8"})
    load_options = {"network": "resnet8", "mean": (0.3,), "std": (0.4,), "image_size": 8}
    with pytest.raises(errors.InputError, match="2 names, but there are 10 classes"):
        _export(path, output, load_options=load_options | {"class_names": ("a", "b")})
    (outcome,) = _export(path, output, load_options=load_options)
    assert outcome.written.comparison.description == "random images"
    assert form.open(output, 0).about.preprocessing.mean == (0.3,)


def test_the_comparison_can_use_images_of_a_folder(run, form, tmp_path):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for i in range(3):
        image = np.full((20, 30, 3), 80 * i, np.uint8)
        cv2.imwrite(str(tmp_path / "images" / "deep" / f"{i}.png"), image)
    (tmp_path / "images" / "a.txt").write_text("no image")
    (outcome,) = _export(run, tmp_path / "it.private", images=str(tmp_path / "images"))
    compared = outcome.written.comparison
    assert (compared.images, compared.top1) == (3, None)
    with pytest.raises(errors.InputError, match="no images in"):
        _export(run, tmp_path / "it.private", images=str(run), overwrite=True)


def test_the_comparison_uses_random_images_without_a_test_split(run, form, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    fields = json.loads((copy / "config.json").read_text())
    fields["data"] |= {"name": "no_such_set", "mock_examples": 0}
    (copy / "config.json").write_text(json.dumps(fields))
    (outcome,) = _export(copy, tmp_path / "it.private")
    assert outcome.written.comparison.description == "random images"
    assert "note: no test images for " in capsys.readouterr().out


def test_the_classifier_of_an_objective_is_exported_with_its_network(run, form, tmp_path):
    student = json.loads((run / "results.json").read_text())[-1]
    parameters, macs = measurements.costs(compared_networks.load(run))
    assert parameters == student["parameters"]
    assert macs > networks.summarize(compared_networks.load(run).network, (8, 8, 1)).macs
    (outcome,) = _export(run, tmp_path / "it.private")
    image = np.full((1, 8, 8, 1), 100, np.uint8)
    actual = form.open(outcome.written.path, 0)(image)["logits"]
    np.testing.assert_allclose(actual, rrd_jax.load(run)(image).logits, atol=1e-5)


def test_a_custom_network_trained_in_bfloat16_is_exported_in_float32(form, tmp_path):
    custom = "tests.networks.custom_nets:Copied"
    config = launch.digits("smoke,resnet8,ce", **{"student.model": custom, "dtype": "bfloat16"})
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    network = networks.create("resnet8", 10)
    variables = networks.init(network, jax.random.key(0), (8, 8, 1))
    meta = {"model": custom, "num_classes": 10, "image_shape": [8, 8, 1]}
    checkpoints.save_network(tmp_path, jax.tree.map(np.asarray, variables), meta)
    assert rrd_jax.load(tmp_path).network.dtype == jnp.bfloat16
    (outcome,) = _export(tmp_path, f"{tmp_path}/files/")
    assert outcome.written.path.name == "Copied.private"
    image = np.full((1, 8, 8, 1), 100, np.uint8)
    expected = network.apply(variables, (image / 255.0 - 0.305) / 0.376).logits
    actual = form.open(outcome.written.path, 0)(image)["logits"]
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_a_loaded_network_has_an_export_method(run, form, tmp_path):
    network = rrd_jax.load(run)
    written = network.export(tmp_path / "it.private", fold=False)
    assert written.comparison.description == "test images"
    images, labels = np.zeros((5, 8, 8, 1), np.uint8), np.arange(5)
    written = network.export(
        tmp_path / "it.private", "private", test=(images, labels), overwrite=True
    )
    assert written.comparison.images == 5
    for path, options, message in (
        ("it.onnxx", {}, r"has an unknown extension; use one of .*\.private"),
        ("it.private", {"folds": True}, "unknown option 'folds'; did you mean 'fold'"),
        ("it.private", {"quantize": "int4"}, "option quantize is 'int4'"),
        ("it.private", {"test": images[:, :7]}, "must be uint8"),
        ("it.private", {"test": (images, labels[:4])}, r"labels are int64 of shape \(4,\)"),
        ("it.private", {"test": (images, list("abcde"))}, "but must be integers"),
    ):
        with pytest.raises(errors.InputError, match=message):
            network.export(tmp_path / path, overwrite=True, **options)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("--workdir={tmp}", 2, "--format is missing; set it to one of safetensors"),
        ("--workdir={tmp} --format=onxx", 2, "unknown format 'onxx'; did you mean 'onnx'"),
        ("--workdir={tmp} --format=safetensors", 2, "no intact checkpoint in"),
        ("--workdir={tmp}/none --format=safetensors", 2, "none"),
        ("--workdir={tmp} --format=safetensors --mean=a", 2, "--mean=a, but must be numbers"),
        ("--workdir= --format=safetensors", 2, "--workdir is empty"),
        ("--workdir={tmp} --report --format=onnx", 2, "--report cannot be combined with --format"),
        ("--workdir={tmp} --report", 2, "no intact checkpoint in"),
        ("--format=onnx", 1, "--workdir"),
        ("--workdir={tmp} --format=onnx --quantize=int4", 1, "quantize"),
    ],
)
def test_invalid_flags_are_refused_in_one_line(commands, tmp_path, flags, code, message):
    flags = flags.format(tmp=tmp_path).split()
    done = commands.run(*flags, module="rrd_jax.export", env={"JAX_PLATFORMS": "cpu"})
    assert message in done.check_refused(code)
    assert not list(tmp_path.iterdir())
