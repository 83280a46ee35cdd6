"""A teacher that is remembered in place of running."""

import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from rrd_jax import errors, fit, networks, objectives, optim, parallel, state, steps, train
from rrd_jax.data import augment, feed
from rrd_jax.teacher import cache, ensemble, fold
from tests.conftest import use_one_device

_CROP = augment.make_augment("crop_flip", mean=(0.5,), std=(0.5,), pad=1, flip=True)


def _config(teacher, argument="smoke,resnet8-resnet8,rrd+kd", **fields):
    config = digits.get_config(argument)
    config.baseline = False
    config.teacher.checkpoint = str(teacher)
    config.update_from_flattened_dict({"teacher.cache": "on", **fields})
    return config


def _losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[row["train/loss"], row["test/loss"]] for row in rows]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A trained one; each test copies what it wants to change."""
    folder = tmp_path_factory.mktemp("teacher")
    config = digits.get_config("smoke,resnet8,ce")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        train.run(config, str(folder))
    return folder


@pytest.fixture
def own_teacher(teacher, tmp_path):
    """The same, remembered by nobody yet."""
    link = tmp_path / "teacher"
    link.mkdir()
    (link / "checkpoints").symlink_to(teacher / "checkpoints")
    return link


def _split(count=5, channels=1):
    rng = np.random.default_rng(0)
    source = [
        {"image": rng.integers(0, 256, (8, 8, channels), np.uint8), "label": i % 4}
        for i in range(count)
    ]
    return feed.Resident(source, size=8, channels=channels)


def _teacher(split, seed=0, dtype=jnp.float32):
    network = networks.create("resnet8", 4, dtype=dtype)
    variables = jax.jit(network.init)(jax.random.key(seed), split.images[:1].astype(np.float32))
    return network, variables


def _views(network, variables, folders, split, mesh):
    def folded():
        return fold.fold(network, variables, split.images.shape[1:])

    return cache.Views(network, variables, folded, folders, split, mesh)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_rows_are_what_the_network_makes_of_each_view(devices, tmp_path):
    mesh, split = parallel.make_mesh(jax.devices()[:devices]), _split()
    network, variables = _teacher(split)
    variables = parallel.put(parallel.replicated(mesh), variables)
    kept = _views(network, variables, [tmp_path], split, mesh)
    (table,) = kept.get(_CROP)["embedding"]
    assert table.sharding.shard_shape(table.shape)[0] == 8 * 18 // devices
    for i, view in itertools.product(range(5), (0, 7, 17)):
        image = _CROP.show(jnp.array([view]), split.images[i : i + 1])
        wanted = network.apply(variables, image, train=False).embedding[0]
        np.testing.assert_allclose(table[i * 18 + view], wanted, rtol=1e-5, atol=1e-6)
    assert kept.size(_CROP) == 0  # nothing more is to be taken


@pytest.mark.parametrize(
    ("dtype", "devices", "tolerance"),
    [("float32", 1, 1e-5), ("float32", 8, 1e-4), ("bfloat16", 1, 2e-2)],
)
def test_a_remembered_teacher_gives_the_losses_of_one_that_runs(
    own_teacher, tmp_path, monkeypatch, capsys, dtype, devices, tolerance
):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    monkeypatch.setattr(parallel, "make_mesh", lambda: mesh)
    fields = {"dtype": dtype, "optimizer.learning_rate": 0.01}
    for use in ("on", "off"):
        config = _config(own_teacher, **fields, **{"teacher.cache": use})
        train.run(config, str(tmp_path / use))
    np.testing.assert_allclose(_losses(tmp_path / "on"), _losses(tmp_path / "off"), rtol=tolerance)
    said = capsys.readouterr().out
    assert said.count("the teacher does not run, but is remembered") == 1
    assert said.count("the teacher has seen all views") == 1


@pytest.mark.usefixtures("one_device")
def test_the_next_run_reads_them_and_damaged_ones_are_filled_again(
    own_teacher, tmp_path, monkeypatch, capsys
):
    train.run(_config(own_teacher), str(tmp_path / "first"))
    fill = cache.fill
    monkeypatch.setattr(cache, "fill", None)  # it is not called
    train.run(_config(own_teacher), str(tmp_path / "second"))
    assert "embeddings are read from" in capsys.readouterr().out
    for file in (own_teacher / "views").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    monkeypatch.setattr(cache, "fill", fill)
    train.run(_config(own_teacher), str(tmp_path / "third"))
    assert "is damaged" in capsys.readouterr().out
    monkeypatch.setattr(cache, "fill", None)
    train.run(_config(own_teacher), str(tmp_path / "fourth"))
    rows = [_losses(tmp_path / name) for name in ("first", "second", "third", "fourth")]
    assert rows[0] == rows[1] == rows[2] == rows[3]


@pytest.mark.usefixtures("one_device")
def test_other_images_another_teacher_or_other_crops_are_filled_anew(own_teacher, tmp_path):
    for i, fields in enumerate(
        ({}, {"data.pad": 2}, {"data.mean": (0.25,)}, {"dtype": "bfloat16"})
    ):
        train.run(_config(own_teacher, **fields), str(tmp_path / str(i)))
        assert len(list((own_teacher / "views").glob("*"))) == i + 1


@pytest.mark.usefixtures("one_device")
def test_by_itself_it_is_on_where_it_pays_and_a_run_goes_on_as_it_began(
    own_teacher, tmp_path, monkeypatch, capsys
):
    fields = {"teacher.cache": "auto"}
    train.run(_config(own_teacher, **fields), str(tmp_path / "runs"))
    assert "remembering all 9 views of an image pays for more than 9" in capsys.readouterr().out
    long = {**fields, "train.epochs": 10, "train.save_every": 1}
    _stop_after(2, _config(own_teacher, **long), tmp_path / "remembers", monkeypatch)
    assert "the teacher does not run" in capsys.readouterr().out
    # They are on disk now, so that a new run reads them, but not one that began without them.
    _stop_after(2, _config(own_teacher, **fields), tmp_path / "new", monkeypatch)
    assert "the teacher does not run" in capsys.readouterr().out
    again = _config(own_teacher, **fields, **{"train.save_every": 1})
    for ready in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(cache.Views, "ready", lambda self, shown, ready=ready: ready)
            _stop_after(2 + ready, again, tmp_path / "old", monkeypatch)
        assert "the teacher runs at each step" in capsys.readouterr().out


def _stop_after(step, config, folder, monkeypatch):
    """Asks a run to stop, as SIGTERM does."""
    with monkeypatch.context() as patch:
        original = fit._Loop.__init__

        def start(self, *arguments):
            original(self, arguments[0], lambda at: at >= step)

        patch.setattr(fit._Loop, "__init__", start)
        with pytest.raises(errors.PreemptedError):
            train.run(config, str(folder))


@pytest.mark.usefixtures("one_device")
def test_it_can_be_stopped_while_it_is_shown_the_images(own_teacher, tmp_path, monkeypatch):
    _stop_after(0, _config(own_teacher), tmp_path / "run", monkeypatch)
    assert not (own_teacher / "views").exists()
    assert train.run(_config(own_teacher), str(tmp_path / "run"))[-1].top1 >= 0


@pytest.mark.usefixtures("one_device")
def test_where_they_cannot_be_kept_the_run_goes_on(own_teacher, tmp_path, capsys):
    (own_teacher / "views").write_text("in the way")
    assert train.run(_config(own_teacher), str(tmp_path / "run"))[-1].top1 >= 0
    assert "warning: the next run will show them again: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "fields", "reason"),
    [
        ("at", {}, "'at' compares maps"),
        ("kd", {"data.mix": "mixup"}, "each image is mixed with another"),
        ("kd", {"data.feed": "streamed"}, "training images are streamed"),
        ("kd", {"data.augment": "random_resized"}, "training images are streamed"),
        ("kd", {"memory": 100}, "would need 0.00 GB of the 0.00 GB that are free on each device"),
    ],
)
@pytest.mark.usefixtures("one_device")
def test_where_a_teacher_cannot_be_remembered_it_runs_or_says_why(
    own_teacher, tmp_path, monkeypatch, capsys, argument, fields, reason
):
    if memory := fields.pop("memory", 0):
        monkeypatch.setattr(parallel, "free_bytes", lambda mesh: memory)
    config = _config(own_teacher, f"smoke,resnet8-resnet8,{argument}", **fields)
    with pytest.raises(errors.InputError, match=f"teacher.cache is on, but .*{reason}") as caught:
        train.run(config, str(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    config.teacher.cache = "auto"
    train.run(config, str(tmp_path / "run"))
    assert f"the teacher runs at each step: {reason}" in capsys.readouterr().out.replace(
        "its embeddings of all views ", ""
    )


def test_what_the_cache_cannot_be_is_one_line():
    with pytest.raises(errors.InputError, match="unknown teacher.cache 'yes'; known: auto, on, of"):
        train.check(_config("x", **{"teacher.cache": "yes"}))
    config = digits.get_config("smoke,resnet8+resnet8-resnet8,kd")
    config.teacher[1].cache = "off"
    with pytest.raises(errors.InputError, match="caches are auto and off; they must be the same"):
        train.check(config)


def _every_objective():
    """All that need no maps of the teacher, with their options."""
    for name in objectives.OBJECTIVES:
        options = {"examples": 5, "dim": 4, "queue_size": 8, "negatives": 3}
        options = {k: v for k, v in options.items() if objectives.takes(name, k)}
        objective = objectives.create(name, **options)
        if objective.needs_teacher and not objective.needs_maps:
            yield name, objective


@pytest.mark.parametrize("members", [1, 2])
def test_every_objective_that_needs_no_maps_reads_a_remembered_teacher(members, tmp_path):
    mesh, split = parallel.make_mesh(jax.devices()[:1]), _split()
    each = [_teacher(split, seed) for seed in range(members)]
    network, variables = each[0]
    terms = dict(_every_objective())
    assert len(terms) == 16
    if members > 1:
        shares = (0.25, 0.75)
        del terms["srrl"]  # it takes over one classifier
        network = ensemble.Ensemble(tuple(one for one, _ in each), shares)
        variables = {k: tuple(v[k] for _, v in each) for k in ("params", "batch_stats")}
        terms = {name: objectives.averaged(name, one, shares) for name, one in terms.items()}
    folders = [tmp_path / str(i) for i in range(members)]
    remembered = _views(network, variables, folders, split, mesh).get(_CROP)
    student, optimizer = networks.create("resnet8", 4), optim.sgd(lambda step: 0.01)
    start = jax.jit(
        lambda key, variables: state.create(
            key, student, terms, optimizer, (8, 8, 1), network, variables
        )
    )(jax.random.key(0), variables)
    batch = {"image": split.images[:4], "label": split.labels[:4], "index": np.arange(4)}
    found = []
    for teach, known in (
        (steps.running(network), variables),
        (steps.recalling(network, _CROP.views), remembered),
    ):
        weights = dict.fromkeys(terms, 1.0)
        step = steps.make_train_step(student, terms, weights, optimizer, _CROP, 5, teach)
        found.append(jax.jit(step)(start, known, batch)[1])
    assert set(found[0]) >= {f"loss/{name}" for name in terms}
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_split_table_is_never_gathered(tmp_path):
    mesh, split = parallel.make_mesh(), _split(24)
    network, variables = _teacher(split)
    remembered = _views(network, variables, [tmp_path], split, mesh).get(_CROP)
    recall = steps.recalling(network, _CROP.views)
    batch = {name: np.arange(8, dtype=np.int32) for name in ("index", "view")}
    batch = parallel.put_batch(mesh, batch)
    text = jax.jit(recall).lower(remembered, batch).compile().as_text()
    (table,) = remembered["embedding"]
    moved = re.findall(r"= \w+\[([\d,]*)\].* (?:all-gather|all-reduce|collective-permute)", text)
    assert moved
    rows = {int(shape.split(",")[0]) for shape in moved if shape}
    assert max(rows) <= 8 < table.shape[0] // mesh.size
