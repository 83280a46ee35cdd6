import dataclasses
import re

import pytest

from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.jobs import run_info
from rrd_jax.run_folder import model_card
from tests.exports import exportables

_START = {
    "command": "python -m rrd_jax.main --workdir=/home/me/runs/a '--x=gs://bucket/dir/b' ~/c/d.pth",
    "host": "my-secret-host",
    "version": "0.1.0",
}
_TEACHER = {"model": "resnet8x4", "checkpoint": "/home/me/runs/teacher", "digest": "abc"}
_ABOUT = ModelInfo(
    "resnet8",
    len(exportables.NAMES),
    class_names=exportables.NAMES,
    preprocessing=Preprocessing(32, 3, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2), 36),
    training={
        "dataset": "digits/2.0.0",
        "parameters": 1234,
        "objectives": {"ce": 1.0, "rrd": 0.5},
        "teachers": [_TEACHER],
        "start": _START,
    },
    metrics={"top1": 96.5, "top5": 100.0, "epoch": 3},
)


def test_a_model_card_says_what_the_network_is(tmp_path):
    model_card.write(tmp_path, _ABOUT)
    text = (tmp_path / "README.md").read_text()
    for said in (
        "`resnet8`, 1,234 parameters, 8 classes",
        "| top-1 | 96.50 % |",
        "32x32 pixels, RGB; short side scaled to 36 pixels, then center crop",
        "mean 0.4, 0.5, 0.6 and std 0.2, 0.2, 0.2",
        "`resnet8x4` from `teacher`, weights `abc`",
        "--workdir=a '--x=gs://bucket/dir/b' d.pth`",
        "0 a, b\n",
        "5 h\\ni: j\n",
    ):
        assert said in text
    for secret in ("my-secret-host", "/home", "\x1b"):
        assert secret not in text


def _front_matter(text):
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))


@pytest.mark.parametrize("name", [*exportables.NAMES, "my_nets:Net", "\u2028\x85\ufeff\x7f'\\"])
def test_its_front_matter_is_yaml_whatever_names_hold(name):
    training = {"dataset": f"{name}/1"}
    about = dataclasses.replace(_ABOUT, model=name, training=training, class_names=())
    found = _front_matter(model_card.render(name, about, timm=True))
    assert found["library_name"] == "timm"
    assert found["pipeline_tag"] == "image-classification"
    result = found["model-index"][0]
    assert result["name"] == name.encode("utf-8", "replace").decode()
    assert result["results"][0]["metrics"][0]["value"] == 0.965


def test_hugging_faces_library_reads_it(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    model_card.write(tmp_path, _ABOUT, timm=True)
    card = hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "timm"
    assert card.data.datasets == ["digits"]
    (figure,) = card.data.eval_results
    assert (figure.dataset_name, figure.metric_value) == ("digits/2.0.0", 0.965)
    assert "## Classes" in card.text


def test_a_readme_of_somebody_else_is_left_alone(tmp_path):
    path = tmp_path / "README.md"
    model_card.write(tmp_path, _ABOUT)
    first = path.read_text()
    model_card.write(tmp_path, dataclasses.replace(_ABOUT, metrics={"top1": 1.0}))
    assert "1.00 %" in path.read_text()
    for own in ("# Mine\n", re.sub("<!--.*-->", "", first), "---\na: b\n---\nText"):
        path.write_text(own)
        model_card.write(tmp_path, _ABOUT)
        assert path.read_text() == own
    path.write_bytes(b"\xff\xfe")
    model_card.write(tmp_path, _ABOUT)
    assert path.read_bytes() == b"\xff\xfe"
    path.unlink()
    path.mkdir()
    model_card.write(tmp_path, _ABOUT)
    assert path.is_dir()


def test_data_are_named_without_their_folder():
    for before in ("/home/me/", "hf:/home/me/", "~/"):
        about = dataclasses.replace(_ABOUT, training={"dataset": f"{before}pets 12ab"})
        text = model_card.render("f", about)
        assert "pets 12ab`" in text
        assert "me/" not in text
        assert _front_matter(text)["datasets"] == ["pets"]


def test_a_run_keeps_its_card_once_it_was_tested(tmp_path):
    run_info.write(tmp_path, dataclasses.replace(_ABOUT, metrics={}).to_json())
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    run_info.write(tmp_path, _ABOUT.to_json())
    assert "| top-1 | 96.50 % |" in (tmp_path / "README.md").read_text()


def test_a_run_goes_on_where_its_card_cannot_be_written(tmp_path, capsys):
    (tmp_path / "model.json").mkdir()
    run_info.write(tmp_path, _ABOUT.to_json())
    assert "(Is a directory); training continues" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    run_info.write(tmp_path / "gone", _ABOUT.to_json())
    assert "(No such file or directory)" in capsys.readouterr().out
