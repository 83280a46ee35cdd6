"""Headers of exported files and folders, and their digests."""

import dataclasses
import pathlib
import zipfile

import pytest

from rrd_jax import errors
from rrd_jax.exports import headers
from tests.exports import graphs

_HEADER = headers.Header(graphs.exportable().about, "litert", "NHWC", "float32", ("logits",))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    headers.write_graph(path, b"graph" * 99, _HEADER)
    return path


def test_a_graph_with_a_header_survives_a_round_trip(file, tmp_path):
    assert headers.read_graph(file) == (b"graph" * 99, _HEADER)
    assert file.read_bytes().startswith(b"graph")
    assert headers.format_of(file) == "litert"
    # Other programs read the labels from the zip archive.
    with zipfile.ZipFile(file) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(graphs.NAMES)
    headers.write_graph(tmp_path / "second", b"graph" * 99, _HEADER)
    assert (tmp_path / "second").read_bytes() == file.read_bytes()


def test_class_names_need_not_be_valid_utf8(tmp_path):
    names = ("\udcff", *graphs.NAMES[1:])
    header = _HEADER._replace(about=dataclasses.replace(_HEADER.about, class_names=names))
    headers.write_graph(tmp_path / "odd", b"graph", header)
    assert headers.read_graph(tmp_path / "odd") == (b"graph", header)


def test_other_files_have_no_format(tmp_path):
    path = tmp_path / "file"
    assert headers.format_of(path) == headers.format_of(tmp_path) == ""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.json", "[[]]")
    assert headers.format_of(path) == ""
    with pytest.raises(errors.InputError, match="has no header"):
        headers.read_graph(path)


def test_a_folder_lists_its_files(tmp_path):
    for name in ("graph", "weights"):
        (tmp_path / name).write_bytes(name.encode())
    headers.write_folder(tmp_path, _HEADER)
    assert headers.read_folder(tmp_path) == _HEADER
    (tmp_path / "weights").write_bytes(b"weightz")
    with pytest.raises(errors.InputError, match=r"weights is damaged"):
        headers.read_folder(tmp_path)
    (tmp_path / "weights").unlink()
    with pytest.raises(errors.InputError, match=r"lacks weights .*copy the whole folder"):
        headers.read_folder(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(errors.InputError, match=r"model.json is missing or damaged"):
        headers.read_folder(tmp_path)


def test_an_unwritable_folder_raises_a_disk_error():
    with pytest.raises(errors.DiskError, match="export again"):
        headers.write_graph(pathlib.Path("/proc/file"), b"", _HEADER)
