"""Model cards of runs and exported files."""

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
        "dataset_name": "/home/me/photos",
        "parameters": 1234,
        "objectives": {"ce": 1.0, "rrd": 0.5},
        "teachers": [_TEACHER],
        "start": _START,
    },
    metrics={"top1": 96.5, "top5": 100.0, "epoch": 3},
)


def test_a_model_card_describes_the_network_without_private_data(tmp_path):
    model_card.write(tmp_path, _ABOUT)
    text = (tmp_path / "README.md").read_text()
    for line in (
        "`resnet8`, 1,234 parameters, 8 classes",
        "| top-1 | 96.50 % |",
        "32x32 pixels, RGB; shorter side scaled to 36 pixels, then center crop",
        "mean 0.4, 0.5, 0.6 and std 0.2, 0.2, 0.2",
        "`resnet8x4` from `teacher`, weights `abc`",
        "--workdir=a '--x=gs://bucket/dir/b' d.pth`",
        f"python -m rrd_jax.predict --workdir={tmp_path.name} IMAGE",
        "data: `photos`",
        "0 a, b\n",
        "5 h\\ni: j\n",
    ):
        assert line in text
    for secret in ("my-secret-host", "/home", "\x1b"):
        assert secret not in text


def _front_matter(text):
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))


@pytest.mark.parametrize("name", [*exportables.NAMES, "my_nets:Net", "\u2028\x85\ufeff\x7f'\\"])
def test_the_front_matter_is_valid_yaml_for_any_name(name):
    training = {"dataset": f"{name}/1"}
    about = dataclasses.replace(_ABOUT, model=name, training=training, class_names=())
    front_matter = _front_matter(model_card.render(name, about, timm=True))
    assert front_matter["library_name"] == "timm"
    assert front_matter["pipeline_tag"] == "image-classification"
    result = front_matter["model-index"][0]
    assert result["name"] == name.encode("utf-8", "replace").decode()
    assert result["results"][0]["metrics"][0]["value"] == 0.965


def test_the_hugging_face_library_reads_a_model_card(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    model_card.write(tmp_path, _ABOUT, timm=True)
    card = hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "timm"
    assert card.data.datasets == ["photos"]
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_value) == ("photos", 0.965)
    assert "## Classes" in card.text


def test_a_readme_of_the_user_is_not_overwritten(tmp_path):
    path = tmp_path / "README.md"
    model_card.write(tmp_path, _ABOUT)
    first = path.read_text()
    model_card.write(tmp_path, dataclasses.replace(_ABOUT, metrics={"top1": 1.0}))
    assert "1.00 %" in path.read_text()
    for text in ("# Mine\n", re.sub("<!--.*-->", "", first), "---\na: b\n---\nText"):
        path.write_text(text)
        model_card.write(tmp_path, _ABOUT)
        assert path.read_text() == text
    path.write_bytes(b"\xff\xfe")
    model_card.write(tmp_path, _ABOUT)
    assert path.read_bytes() == b"\xff\xfe"
    path.unlink()
    path.mkdir()
    model_card.write(tmp_path, _ABOUT)
    assert path.is_dir()


def test_a_data_set_is_named_without_its_folder():
    for prefix in ("/home/me/", "hf:/home/me/", "~/"):
        about = dataclasses.replace(_ABOUT, training={"dataset": f"{prefix}pets 12ab"})
        text = model_card.render("f", about)
        assert "pets 12ab`" in text
        assert "me/" not in text
        assert _front_matter(text)["datasets"] == ["pets"]


def test_a_run_has_a_model_card_after_its_first_evaluation(tmp_path):
    run_info.write(tmp_path, dataclasses.replace(_ABOUT, metrics={}).to_json())
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    run_info.write(tmp_path, _ABOUT.to_json())
    assert "| top-1 | 96.50 % |" in (tmp_path / "README.md").read_text()


def test_a_run_continues_if_its_model_card_cannot_be_written(tmp_path, capsys):
    (tmp_path / "model.json").mkdir()
    run_info.write(tmp_path, _ABOUT.to_json())
    assert "(Is a directory); training continues" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    run_info.write(tmp_path / "missing", _ABOUT.to_json())
    assert "(No such file or directory)" in capsys.readouterr().out
