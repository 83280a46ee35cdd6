import json

import chex
import numpy as np
import pytest
import safetensors.numpy

import rrd_jax
from rrd_jax import errors, exports
from rrd_jax.exports import Options
from rrd_jax.weights import exported, files
from tests.exports import made


def _written(exportable, path, form="safetensors", **options):
    exports.get_format(form).write(exportable, path, Options(**options))
    assert exports.detect_format(path).name == form
    return path


@pytest.mark.parametrize("names", ["ours", "torch"])
def test_a_file_says_itself_what_it_holds(names, tmp_path):
    exportable = made.exportable(channels=1)
    path = _written(exportable, tmp_path / "f.safetensors", names=names)
    variables, meta = files.load(path, "")
    chex.assert_trees_all_equal(variables, exportable.variables)
    assert (meta["model"], meta["num_classes"], meta["image_shape"]) == ("resnet8", 8, [8, 8, 1])
    loaded = rrd_jax.load(path)
    assert loaded.about == exportable.about
    images = made.images(exportable)
    there, here = exports.open_file(path)(images), exportable(images)
    chex.assert_trees_all_equal(there, here)
    np.testing.assert_allclose(loaded(images).logits, here["logits"], rtol=1e-4, atol=1e-5)
    entries = safetensors.numpy.load_file(path)
    wanted = {"ours": "params/conv1/kernel", "torch": "conv1.weight"}[names]
    assert entries[wanted].shape == {"ours": (3, 3, 1, 16), "torch": (16, 1, 3, 3)}[names]


def test_a_network_of_ones_own_has_our_names_only(tmp_path):
    exportable = made.exportable(made.OWN, width=6)
    path = _written(exportable, tmp_path / "f.safetensors")
    chex.assert_trees_all_equal(files.load(path, made.OWN)[0], exportable.variables)
    images = made.images(exportable)
    logits = rrd_jax.load(path)(images).logits
    np.testing.assert_allclose(logits, exports.open_file(path)(images)["logits"], atol=1e-5)
    with pytest.raises(errors.UnfitError, match="custom network.*no names in PyTorch"):
        exports.get_format("safetensors").write(exportable, tmp_path / "g", Options(names="torch"))
    with pytest.raises(errors.InputError, match="unknown names 'keras'; .*known: ours, torch"):
        exports.get_format("safetensors").write(exportable, tmp_path / "g", Options(names="keras"))
    with pytest.raises(errors.InputError, match="holds weights of .*Own', not of"):
        rrd_jax.load(path, network="resnet14")


@pytest.mark.long
def test_what_classifies_in_its_place_goes_with_it(tmp_path):
    exportable = made.with_simkd(made.exportable())
    images = made.images(exportable)
    own = exportable.network.apply(exportable.variables, exportable.normalize(images)).logits
    for form, name in (("safetensors", "f.safetensors"), ("hub", "folder")):
        path = _written(exportable, tmp_path / name, form)
        there = exports.open_file(path)(images)["logits"]
        np.testing.assert_array_equal(there, exportable(images)["logits"])
        np.testing.assert_allclose(rrd_jax.load(path)(images).logits, there, atol=1e-5)
        assert abs(there - own).max() > 0.1
    with pytest.raises(errors.InputError, match="trained with 'simkd'.*without --names=torch"):
        exports.get_format("safetensors").write(exportable, tmp_path / "g", Options(names="torch"))


def test_lists_and_odd_names_in_variables_keep_their_place():
    leaf = np.ones(2, np.float32)
    variables = {"params": {"a/b": leaf, "a": {"b": 2 * leaf}, "layers": [leaf, (leaf, {})]}}
    text = json.dumps(exported.describe(variables, "ours"))
    back = exported.unflatten(exported.flatten(variables), json.loads(text)["tree"])
    wanted = {"a/b": leaf, "a": {"b": 2 * leaf}, "layers": [leaf, [leaf, {}]]}
    chex.assert_trees_all_equal(back, {"params": wanted, "batch_stats": {}})
    assert "tree" not in exported.describe({"params": {"a": {"b": leaf}}}, "ours")


@pytest.mark.parametrize("names", ["ours", "torch"])
def test_damage_is_a_line(names, tmp_path):
    path = _written(made.exportable(), tmp_path / "f.safetensors", names=names)
    content = path.read_bytes()
    for damaged, said in (
        (content[: len(content) // 2], "cannot be read|damaged"),
        (content[:-1000] + bytes([content[-1000] ^ 4]) + content[-999:], "not match their digest"),
        (content.replace(b'\\"num_classes\\": 8', b'\\"num_classes\\": 9'), "8 class names"),
    ):
        path.write_bytes(damaged)
        for read in (rrd_jax.load, exports.open_file):
            with pytest.raises(errors.InputError, match=said) as caught:
                read(path)
            assert "\n" not in str(caught.value)


def test_a_folder_for_hubs_that_lacks_something_is_told_in_a_line(tmp_path):
    folder = _written(made.exportable(), tmp_path / "h", "hub")
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "rrd_jax:resnet8"
    assert config["label_names"] == list(made.NAMES)
    assert rrd_jax.load(folder).about.class_names == made.NAMES
    for text, said in (
        (json.dumps({**config, "label_names": ["a", "b"]}), "names 2 classes of 8"),
        ("[1", r"config.json, which names the network"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(errors.InputError, match=said):
            exports.open_file(folder)
    (folder / "config.json").unlink()
    with pytest.raises(errors.InputError, match=r"config.json, .*No such file"):
        exports.open_file(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(errors.InputError, match="has no model.safetensors"):
        exports.open_file(folder)


def test_a_run_is_read_from_its_checkpoints_whatever_lies_beside_them(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    _written(made.exportable(), tmp_path / "model.safetensors")
    assert exported.weights_file(tmp_path) == tmp_path
