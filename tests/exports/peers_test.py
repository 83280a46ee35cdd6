"""Exported weights loaded in torchvision, timm and transformers, and read back."""

import importlib

import chex
import numpy as np
import pytest

from rrd_jax import errors, exports
from rrd_jax.data import model_info as abouts
from rrd_jax.exports import Options
from rrd_jax.weights import files, from_torch, published, sidecar
from tests.exports import exportables
from tests.networks import modern

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

_KINDS = (*modern.KINDS, "shufflenetv2_x1_0", *modern.SAMPLE)
_NAMES = [name for name in _KINDS if any(published.lookup(name)[:2])]
_QUICK = ["mobilenetv2", "mobilenetv1"]
_LONG = [pytest.param(n, marks=pytest.mark.long) for n in _NAMES if n not in _QUICK]


def _export(exportable, form, path, **options):
    exports.get_format(form).write(exportable, path, Options(**options))
    return path


def _build_peer(name, channels=3):
    """Builds the network of torchvision, or of timm if torchvision lacks it.

    Returns:
      (network, function that renames the entries of a state dict for the network).
    """
    record = published.lookup(name)
    if record.torchvision:
        network = getattr(torchvision.models, record.torchvision)(num_classes=8)
        return network, lambda state_dict: state_dict
    options = record.make_args((64, 64, channels))
    network = timm.create_model(record.timm, num_classes=8, **options)
    return network, lambda state_dict: published.rename_entries(state_dict, name, "timm")


@pytest.mark.parametrize("name", [*_QUICK, *_LONG])
@pytest.mark.filterwarnings("ignore")
def test_peers_load_exported_files_and_save_identical_weights(name, tmp_path):
    st = importlib.import_module("safetensors.torch")
    exportable = exportables.exportable(name, size=64, resize=73, names=tuple("abcdefgh"))
    file = _export(exportable, "safetensors", tmp_path / "a.safetensors", names="torch")
    network, respell = _build_peer(name)
    network.load_state_dict(respell(st.load_file(file)), strict=True)
    st.save_file(network.state_dict(), tmp_path / "b.safetensors")
    peer, _ = _build_peer(name)
    pth = _export(exportable, "torch", tmp_path / "a.pth")
    state_dict = respell(torch.load(pth, weights_only=True))
    peer.load_state_dict(state_dict, strict=True)
    torch.save({"state_dict": peer.state_dict()}, tmp_path / "b.pth")
    for path in (file, pth, tmp_path / "b.safetensors", tmp_path / "b.pth"):
        chex.assert_trees_all_equal(files.load(path, name)[0], exportable.variables)
    if published.lookup(name).timm:
        folder = _export(exportable, "hub", tmp_path / "hub")
        network = timm.create_model(f"local-dir:{folder}", pretrained=True)
        timm.models.save_for_hf(network, tmp_path / "saved", safe_serialization="both")
        for path in (folder, tmp_path / "saved", tmp_path / "saved" / "pytorch_model.bin"):
            variables, meta = files.load(path, "")
            chex.assert_trees_all_equal(variables, exportable.variables)
            about = abouts.from_json(meta["about"], "")
            assert about.class_names == exportable.about.class_names
            assert about.preprocessing == exportable.about.preprocessing


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", 1), *(pytest.param(name, 3, marks=pytest.mark.long) for name in _NAMES)],
)
def test_outputs_in_peers_are_equal(name, channels, tmp_path):
    exportable = exportables.exportable(name, size=64, channels=channels)
    images = exportables.images(exportable)
    expected = exportable(images)
    for form, file in (("safetensors", "a.safetensors"), ("torch", "a.pth"), ("hub", "hub")):
        runtime = exports.open_file(_export(exportable, form, tmp_path / file, names="torch"), 1)
        has_timm = published.lookup(name).timm
        assert runtime.runtime.startswith("torch" if form != "hub" or has_timm else "jax")
        computed = runtime(images)
        for output in ("logits", "embedding"):
            error = np.abs(computed[output] - expected[output]).max()
            assert error <= 1e-5 * np.abs(expected[output]).max()


def test_timm_loads_an_exported_folder_from_a_hub(tmp_path, monkeypatch):
    exportable = exportables.exportable("resnet18", size=64)
    folder = _export(exportable, "hub", tmp_path / "hub")

    def download(repo_id, filename, **_):
        assert repo_id == "me/it"
        return str(folder / filename)

    monkeypatch.setattr(importlib.import_module("timm.models._hub"), "hf_hub_download", download)
    network = timm.create_model("hf-hub:me/it", pretrained=True)
    assert network.pretrained_cfg["label_names"] == list(exportables.NAMES)
    restored = from_torch("resnet18", network.state_dict())
    chex.assert_trees_all_equal(restored, exportable.variables)


def test_a_damaged_or_changed_state_dict_is_refused_in_one_line(tmp_path):
    path = _export(exportables.exportable("resnet8"), "torch", tmp_path / "f.pth")
    content = torch.load(path, weights_only=True)
    content["fc.bias"] += 1
    torch.save(content, path)
    with pytest.raises(errors.InputError, match=r"match their digest.*remove .*f.pth.json if the"):
        files.load(path, "")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(errors.InputError, match="damaged or incomplete") as caught:
        exports.open_file(path)
    assert "\n" not in str(caught.value)
    path.with_name("f.pth.json").unlink()
    assert not exports.get_format("torch").recognizes(path)


@pytest.mark.long
def test_transformers_load_a_folder_for_hubs(tmp_path):
    transformers = pytest.importorskip("transformers")
    exportable = exportables.exportable("resnet18", size=64, names=tuple("abcdefgh"), resize=73)
    folder = _export(exportable, "hub", tmp_path / "hub")
    network = transformers.AutoModelForImageClassification.from_pretrained(folder)
    assert network.config.id2label == dict(enumerate("abcdefgh"))
    images = exportables.images(exportable)
    with torch.no_grad():
        normalized = np.asarray(exportable.normalize(images)).transpose(0, 3, 1, 2)
        logits = network(torch.tensor(normalized)).logits.numpy()
    expected = exportable(images)["logits"]
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    network.save_pretrained(tmp_path / "saved")
    chex.assert_trees_all_equal(files.load(tmp_path / "saved", "")[0], exportable.variables)


def test_the_transform_of_timm_follows_the_exported_preprocessing():
    expected = exportables.exportable(size=200, resize=230).about.preprocessing
    config = timm.data.resolve_data_config(pretrained_cfg=sidecar.to_timm(expected))
    resize, crop, _, normalize = timm.data.create_transform(**config).transforms
    assert (resize.size, list(crop.size)) == (230, [200, 200])
    np.testing.assert_allclose(normalize.std, expected.std)
    uncropped = exportables.exportable(size=32).about.preprocessing
    config = timm.data.resolve_data_config(pretrained_cfg=sidecar.to_timm(uncropped))
    assert timm.data.create_transform(**config).transforms[0].size in ((32, 32), [32, 32])


def test_networks_of_timm_with_other_activations_are_refused(tmp_path, capsys):
    other, blur = (timm.create_model(n, num_classes=8) for n in ("mobilenetv1_100", "resnetblur18"))
    timm.models.save_for_hf(other, tmp_path / "relu6", safe_serialization=True)
    with pytest.raises(errors.InputError, match="act_layer=None.*use weights with act_layer=relu"):
        files.load(tmp_path / "relu6", "mobilenetv1")
    # The entry names do not determine the activation.
    torch.save(other.state_dict(), tmp_path / "f.pth")
    files.load(tmp_path / "f.pth", "mobilenetv1")
    assert "created with act_layer='relu'" in capsys.readouterr().out
    timm.models.save_for_hf(blur, tmp_path / "blur", safe_serialization=True)
    with pytest.raises(errors.InputError, match="timm's resnetblur18.*not resnet18"):
        files.load(tmp_path / "blur", "resnet18")
    assert files.network_of(tmp_path / "blur") == ""
