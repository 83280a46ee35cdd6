"""Export as weight files and folders for hubs."""

import json

import chex
import numpy as np
import pytest
import safetensors.numpy

import rrd_jax
from rrd_jax import errors, exports
from rrd_jax.exports import Options
from rrd_jax.weights import exported, files
from tests.exports import exportables


def _write(exportable, path, form="safetensors", **options):
    exports.get_format(form).write(exportable, path, Options(**options))
    assert exports.detect_format(path).name == form
    return path


@pytest.mark.parametrize("names", ["ours", "torch"])
def test_a_file_describes_its_network(names, tmp_path):
    exportable = exportables.exportable(channels=1)
    path = _write(exportable, tmp_path / "f.safetensors", names=names)
    variables, meta = files.load(path, "")
    chex.assert_trees_all_equal(variables, exportable.variables)
    assert (meta["model"], meta["num_classes"], meta["image_shape"]) == ("resnet8", 8, [8, 8, 1])
    loaded = rrd_jax.load(path)
    assert loaded.about == exportable.about
    images = exportables.images(exportable)
    actual, expected = exports.open_file(path)(images), exportable(images)
    chex.assert_trees_all_equal(actual, expected)
    np.testing.assert_allclose(loaded(images).logits, expected["logits"], rtol=1e-4, atol=1e-5)
    entries = safetensors.numpy.load_file(path)
    entry = {"ours": "params/conv1/kernel", "torch": "conv1.weight"}[names]
    assert entries[entry].shape == {"ours": (3, 3, 1, 16), "torch": (16, 1, 3, 3)}[names]


def test_a_custom_network_has_no_entry_names_of_pytorch(tmp_path):
    exportable = exportables.exportable(exportables.CUSTOM, width=6)
    path = _write(exportable, tmp_path / "f.safetensors")
    chex.assert_trees_all_equal(files.load(path, exportables.CUSTOM)[0], exportable.variables)
    images = exportables.images(exportable)
    logits = rrd_jax.load(path)(images).logits
    np.testing.assert_allclose(logits, exports.open_file(path)(images)["logits"], atol=1e-5)
    with pytest.raises(errors.UnfitError, match="custom network.*no names in PyTorch"):
        exports.get_format("safetensors").write(exportable, tmp_path / "g", Options(names="torch"))
    with pytest.raises(errors.InputError, match="unknown names 'keras'; .*known: ours, torch"):
        exports.get_format("safetensors").write(exportable, tmp_path / "g", Options(names="keras"))
    with pytest.raises(errors.InputError, match="holds weights of .*Custom', not of"):
        rrd_jax.load(path, network="resnet14")


@pytest.mark.long
def test_the_classifier_of_an_objective_is_exported(tmp_path):
    exportable = exportables.with_simkd(exportables.exportable())
    images = exportables.images(exportable)
    plain_logits = exportable.network.apply(
        exportable.variables, exportable.normalize(images)
    ).logits
    for form, name in (("safetensors", "f.safetensors"), ("hub", "folder")):
        path = _write(exportable, tmp_path / name, form)
        logits = exports.open_file(path)(images)["logits"]
        np.testing.assert_array_equal(logits, exportable(images)["logits"])
        np.testing.assert_allclose(rrd_jax.load(path)(images).logits, logits, atol=1e-5)
        assert abs(logits - plain_logits).max() > 0.1
    with pytest.raises(errors.InputError, match="trained with 'simkd'.*without --names=torch"):
        exports.get_format("safetensors").write(exportable, tmp_path / "g", Options(names="torch"))


def test_lists_and_unusual_names_in_variables_survive_a_round_trip():
    leaf = np.ones(2, np.float32)
    variables = {"params": {"a/b": leaf, "a": {"b": 2 * leaf}, "layers": [leaf, (leaf, {})]}}
    text = json.dumps(exported.describe(variables, "ours"))
    restored = exported.unflatten(exported.flatten(variables), json.loads(text)["tree"])
    expected = {"a/b": leaf, "a": {"b": 2 * leaf}, "layers": [leaf, [leaf, {}]]}
    chex.assert_trees_all_equal(restored, {"params": expected, "batch_stats": {}})
    assert "tree" not in exported.describe({"params": {"a": {"b": leaf}}}, "ours")


@pytest.mark.parametrize("names", ["ours", "torch"])
def test_damaged_files_are_refused_in_one_line(names, tmp_path):
    path = _write(exportables.exportable(), tmp_path / "f.safetensors", names=names)
    content = path.read_bytes()
    for damaged, message in (
        (content[: len(content) // 2], "cannot be read|damaged"),
        (content[:-1000] + bytes([content[-1000] ^ 4]) + content[-999:], "not match their digest"),
        (content.replace(b'\\"num_classes\\": 8', b'\\"num_classes\\": 9'), "8 class names"),
    ):
        path.write_bytes(damaged)
        for read in (rrd_jax.load, exports.open_file):
            with pytest.raises(errors.InputError, match=message) as caught:
                read(path)
            assert "\n" not in str(caught.value)


def test_incomplete_folders_for_hubs_are_refused_in_one_line(tmp_path):
    folder = _write(exportables.exportable(), tmp_path / "h", "hub")
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "rrd_jax:resnet8"
    assert config["label_names"] == list(exportables.NAMES)
    assert rrd_jax.load(folder).about.class_names == exportables.NAMES
    for text, message in (
        (json.dumps({**config, "label_names": ["a", "b"]}), "names 2 classes of 8"),
        ("[1", r"config.json, which names the network"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(errors.InputError, match=message):
            exports.open_file(folder)
    (folder / "config.json").unlink()
    with pytest.raises(errors.InputError, match=r"config.json, .*No such file"):
        exports.open_file(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(errors.InputError, match="has no model.safetensors"):
        exports.open_file(folder)


def test_a_run_is_read_from_its_checkpoints_and_not_from_other_files(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    _write(exportables.exportable(), tmp_path / "model.safetensors")
    assert exported.weights_file(tmp_path) == tmp_path
