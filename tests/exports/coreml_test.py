"""The structure of Core ML packages, which are not executed."""

import dataclasses
import shutil

import jax.numpy as jnp
import pytest

from rrd_jax import errors
from rrd_jax.exports import coreml, headers, interface
from tests.exports import graphs

pytest.importorskip("coremltools")
pytest.importorskip("stablehlo_coreml")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("coreml") / "student.mlpackage"
    coreml.FORMAT.write(graphs.exportable(), path, interface.Options())
    return path


def test_a_package_describes_its_inputs_and_outputs(package, capfd):
    import coremltools

    exportable = graphs.exportable()
    assert coreml.FORMAT.open is None
    assert coreml.FORMAT.recognizes(package)
    coreml.FORMAT.check(exportable, package)
    assert capfd.readouterr() == ("", "")
    spec = coremltools.utils.load_spec(str(package))
    assert [f.name for f in spec.description.input] == ["images"]
    assert [f.name for f in spec.description.output] == ["embedding", "logits"]
    record = headers.from_json(spec.description.metadata.userDefined["rrd_jax"], "it")
    assert record.about == exportable.about
    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    convolutions = [o for o in block.operations if o.type == "conv"]
    assert len(convolutions) == 8


def test_a_package_that_is_damaged_or_of_another_network_is_refused(package, tmp_path):
    exportable = graphs.exportable()
    about = dataclasses.replace(exportable.about, class_names=())
    other = dataclasses.replace(exportable, about=about)
    with pytest.raises(errors.InputError, match="does not match the network"):
        coreml.FORMAT.check(other, package)
    for content in (b"", b"\xff" * 99):
        copy = tmp_path / f"{len(content)}.mlpackage"
        shutil.copytree(package, copy)
        next(copy.rglob("*.mlmodel")).write_bytes(content)
        with pytest.raises(errors.InputError, match=r"damaged|does not match"):
            coreml.FORMAT.check(exportable, copy)
    assert not coreml.FORMAT.recognizes(tmp_path)


def test_operations_that_core_ml_lacks_are_refused(tmp_path, monkeypatch):
    def function(self, options=None):
        return lambda x: {"logits": jnp.linalg.qr(x[..., 0])[1]}

    monkeypatch.setattr(interface.Exportable, "function", function)
    with pytest.raises(errors.InputError, match=r"'grouped' cannot be written for Core ML: ") as e:
        coreml.FORMAT.write(graphs.exportable(), tmp_path / "x.mlpackage", interface.Options())
    assert "qr" in str(e.value).lower()
    assert not list(tmp_path.iterdir())
