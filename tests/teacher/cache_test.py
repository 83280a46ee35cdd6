"""The cache of a teacher's embeddings."""

import errno
import itertools
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import data, errors, objectives, optim, parallel
from rrd_jax.config import parse
from rrd_jax.data.augment import pipeline
from rrd_jax.data.feeds import feed
from rrd_jax.jobs import job
from rrd_jax.objectives.batch import Batch
from rrd_jax.teacher import (
    cache,
    cache_file,
    cache_plan,
    ensemble,
    fill_cache,
    placement,
    row_format,
    step_outputs,
)
from rrd_jax.training import recipe, state, step
from rrd_jax.training.recipe import Term
from tests import fresh, launch, tiny

pytestmark = pytest.mark.usefixtures("tiny_network")
_CROP = pipeline.make_augment("crop_flip", mean=(0.5,), std=(0.5,), pad=1, flip=True)


def _config(teacher, argument="smoke,tiny-tiny,rrd+kd", **fields):
    fixed = {"teacher.checkpoint": str(teacher), "optimizer.learning_rate": 0.01}
    return launch.digits(argument, **fixed, **{"teacher.cache": "on", **fields})


def _losses(folder):
    return [[row["train/loss"], row["test/loss"]] for row in launch.rows(folder)]


@pytest.fixture
def teacher(tiny_teacher, tmp_path):
    """The workdir of a trained teacher without a cache."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "checkpoints").symlink_to(tiny_teacher / "checkpoints")
    return folder


def _split(count=5, channels=1):
    rng = np.random.default_rng(0)
    source = [
        {"image": rng.integers(0, 256, (8, 8, channels), np.uint8), "label": i % 4}
        for i in range(count)
    ]
    split = feed.Resident(source, size=8, channels=channels)
    return data.Dataset("random", 4, (8, 8, channels), train=split, test=split)


def _network(dataset, seed=0):
    """Returns a network and random variables of a teacher."""
    network = tiny.NETWORK(num_classes=4)
    return network, fresh.init(network, dataset.image_shape, seed)


def _formats(network, dtype="auto", *, has_patches=False):
    return [
        row_format.of_network(member, (8, 8, 1), dtype, has_patches=has_patches)
        for member in ensemble.member_networks(network)
    ]


def _cache(network, variables, folders, dataset, mesh, *, fully=False, **options):
    members = ensemble.members(network, variables)
    weights = [
        placement.place(*member, dataset.image_shape, mesh, fully=fully)[0] for member in members
    ]
    return cache.EmbeddingCache(weights, folders, dataset, mesh, **options)


@pytest.mark.parametrize(("devices", "fully"), [(1, False), (8, False), (8, True)])
def test_rows_are_the_embeddings_of_each_view(devices, fully, tmp_path):
    mesh, split = parallel.make_mesh(jax.devices()[:devices]), _split()
    network, variables = _network(split)
    embeddings = _cache(network, variables, [tmp_path], split, mesh, fully=fully)
    (table,) = embeddings.load(_CROP)["embedding"]
    assert table.sharding.shard_shape(table.shape)[0] == 8 * 18 // devices

    @jax.jit
    def embed(view, images):
        augmented = _CROP.show(view, None, images)
        return network.apply(variables, augmented, train=False).embedding

    rows, view = (jnp.array(x) for x in zip(*itertools.product(range(5), (0, 7, 17)), strict=True))
    expected = embed(view, split.train.images[rows])
    np.testing.assert_allclose(table[rows * 18 + view], expected, rtol=1e-5, atol=1e-6)
    assert embeddings.space(_CROP)["device"].needed == 0


@pytest.mark.parametrize(
    ("dtype", "devices", "tolerance"),
    [
        ("float32", 1, 1e-5),
        pytest.param("float32", 8, 1e-4, marks=pytest.mark.long),
        pytest.param("bfloat16", 1, 2e-2, marks=pytest.mark.long),
    ],
)
def test_a_cached_teacher_gives_the_losses_of_a_live_teacher(
    teacher, tmp_path, monkeypatch, capsys, dtype, devices, tolerance
):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    monkeypatch.setattr(parallel, "make_mesh", lambda **_: mesh)
    for mode in ("on", "off"):
        config = _config(teacher, **{"dtype": dtype, "teacher.cache": mode})
        launch.run(config, tmp_path / mode)
    np.testing.assert_allclose(_losses(tmp_path / "on"), _losses(tmp_path / "off"), rtol=tolerance)
    output = capsys.readouterr().out
    assert output.count("teacher cache on: ") == 1
    assert output.count("all views computed") == 1


def test_a_teacher_that_is_added_later_is_computed_alone(tmp_path, monkeypatch, capsys):
    mesh, split = parallel.make_mesh(jax.devices()[:1]), _split()
    teachers = [_network(split, seed) for seed in (0, 1)]
    network = ensemble.Ensemble(tuple(network for network, _ in teachers), (0.5, 0.5))
    variables = ensemble.stack_variables([variables for _, variables in teachers])

    def load(*folders):
        paths = [tmp_path / name for name in folders]
        return _cache(network, variables, paths, split, mesh).load(_CROP)["embedding"]

    at_once = load("a", "b")
    _cache(*teachers[0], [tmp_path / "first"], split, mesh).load(_CROP)
    calls, fill = [], cache.fill

    def counted(*arguments, **options):
        calls.append(arguments)
        return fill(*arguments, **options)

    monkeypatch.setattr(cache, "fill", counted)
    later = load("first", "second")
    assert len(calls) == 1
    chex.assert_trees_all_equal(later, at_once)
    assert "embeddings read from" in capsys.readouterr().out


def test_stored_embeddings_are_read_and_damaged_embeddings_are_computed_again(
    tmp_path, monkeypatch, capsys
):
    mesh, split = parallel.make_mesh(jax.devices()[:1]), _split()
    network, variables = _network(split)
    fill = cache.fill

    def load():
        return _cache(network, variables, [tmp_path], split, mesh).load(_CROP)["embedding"][0]

    first = load()
    # A call of cache.fill would raise an error.
    monkeypatch.setattr(cache, "fill", None)
    second = load()
    assert "embeddings read from" in capsys.readouterr().out
    for file in filter(pathlib.Path.is_file, tmp_path.rglob("*")):
        if file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    monkeypatch.setattr(cache, "fill", fill)
    third = load()
    assert "are damaged" in capsys.readouterr().out
    monkeypatch.setattr(cache, "fill", None)
    for table in (second, third, load()):
        np.testing.assert_array_equal(table, first)


def test_other_images_weights_and_augmentations_have_separate_caches(tmp_path):
    mesh, split = parallel.make_mesh(jax.devices()[:1]), _split()
    network, variables = _network(split)

    def exists(network=network, variables=variables, split=split, augment=_CROP):
        return _cache(network, variables, [tmp_path], split, mesh).exists(augment)

    assert not exists()
    _cache(network, variables, [tmp_path], split, mesh).load(_CROP)
    assert exists()
    assert not exists(split=_split(count=6))
    assert not exists(variables=_network(split, seed=1)[1])
    assert not exists(network=tiny.NETWORK(num_classes=4, dtype=jnp.bfloat16))
    crop = {"mean": (0.5,), "std": (0.5,), "pad": 1, "flip": True}
    for other in ({"pad": 2}, {"mean": (0.25,)}, {"std": (0.25,)}, {"flip": False}):
        assert not exists(augment=pipeline.make_augment("crop_flip", **{**crop, **other}))
    assert exists(augment=pipeline.make_augment("crop_flip", **crop))
    # Parts of one streamed data set have separate caches.
    examples = _split(40).train.examples

    def streamed(part):
        split = feed.Streamed(part, 8, 1)
        return data.Dataset("random", 4, (8, 8, 1), train=split, test=split)

    _cache(network, variables, [tmp_path], streamed(examples[:20]), mesh).load(_CROP)
    assert exists(split=streamed(examples[:20]))
    assert not exists(split=streamed(examples[20:]))


@pytest.mark.usefixtures("one_device")
@pytest.mark.long
def test_auto_caches_if_the_cache_pays_off_and_a_resumed_run_keeps_the_choice(
    teacher, tmp_path, monkeypatch, capsys
):
    config = _config(teacher, **{"teacher.cache": "auto"})
    launch.run(config, tmp_path / "runs")
    assert "pays off only with more than 9 epochs" in capsys.readouterr().out
    long = _config(teacher, **{"teacher.cache": "auto", "train.epochs": 10})
    launch.preempt(long, tmp_path / "cached", 2)
    assert "teacher cache on: " in capsys.readouterr().out
    # A new run reads the stored embeddings; a run that started without a cache does not.
    launch.preempt(config, tmp_path / "new", 2)
    output = capsys.readouterr().out
    assert "teacher cache on: " in output
    assert "embeddings read from" in output
    for exists in (False, True):
        monkeypatch.setattr(cache.EmbeddingCache, "exists", lambda self, augment, e=exists: e)
        launch.preempt(config, tmp_path / "old", 2 + exists)
        assert "teacher cache off: " in capsys.readouterr().out


@pytest.mark.usefixtures("one_device")
@pytest.mark.long
def test_an_interrupted_cache_is_resumed(teacher, tmp_path, monkeypatch, capsys):
    # Two images per batch.
    monkeypatch.setitem(fill_cache._PIXELS, "cpu", 9 * 8 * 8 * 2)
    launch.preempt(_config(teacher), tmp_path / "run", 0)
    assert launch.run(_config(teacher), tmp_path / "run")[-1].top1 >= 0
    assert "2 of 24 images already cached" in capsys.readouterr().out


def test_a_disk_that_fills_keeps_complete_rows(tmp_path, monkeypatch, capsys):
    mesh, split = parallel.make_mesh(jax.devices()[:1]), _split()
    # Two images per batch.
    monkeypatch.setitem(fill_cache._PIXELS, "cpu", _CROP.views * 8 * 8 * 2)
    embeddings = _cache(*_network(split), [tmp_path], split, mesh)
    write, batches = cache_file.CacheFile.write, iter(range(2))

    def write_two(file, index, rows):
        if next(batches, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, index, rows)

    monkeypatch.setattr(cache_file.CacheFile, "write", write_two)
    with pytest.raises(errors.DiskError, match="No space left"):
        embeddings.load(_CROP, "file")
    monkeypatch.setattr(cache_file.CacheFile, "write", write)
    embeddings.load(_CROP, "file")
    assert "4 of 5 images already cached" in capsys.readouterr().out


@pytest.mark.usefixtures("one_device")
@pytest.mark.long
@pytest.mark.parametrize("place", ["file", "device"])
def test_any_augmentation_with_a_number_of_views_can_be_cached(teacher, tmp_path, capsys, place):
    fields = {"data.views.count": 3, "data.augment": "resized_crop", "data.grey": 0.5}
    fields |= {"data.gaussian_blur": 0.5, "data.views.teacher": "weak"}
    live = _config(teacher, **fields, **{"teacher.cache": "off"})
    launch.run(live, tmp_path / "live")
    launch.run(_config(teacher, **fields, **{"teacher.cache_place": place}), tmp_path / "cached")
    output = capsys.readouterr().out
    assert output.count("embeddings of 3 views per image") == 1
    np.testing.assert_allclose(_losses(tmp_path / "cached"), _losses(tmp_path / "live"), rtol=1e-4)
    # A run with another seed uses the same views.
    other = _config(teacher, **fields, seed=1, **{"teacher.cache_place": place})
    launch.run(other, tmp_path / "other")
    assert "embeddings read from" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_replaced_by_memory(tmp_path, capsys):
    mesh, split = parallel.make_mesh(jax.devices()[:1]), _split()
    (tmp_path / "views").write_text("a file with the name of the folder")
    embeddings = _cache(*_network(split), [tmp_path / "views"], split, mesh)
    assert np.isfinite(embeddings.load(_CROP)["embedding"][0]).all()
    assert "warning: teacher cache: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "fields", "reason"),
    [
        ("at", {}, "'at' may read feature maps"),
        ("kd", {"data.mix": "mixup"}, "mixes each image with another"),
        ("kd", {"data.augment": "random_resized"}, "views do not repeat unless data.views.count"),
        ("kd", {"memory": 100}, "need 0.00 GB, with 0.00 GB free on each device"),
    ],
)
@pytest.mark.usefixtures("one_device")
def test_a_teacher_that_cannot_be_cached_is_refused_or_runs_live(
    teacher, tmp_path, monkeypatch, argument, fields, reason
):
    fields = dict(fields)
    if memory := fields.pop("memory", 0):
        monkeypatch.setattr(parallel, "free_device_bytes", lambda mesh: memory)
    config = _config(teacher, f"smoke,tiny-tiny,{argument}", **fields)
    with pytest.raises(errors.InputError, match=f"teacher.cache is on, but .*{reason}"):
        launch.run(config, tmp_path / "run")
    # The memory is checked after the teacher is trained; all other checks precede the workdir.
    assert (tmp_path / "run").exists() == bool(memory)
    config.teacher.cache = "auto"
    plan = parse(config)
    setting = job.prepare(plan.student)
    _, network = job.load_teacher(plan, tmp_path, setting)
    training = plan.student.training
    place, line = cache_plan.plan(network.cache, recipe.create(training, 10, 24), was_cached=None)
    assert not place
    assert line.startswith("teacher cache off: ")
    assert reason in line


def _cacheable_objectives():
    """Yields name and objective for all objectives that read vectors of the teacher only."""
    for name in objectives.OBJECTIVES:
        options = {"examples": 5, "dim": 4, "queue_size": 8, "negatives": 3}
        options = {k: v for k, v in options.items() if objectives.takes(name, k)}
        objective = objectives.create(name, **options)
        reads_positions = objective.needs_maps or objective.needs_patches
        reads_positions |= objective.needs_second
        if objective.needs_teacher and not reads_positions:
            yield name, objective


@pytest.mark.long
@pytest.mark.parametrize("members", [1, 2])
def test_every_objective_that_needs_no_maps_reads_a_cached_teacher(members, tmp_path):
    mesh, split = parallel.make_mesh(jax.devices()[:1]), _split()
    teachers = [_network(split, seed) for seed in range(members)]
    network, variables = teachers[0]
    terms = dict(_cacheable_objectives())
    assert len(terms) == 25
    if members > 1:
        weights = (0.25, 0.75)
        # srrl takes over the classifier of a single teacher.
        del terms["srrl"]
        network = ensemble.Ensemble(tuple(member for member, _ in teachers), weights)
        variables = {k: tuple(v[k] for _, v in teachers) for k in ("params", "batch_stats")}
        terms = {name: objectives.averaged(name, o, weights) for name, o in terms.items()}
    folders = [tmp_path / str(i) for i in range(members)]
    embeddings = _cache(network, variables, folders, split, mesh).load(_CROP)
    student, optimizer = tiny.NETWORK(num_classes=4), optim.sgd(lambda step: 0.01)

    def create(key, variables):
        return state.create(key, student, terms, optimizer, (8, 8, 1), network, variables)

    start = jax.jit(create, compiler_options=tiny.QUICK)(jax.random.key(0), variables)
    named = {name: Term(objective) for name, objective in terms.items()}
    task = step.Task(student, named, optimizer, _CROP, steps_per_epoch=5)

    @jax.jit
    def losses(start, variables, embeddings, batch):
        batch = step.augmented(task, start, batch)
        return [
            step.total_loss(task, start.params, start, teach(arrays, batch), batch)[1][0]
            for teach, arrays in (
                (step_outputs.live(network), variables),
                (step_outputs.cached(network, _CROP.views, _formats(network)), embeddings),
            )
        ]

    batch = Batch(split.train.images[:4], split.train.labels[:4], np.arange(4))
    live, cached = losses(start, variables, embeddings, batch)
    assert set(live) >= {f"loss/{name}" for name in terms}
    for name, value in live.items():
        np.testing.assert_allclose(cached[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_sharded_table_is_never_gathered(tmp_path):
    mesh, split = parallel.make_mesh(), _split(24)
    network, variables = _network(split)
    embeddings = _cache(network, variables, [tmp_path], split, mesh).load(_CROP)
    indices = np.arange(8, dtype=np.int32)
    placed = parallel.put_batch(mesh, {"index": indices, "view": indices})
    batch = Batch(image=None, label=None, **placed)
    cached = step_outputs.cached(network, _CROP.views, _formats(network))
    text = jax.jit(cached).lower(embeddings, batch).compile().as_text()
    (table,) = embeddings["embedding"]
    collectives = re.findall(
        r"= \w+\[([\d,]*)\].* (?:all-gather|all-reduce|collective-permute)", text
    )
    assert collectives
    rows = {int(shape.split(",")[0]) for shape in collectives if shape}
    assert max(rows) <= 8 < table.shape[0] // mesh.size
