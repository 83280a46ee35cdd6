"""Predictions as Parquet files, and embeddings of networks without a classifier in all formats."""

import io
import json

import numpy as np
import pytest

import rrd_jax
from rrd_jax import errors
from rrd_jax.library import Predictions
from rrd_jax.predict import parquet, writing
from tests import launch
from tests.data import folders

_RNG = np.random.default_rng(0)


def _make_part(number, classes=3, name="é{}"):
    embeddings = _RNG.standard_normal((number, 5)).astype(np.float32)
    logits = _RNG.standard_normal((number, classes)).astype(np.float32)
    files = tuple(name.format(i) for i in range(number))
    return Predictions(logits, embeddings, files, tuple("abc"[:classes]))


def _write(parts, path, form="parquet"):
    content = writing.Content(embeddings=True)
    with writing.open_writer(form, content, path, io.StringIO()) as write:
        for part in parts:
            write(part)


def test_written_rows_are_read_back_for_any_row_groups(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    module = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet, "_ROWS", 8)
    parts = [_make_part(4), _make_part(0), _make_part(4), _make_part(3)]
    _write(parts, tmp_path / "all.parquet")
    file = module.ParquetFile(tmp_path / "all.parquet")
    assert file.num_row_groups == 2
    assert file.schema_arrow.field("embeddings").type.list_size == 5
    table = pandas.read_parquet(tmp_path / "all.parquet")
    assert list(table) == ["file", "label", "class", "probabilities", "embeddings"]
    for name, values in (("embeddings", "embeddings"), ("probabilities", "probabilities")):
        expected = np.concatenate([getattr(part, values) for part in parts])
        np.testing.assert_array_equal(np.stack(table[name]), expected)
    assert table["file"].tolist() == [file for part in parts for file in part.files]
    assert table["class"].tolist() == [name for part in parts for name in part.names]
    with pytest.raises(errors.InputError, match="already exists"):
        _write(parts, tmp_path / "all.parquet")


def test_a_file_without_images_or_classes_has_the_remaining_columns(
    tmp_path,
):
    module = pytest.importorskip("pyarrow.parquet")
    _write([_make_part(0)], tmp_path / "none.parquet")
    assert module.read_table(tmp_path / "none.parquet").num_rows == 0
    _write([_make_part(2, classes=0, name="\udcff{}")], tmp_path / "bare.parquet")
    table = module.read_table(tmp_path / "bare.parquet")
    assert table.column_names == ["file", "embeddings"]
    assert table["file"].to_pylist() == ["\\udcff0", "\\udcff1"]


def test_a_missing_pyarrow_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(errors.UnavailableError, match=r"pip install 'rrd_jax\[hf\]'") as caught:
        _write([], tmp_path / "x.parquet")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("tiny_network", "one_device")
def test_a_student_without_labels_writes_embeddings_in_each_format(tiny_teacher, tmp_path, capsys):
    teacher = {"teacher.checkpoint": str(tiny_teacher)}
    config = launch.digits("smoke,tiny-tiny,rrd", **{"data.use_labels": False, **teacher})
    launch.run(config, tmp_path / "run")
    for i in range(3):
        folders.put(tmp_path / "images" / f"{i}.jpg")
    student = rrd_jax.load(tmp_path / "run")
    (part,) = student.predictor.batches(tmp_path / "images")
    for form in ("npz", "csv", "jsonl"):
        _write([part], tmp_path / f"out.{form}", form)
    arrays = np.load(tmp_path / "out.npz")
    assert sorted(arrays) == ["class_names", "embeddings", "files"]
    np.testing.assert_array_equal(arrays["embeddings"], student.embed(tmp_path / "images"))
    header, first, *_ = (tmp_path / "out.csv").read_text().splitlines()
    assert header.startswith("file,embedding_0,")
    assert len(first.split(",")) == 1 + arrays["embeddings"].shape[1]
    rows = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    assert [set(row) for row in rows] == [{"file", "embedding"}] * 3
