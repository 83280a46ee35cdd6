"""Export of networks without a classifier, whose files return the embedding."""

import dataclasses

import jax
import numpy as np
import pytest

import rrd_jax
from rrd_jax import errors, exports
from rrd_jax.exports import export_all, sample_images, verification
from tests.exports import exportables

_MODULES = {
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("litert_converter", "ai_edge_litert"),
    "openvino": ("litert_converter", "openvino"),
    "coreml": ("coremltools", "stablehlo_coreml"),
    "torch": ("torch",),
}


def _trial(exportable, count):
    images = exportables.images(exportable, count)
    kind = exportable.about.preprocessing
    return exports.Trial(exportable, sample_images.from_arrays(images, kind, count))


@pytest.fixture(scope="module")
def trial():
    return _trial(exportables.exportable(channels=1, classes=0), 6)


def _write(trial, form, folder, **options):
    for module in _MODULES.get(form, ()):
        pytest.importorskip(module)
    form = exports.get_format(form)
    path = folder / f"f{form.extension}"
    return exports.write(trial, form, path, exports.Options(**options))


@pytest.mark.parametrize("form", exports.FORMATS)
def test_each_format_returns_only_the_embedding(form, trial, tmp_path):
    written = _write(trial, form, tmp_path)
    if form == "coreml":
        assert written.comparison is None
        return
    assert written.comparison.agreement is None
    assert written.comparison.difference < 1e-5
    assert written.comparison.cosine == pytest.approx(1, abs=1e-6)
    assert "largest relative embedding error" in str(written)
    loaded = rrd_jax.load(written.path)
    assert loaded.num_classes == 0
    images = list(trial.images.images)
    expected = trial.reference["embedding"]
    np.testing.assert_allclose(loaded.embed(images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(errors.InputError, match="has no classifier"):
        loaded.predict(images)
    header, (row,) = export_all.table([export_all.Outcome(exports.get_format(form), written)])
    assert header[-2:] == ["embedding error", "mean cosine"]
    assert len(row) == len(header)


def test_an_onnx_file_has_one_output(trial, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = _write(trial, "onnx", tmp_path, embed_preprocessing=True).path
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["embedding"]
    images = trial.images.images.transpose(0, 3, 1, 2)
    (embedding,) = session.run(None, {"images": images})
    np.testing.assert_allclose(embedding, trial.reference["embedding"], rtol=1e-4, atol=1e-5)


def test_8_bit_weights_keep_embeddings_similar(trial, tmp_path):
    pytest.importorskip("litert_quantizer")
    written = _write(trial, "litert", tmp_path, quantize="int8")
    assert 0.99 < written.comparison.cosine < 1


@pytest.mark.parametrize(
    ("model", "form"),
    [("resnet18", "hub"), ("vit_tiny_patch16_224", "torch"), ("mobilenetv4_conv_small", "hub")],
)
@pytest.mark.long
def test_timm_loads_networks_without_a_classifier(model, form, tmp_path):
    pytest.importorskip("timm")
    written = _write(_trial(exportables.exportable(model, size=32, classes=0), 3), form, tmp_path)
    assert "timm" in written.runtime
    assert written.comparison.difference < 1e-4


class _WrongRuntime:
    """A runtime whose outputs are changed by a function."""

    def __init__(self, exportable, change):
        self.about, self.runtime = exportable.about, "tests 1.0"
        self._exportable, self._change = exportable, change

    def __call__(self, images):
        return self._change(self._exportable(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: {"embedding": y["embedding"] * 1.001}, "error of embeddings"),
        (lambda y: {"embedding": y["embedding"][:, :-1]}, "the file's embeddings have shape"),
        (lambda y: {"embedding": y["embedding"] * np.nan}, "the file's embeddings are not finite"),
        (lambda y: {"logits": y["embedding"]}, "the file returns no embeddings"),
    ],
)
def test_a_file_with_wrong_outputs_is_refused(change, message, trial):
    with pytest.raises(errors.InputError, match=message):
        trial.compare(_WrongRuntime(trial.exportable, change))


def test_8_bit_weights_may_change_the_length_but_not_the_direction_of_embeddings(trial):
    opposite = _WrongRuntime(trial.exportable, lambda y: {"embedding": -y["embedding"]})
    with pytest.raises(errors.InputError, match="mean cosine of only -1"):
        trial.compare(opposite, is_rounded=True)
    near = _WrongRuntime(trial.exportable, lambda y: {"embedding": y["embedding"] * 1.01})
    assert trial.compare(near, is_rounded=True).cosine == pytest.approx(1)
    nan = jax.tree.map(lambda leaf: leaf * np.nan, trial.exportable.variables)
    not_finite = dataclasses.replace(trial.exportable, variables=nan)
    with pytest.raises(errors.InputError, match="embeddings of 'resnet8' are not finite"):
        _ = verification.Trial(not_finite, trial.images).reference
