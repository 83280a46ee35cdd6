"""Class names from a text or JSON file."""

import json

import pytest

from rrd_jax import data, errors
from rrd_jax.data import class_names_file
from rrd_jax.data.source import Source

_NAMES = ("tench", 'a "fish", großer', "鯉")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(_NAMES) + "\n\n",
        "\r\n".join(_NAMES),
        json.dumps(dict(enumerate(_NAMES))),
        json.dumps({i: [f"n{i}", name] for i, name in enumerate(_NAMES)}),
        json.dumps({"id2label": dict(enumerate(_NAMES)), "model_type": "resnet"}),
        json.dumps({"id2label": _NAMES}),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_and_json_files_are_read(tmp_path, text, encoding):
    (tmp_path / "names").write_text(text, encoding=encoding)
    assert class_names_file.read(tmp_path / "names", 3, "data.class_names") == _NAMES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb", "has 2 names, but there are 3 classes"),
        ('{"0": "a", "2": "b", "3": "c"}', "the labels are 0, 2, 3 ..., not 0, 1, 2"),
        ('["a", 3, "c"]', "'3' is not a name"),
        ("[", "no valid class names"),
        ("5", "has 1 names"),
        ('{"id2label": null}', "the names are None, but must be a list"),
        ('{"a": "x", "b": "y", "c": "z"}', "the labels are a, b, c ..., not 0, 1, 2"),
        (None, "cannot be read: No such file"),
    ],
)
def test_invalid_files_are_refused_in_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "names").write_text(text)
    with pytest.raises(errors.InputError, match=message) as caught:
        class_names_file.read(tmp_path / "names", 3, "data.class_names")
    assert "\n" not in str(caught.value)


def test_the_file_overrides_the_class_names_of_the_data_set(tmp_path):
    (tmp_path / "names").write_text("\n".join(f"digit {i}" for i in range(10)))
    source = Source(name="digits", image_size=8, mock_examples=20)
    dataset = data.load(Source(**{**source.__dict__, "class_names": str(tmp_path / "names")}))
    assert dataset.class_names[3] == "digit 3"
    assert dataset.summary.details["classes"][3] == "digit 3"
