"""The command `python -m rrd_jax.predict`, compared with evaluation."""

import csv
import importlib.util
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from rrd_jax import config as configs
from rrd_jax import library
from rrd_jax.jobs import job
from rrd_jax.predict import neighbour_figure
from rrd_jax.teacher import frozen
from tests import launch
from tests.conftest import use_one_device
from tests.data import folders

pytestmark = pytest.mark.long

_FOLDERS = ("a,b", 'say "hi"', "zwölf\nKatzen")
_CLASSES = ("a,b", 'say "hi"', "zwölf\\nKatzen")
_XLA_LOG_LINE = re.compile(r"[EW]\d{4} ")
_RNG = np.random.default_rng(0)


def _make_image(i, level):
    """Returns the name and content of an image file; the format depends on `i`."""
    size = [(12, 10), (40, 30), (16, 16), (9, 50)][i % 4]
    pixels = _RNG.integers(0, 256, (*size[::-1], 4), np.uint8) // 2 + level
    mode, kind = [
        *(("RGB", "JPEG"), ("L", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG")),
        *(("RGB", "WEBP"), ("CMYK", "JPEG"), ("RGB", "BMP"), ("LA", "PNG"), ("RGB", "TIFF")),
    ][i % 10]
    image, exif = PIL.Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode), PIL.Image.Exif()
    exif[0x0112] = i % 8 + 1
    file = io.BytesIO()
    image.save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
    return f"{i}.{kind.lower()}", file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with images of all formats, in three classes whose names need escaping."""
    root = tmp_path_factory.mktemp("images") / "root"
    for split, number in (("train", 10), ("test", 20)):
        for k, label in enumerate(_FOLDERS):
            for i in range(number):
                name, content = _make_image(i, 60 * k)
                folders.put(root / split / label / name, content)
    return root


def _config(root, augment, teacher=""):
    return launch.digits(
        "smoke,resnet8-resnet8,kd",
        **{
            "data.name": "image_folder",
            "data.manual_dir": str(root),
            "data.dir": str(root.parent / "index"),
            "data.mock_examples": 0,
            "data.augment": augment,
            "data.image_size": 12,
            "data.resize": 16,
            "data.mean": (0.4, 0.5, 0.6),
            "data.std": (0.2, 0.3, 0.25),
            "train.batch_size": 10,
            "student.model": "tests.tiny:NETWORK",
            "teacher.model": "tests.tiny:NETWORK",
            "teacher.checkpoint": teacher,
        },
    )


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """Config and workdir of a run by augmentation; both runs share one teacher."""
    runs, teacher = {}, ""
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        for augment in ("none", "random_resized"):
            folder = tmp_path_factory.mktemp(augment)
            runs[augment] = _config(root, augment, teacher), folder
            launch.run(*runs[augment])
            teacher = str(folder / "teacher")
    return runs


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("augment", ["none", "random_resized"])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_predictions_equal_those_of_evaluation_for_each_image(runs, root, role, augment):
    config, folder = runs[augment]
    plan = configs.parse(config)
    setting = job.prepare(plan.student)
    if role == "student":
        choice, path = plan.student.training.network, folder
        predictor = library.load(folder)
    else:
        choice, (path,) = plan.teachers[0].network, job.teacher_paths(plan, folder)
        predictor = library.load_teacher(folder)
    evaluated = frozen.load(choice, path, *setting, plan.student.training).predictions
    examples = setting.dataset.test.examples
    expected = {
        os.path.join(examples.root, file): label
        for file, label in zip(examples.paths, evaluated["prediction"], strict=True)
    }
    result = predictor.predict(root / "test", batch_size=7)
    assert len(expected) == 60
    assert dict(zip(result.files, result.labels, strict=True)) == expected
    assert result.class_names == _CLASSES
    # The losses depend on all logits.
    losses = -np.log(result.probabilities[np.arange(60), [_label(f) for f in result.files]])
    by_file = dict(zip(expected, evaluated["loss"], strict=True))
    np.testing.assert_allclose(losses, [by_file[f] for f in result.files], rtol=1e-4, atol=1e-6)


def _label(file):
    return _FOLDERS.index(pathlib.Path(file).parent.name)


@pytest.fixture(scope="module")
def predict(commands, root, runs):
    """A function that runs the command on a run and returns the outcome."""
    _, folder = runs["none"]

    def run(*arguments, workdir=folder, cwd=root):
        workdir_flags = (f"--workdir={workdir}",) if workdir else ()
        outcome = commands.run(*workdir_flags, *arguments, module="rrd_jax.predict", cwd=cwd)
        # jaxlib 0.10 logs each program that it reads from the cache.
        lines = (
            line for line in outcome.err.splitlines(keepends=True) if not _XLA_LOG_LINE.match(line)
        )
        return outcome._replace(err="".join(lines))

    return run


def _import_parquet():
    """Imports the module that reads Parquet files; returns None if it is not installed."""
    installed = importlib.util.find_spec("pyarrow")
    return installed and importlib.import_module("pyarrow.parquet")


def test_all_formats_contain_the_same_names_and_values(predict, tmp_path):
    files = ["test/zwölf\nKatzen/3.png", "test/a,b/0.jpeg", 'test/say "hi"/1.jpeg']
    options = ("--logits", "--embeddings", "--top=2")
    paths = {}
    parquet = _import_parquet()
    for form in ("csv", "jsonl", "npz", *(["parquet"] if parquet else [])):
        output = tmp_path / f"out.{form}"
        outcome = predict(*files, f"--format={form}", *options, f"--output={output}")
        assert outcome.code == 0, outcome.err
        assert (outcome.out, outcome.err) == ("", f"3 images: {output}\n")
        paths[form] = output
    arrays = np.load(paths["npz"])
    assert arrays["files"].tolist() == files
    assert tuple(arrays["class_names"]) == _CLASSES
    header, *rows = csv.reader(paths["csv"].open(newline="", encoding="utf-8"))
    lines = list(map(json.loads, paths["jsonl"].read_text(encoding="utf-8").splitlines()))
    assert header[:7] == [
        *("file", "label_1", "class_1", "probability_1", "label_2", "class_2", "probability_2")
    ]
    assert header[7:11] == ["logit_0", "logit_1", "logit_2", "embedding_0"]
    for i, (row, line) in enumerate(zip(rows, lines, strict=True)):
        assert row[0] == line["file"] == files[i]
        first = line["top"][0]
        label = int(arrays["labels"][i])
        assert (first["label"], first["class"]) == (label, _CLASSES[label])
        assert row[1:3] == [str(label), _CLASSES[label]]
        assert (
            np.float32(row[3])
            == np.float32(first["probability"])
            == arrays["probabilities"][i].max()
        )
        for values in (row[7:10], line["logits"]):
            np.testing.assert_array_equal(np.float32(values), arrays["logits"][i])
        for values in (row[10:], line["embedding"]):
            np.testing.assert_array_equal(np.float32(values), arrays["embeddings"][i])
    if parquet:
        table = parquet.read_table(paths["parquet"])
        assert str(table.schema.field("embeddings").type).startswith("fixed_size_list<")
        columns = table.to_pydict()
        assert columns["file"] == files
        assert columns["label"] == arrays["labels"].tolist()
        assert columns["class"] == [_CLASSES[label] for label in arrays["labels"]]
        for name in ("probabilities", "logits", "embeddings"):
            np.testing.assert_array_equal(np.float32(columns[name]), arrays[name])
    # Standard output receives only the content of the file.
    outcome = predict(*files, "--format=csv", *options)
    assert outcome.out == paths["csv"].read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.part"))


def test_top1_of_a_folder_is_printed_and_each_image_has_one_line(predict):
    outcome = predict("--labels", "--top=1", "test")
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 60
    correct = sum(
        f"/{name}/" in line and f": {name} " in line
        for line in outcome.out.splitlines()
        for name in _CLASSES
    )
    assert f"top-1 {100 * correct / 60:.2f} % of 60 images with a label" in outcome.err


def test_unreadable_images_are_listed_and_the_remaining_images_are_predicted(predict, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"hello")
    (tmp_path / "gone.jpg").symlink_to("nothing")
    for i in range(2):
        folders.put(tmp_path / f"{i}.jpg")
    folders.put(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    outcome = predict(".", "lost.jpg", "--format=jsonl", "--batch_size=2", cwd=tmp_path)
    assert outcome.code == 2
    files = [json.loads(line)["file"] for line in outcome.out.splitlines()]
    assert files == ["./0.jpg", "./1.jpg", "./\udcff.jpg"]
    *warnings, error = outcome.err.splitlines()
    names = ["./broken.jpg", "./gone.jpg", "lost.jpg"]
    assert [line.split(":")[1].strip() for line in warnings] == names
    assert "3 of 6 images" in error


def test_patches_are_written_to_one_file_and_to_shards_of_the_stated_size(
    predict, root, runs, tmp_path
):
    (tmp_path / "broken.jpg").write_bytes(b"hello")
    network = library.load(runs["none"][1])
    files = [*map(str, sorted((root / "test" / "a,b").iterdir())[:4]), f"{tmp_path}/broken.jpg"]
    files.append(str(root / "test" / 'say "hi"' / "1.jpeg"))
    options = ("--features=patches", "--format=npz", "--batch_size=3")
    outcome = predict(*files, *options, "--embeddings", f"--output={tmp_path}/one.npz")
    assert outcome.code == 2
    assert "1 of 6 images" in outcome.err
    single = np.load(tmp_path / "one.npz")
    files.pop(4)
    assert single["files"].tolist() == files
    expected = network.embed(files, features="patches")
    assert expected.shape[0] == 5
    assert expected.ndim == 4
    np.testing.assert_allclose(single["patches"], expected, rtol=1e-5, atol=1e-6)
    # The network pools its patches.
    pooled = single["patches"].mean(axis=(1, 2))
    np.testing.assert_allclose(pooled, single["embeddings"], rtol=1e-5, atol=1e-6)
    assert predict(*files, *options, "--shard_size=2", f"--output={tmp_path}/two/").code == 0
    shards = [np.load(path) for path in sorted((tmp_path / "two").iterdir())]
    assert [len(shard["files"]) for shard in shards] == [2, 2, 1]
    for name in ("files", "patches", "labels"):
        joined = np.concatenate([shard[name] for shard in shards])
        np.testing.assert_array_equal(joined, single[name])
    assert {path.name for path in tmp_path.iterdir()} == {"broken.jpg", "one.npz", "two"}


def test_outputs_without_readable_images_have_all_columns(predict, tmp_path):
    for form in ("csv", "npz"):
        options = (f"--format={form}", f"--output={tmp_path}/no.{form}", "--embeddings", "--top=1")
        assert predict("README.md", *options, cwd=pathlib.Path(__file__).parents[2]).code == 2
    assert (tmp_path / "no.csv").read_text() == "file,label_1,class_1,probability_1\n"
    assert np.load(tmp_path / "no.npz")["probabilities"].shape == (0, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no.csv", "no.npz"]


def test_invalid_arguments_are_refused_in_one_line_before_any_prediction(predict, root, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.csv").touch()
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    image = str(root / "test" / "a,b" / "0.jpeg")
    features = ("--features=patches", "--format=npz", f"--output={tmp_path}/there.csv")
    for arguments, options, code, message in [
        ((image,), {"workdir": ""}, 1, "--workdir is missing"),
        ((), {}, 1, "no images given"),
        ((image, "--formt=csv"), {}, 1, "Unknown command line flag 'formt'"),
        ((image, "--top=0"), {}, 1, "flag --top=0"),
        ((image, "--format=xml"), {}, 1, "--format=xml"),
        (("nothing.jpg",), {}, 2, "'nothing.jpg' does not exist"),
        (("*.gif",), {}, 2, r"no file matches '*.gif'"),
        ((tmp_path / "empty",), {}, 2, "no images in"),
        ((image,), {"workdir": tmp_path / "none"}, 2, "no intact checkpoint in"),
        ((image, "--teacher"), {"workdir": tmp_path / "empty"}, 2, "is not the workdir of a run"),
        ((image, "--teacher", "--image_size=8"), {}, 2, "omit --image_size"),
        ((image, "--class_names=lost.txt"), {}, 2, "lost.txt"),
        ((image, f"--class_names={tmp_path}/names.txt"), {}, 2, "2 names, but there are 3 classes"),
        ((image, "--mean=0.5"), {}, 2, "mean is (0.5,), but must be a tuple of 3 numbers"),
        ((image, "--std=a,b,c"), {}, 2, "--std=a,b,c must be numbers"),
        (
            (image, "--image_size=99", "--resize=50"),
            {},
            2,
            "resize is 50, but must be at least image_size, 99",
        ),
        ((image, "--format=npz"), {}, 2, "--format=npz is binary; name a file with --output"),
        ((image, "--format=parquet"), {}, 2, "--format=parquet is binary; name a file"),
        ((image, "--logits"), {}, 2, "--logits needs --format=csv, jsonl, npz or parquet"),
        ((image, "--output="), {}, 2, "--output is empty"),
        ((image, f"--output={tmp_path}/there.csv"), {}, 2, "there.csv already exists"),
        ((image, "--output=not/there.csv"), {}, 2, "not/there.csv"),
        ((image, "--picture=x.png"), {}, 2, "--neighbours"),
        ((image, "--features=patches"), {}, 2, "needs --format=npz with --output=FILE"),
        ((image, "--features=patches,embedding"), {}, 1, "patches,embedding"),
        ((image, "--features=patches", "--format=csv"), {}, 2, "needs --format=npz"),
        ((image, "--features=patches", "--format=npz"), {}, 2, "name a file with --output"),
        ((image, *features, "--point=0,0"), {}, 2, "--point needs --picture"),
        ((image, *features, "--head=kd"), {}, 2, "--head cannot be combined"),
        ((image, *features, "--shard_size=0"), {}, 1, "--shard_size=0"),
        ((image, *features, "--shard_size=2"), {}, 2, "there.csv already exists"),
        ((image, "--shard_size=2"), {}, 2, "--shard_size needs --format=npz"),
        ((image, "--features=maps"), {}, 1, "maps"),
        ((image, "--point=0,0"), {}, 2, "--point needs --features=patches"),
        ((image, "--features=patches", "--picture=x.png", "--point=2,0"), {}, 2, "[0, 1]"),
        ((image, "--features=patches", "--picture=x.png", "--point=0"), {}, 2, "two numbers"),
        ((image, "--features=patches", "--picture=x.png", "--logits"), {}, 2, "--logits cannot"),
        ((image, "--features=patches", "--picture=x.gif"), {}, 2, ".png, .svg or .pdf"),
        ((image, "--neighbours=test", "--picture=x.jpg"), {}, 2, ".png, .svg or .pdf"),
        ((image, "--neighbours=test", "--picture=no/x.png"), {}, 2, "folder no does not exist"),
        ((image, "--neighbours=test", "--labels"), {}, 2, "--labels"),
        ((image, "--neighbours=test", "--format=npz", "--output=x"), {}, 2, "text, csv or jsonl"),
        ((image, "--neighbours=nowhere"), {}, 2, "nowhere"),
    ]:
        outcome = predict(*arguments, **options)
        assert message in outcome.check_refused(code)
        assert not outcome.out
    assert not list(tmp_path.glob("*.part"))


def test_a_list_of_files_is_read_and_a_closed_pipe_ends_the_command_quietly(runs, root):
    command = f"{sys.executable} -m rrd_jax.predict --workdir={runs['none'][1]} --batch_size=1 -"
    shell = (
        f"find {root}/test -type f -print0 | sort -z | {command} | head -1; echo ${{PIPESTATUS[@]}}"
    )
    env = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    # JAX sets the variable for this process.
    env.pop("TF_CPP_MIN_LOG_LEVEL", None)
    outcome = subprocess.run(
        ["bash", "-c", shell], env=env, cwd=root, capture_output=True, text=True
    )
    line, codes = outcome.stdout.splitlines()
    assert line.startswith(f"{root}/test/a,b/0.jpeg: ")
    assert (codes, outcome.stderr) == ("0 0 141 0", "")


def test_neighbours_equal_those_of_scikit_learn_and_exclude_the_image_itself(
    predict, runs, root, tmp_path
):
    neighbors = pytest.importorskip("sklearn.neighbors")
    predictor, count, size = library.load(runs["none"][1]), 3, 60
    result = predictor.predict(root / "test", batch_size=7)
    model = neighbors.NearestNeighbors(n_neighbors=count + 1, metric="cosine")
    distances, positions = model.fit(result.embeddings).kneighbors(result.embeddings)
    output, picture = tmp_path / "near.jsonl", tmp_path / "near.png"
    options = ("--format=jsonl", f"--output={output}", f"--picture={picture}", "--batch_size=7")
    outcome = predict("test", f"--neighbours={root / 'test'}", f"--top={count}", *options)
    assert outcome.code == 0, outcome.err
    assert "student and teacher share" in outcome.err
    with PIL.Image.open(picture) as image:
        assert image.size[0] > 400
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    neighbours_of = {os.path.relpath(row["file"], root): row["neighbours"] for row in rows}
    assert len(neighbours_of) == size
    for file, row, near in zip(result.files, distances, positions, strict=True):
        # The nearest image is the image itself or an identical one.
        assert file == result.files[near[0]] or row[1] < 1e-6
        neighbours = neighbours_of[os.path.relpath(file, root)]
        cosines = [neighbour["cosine"] for neighbour in neighbours]
        np.testing.assert_allclose(cosines, 1 - row[1:], atol=1e-5)
        assert file not in {os.path.join(root, neighbour["file"]) for neighbour in neighbours}


def test_neighbours_of_few_images_are_printed_as_lines_and_as_a_table(predict):
    query = "test/a,b/0.jpeg"
    folder = "test/a,b/1.jpeg", query, "test/a,b/2.png"
    outcome = predict(*folder, f"--neighbours={query}", "--top=5")
    assert outcome.code == 0, outcome.err
    assert re.fullmatch(
        r"test/a,b/0\.jpeg: (test/a,b/[12]\.\w+ -?[01]\.\d{4}(, )?){2}\n", outcome.out
    )
    table = list(
        csv.reader(predict(*folder, f"--neighbours={query}", "--format=csv").out.splitlines())
    )
    assert table[0] == ["file", "neighbour_1", "cosine_1", "neighbour_2", "cosine_2"]
    assert table[1][0] == query
    queries = [query, "test/a,b/1.jpeg"]
    several = predict(*folder, f"--neighbours={','.join(queries)}", "--top=1")
    assert [line.split(": ")[0] for line in several.out.splitlines()] == queries


def test_names_below_images_are_short_and_distinct():
    files = ["a/x/1.png", "b/x/1.png", f"b/{'y' * 40}.png", "$z$.png"]
    names = neighbour_figure.short_names(files)
    assert names["a/x/1.png"] == "a/x/1.png"
    assert names["$z$.png"] == "$z$.png"
    assert len(set(names.values())) == 4
    assert max(map(len, names.values())) <= 21
    assert neighbour_figure.short_names(["a/1.png", "a/2.png"])["a/2.png"] == "2.png"
