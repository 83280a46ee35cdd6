import dataclasses

import pytest

from experiments.study import design, plan, records, validation
from rrd_jax import errors

_PAIR = "resnet8x4-resnet8"


def _grid(*factors, **options):
    given = {"name": "grid", "question": "What is best?", "config": "configs/digits.py"}
    return design.Grid(**given | {"factors": factors, "argument": "smoke", "seeds": (0,)} | options)


def _plan(*grids, **options):
    study = design.Study(name="mine", title="Mine", grids=grids)
    validation.check(study)
    return plan.make(study, options.pop("folder", plan.pathlib.Path("none")), **options)


def _runs(made, grid):
    return [made.runs[cell.run] for cell in made.cells if cell.grid == grid]


def test_cells_that_are_the_same_run_share_it_and_students_share_their_teacher():
    made = _plan(
        _grid(design.methods("ce", "kd"), name="one", seeds=(0, 1)),
        _grid(design.methods("kd", "rrd"), name="two", seeds=(0, 1), measures=("calibration",)),
    )
    assert len(made.cells) == 8
    assert len(made.runs) == 6
    assert len(made.teachers()) == 1
    both = {run.name: run for run in _runs(made, "one")}.keys() & {
        run.name for run in _runs(made, "two")
    }
    assert {made.runs[name].measures for name in both} == {("predictions", "calibration")}
    assert [cell.seed for cell in made.cells[:4]] == [0, 0, 1, 1]  # a seed is whole first


def test_several_teachers_are_trained_once_each_and_shared_with_those_who_have_one():
    pairs = design.pairs("resnet8x4-resnet8", "resnet8x4+resnet14-resnet8")
    made = _plan(_grid(design.methods("kd"), pairs))
    one, several = made.runs.values()
    assert len(several.teachers) == 2
    assert one.teachers[0] in several.teachers
    assert len(made.teachers()) == 2


def test_set_names_the_networks_of_each_cell():
    pairs = design.pairs("resnet8x4-resnet8", "resnet8x4+resnet14-resnet8")
    fields = ["teacher.checkpoint=weights/{teacher}-{student}.pth"]
    made = _plan(_grid(design.methods("kd"), pairs), fields=fields)
    given = [run.teachers for run in made.runs.values()]
    first, second = (f"weights/{name}-resnet8.pth" for name in ("resnet8x4", "resnet14"))
    assert given == [(first,), (first, second)]
    assert not made.teachers()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.epochs", "is not FIELD=VALUE"),
        ("seed=1", "the study says what methods and seeds"),
        ("data.pad=2", "grid 'grid' varies this field itself"),
        ("train.epoch=2", r"cell grid/0/seed0: unknown field 'train.epoch'; did you mean"),
        ("train.epochs=two", "cell grid/0/seed0: field train.epochs cannot be 'two'"),
        ("train.epochs=-1", "cell grid/0/seed0: train.epochs is -1, but must be"),
    ],
)
def test_a_field_that_cannot_be_set_is_refused_with_the_cell(text, message):
    grid = _grid(design.field("data.pad", 0, 1), compared="pad")
    with pytest.raises(errors.InputError, match=message):
        _plan(grid, fields=[text])


def test_a_grid_that_follows_another_starts_from_its_runs_of_the_same_seed():
    first = _grid(design.methods("ce", "rrd"), name="first", seeds=(0, 1))
    probe = design.field("student.freeze", "backbone", name="frozen")
    second = _grid(probe, name="second", seeds=(0, 1), argument="smoke,ce", follows="first")
    made = _plan(first, second)
    before = {cell.run: cell for cell in made.cells if cell.grid == "first"}
    after = [cell for cell in made.cells if cell.grid == "second"]
    assert len(after) == 4
    for cell in after:
        start = before[made.runs[cell.run].after]
        assert (start.seed, start.levels["method"]) == (cell.seed, cell.levels["method"])
    part = made.only(["second/rrd/*/seed1"])
    assert [name in before for name in part.runs] == [True, False]


def test_only_takes_patterns_of_cells():
    made = _plan(_grid(design.methods("ce", "kd", "rrd"), seeds=(0, 1)))
    assert len(made.only(["grid/*d"]).runs) == 4
    assert len(made.only(["grid/ce", "*/seed1"]).runs) == 4
    assert made.only([]).runs == made.runs
    with pytest.raises(errors.InputError, match=r"--only=x fits none of the 6 cells, .* grid/ce"):
        made.only(["x"])
    assert len(_plan(_grid(design.methods("ce")), seeds=3).runs) == 3


def test_only_takes_a_name_that_looks_like_a_pattern():
    made = _plan(_grid(design.field("data.mean", [0.3], [0.2]), compared="mean"))
    assert len(made.only(["grid/[0.3]"]).runs) == 1


def test_a_folder_is_named_after_what_differs_from_the_defaults():
    (run,) = _plan(_grid(design.methods("kd"))).runs
    (same,) = _plan(_grid(design.methods("kd"), fields={"train.log_every": 7})).runs
    (other,) = _plan(_grid(design.methods("kd"), fields={"train.epochs": 7})).runs
    assert run == same
    assert run.rpartition("-")[0] == other.rpartition("-")[0] == f"digits-{_PAIR}-kd-smoke-seed0"
    assert run != other


def test_whether_a_cached_teacher_is_used_does_not_depend_on_the_order_of_runs():
    grid = _grid(design.field("train.epochs", 9, 10), argument="smoke,kd", compared="epochs")
    caches = [run.job.student.training.teacher_cache.use for run in _plan(grid).runs.values()]
    assert caches == ["off", "auto"]  # of 9 views


_HEAD = "from experiments.study import design\n"
_GET = "def get_study(argument=''):\n    return "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_study(", r"mine.py.*SyntaxError: '\(' was never closed"),
        ("x = 1", r"mine.py must define get_study\(argument\)"),
        (f"{_GET}3", "get_study returned int, but must return a Study"),
        (f"{_GET}1 / 0", "mine.py.*ZeroDivisionError: division by zero"),
        ("raise SystemExit('no')", "mine.py.*SystemExit: no"),
        (f"{_HEAD}{_GET}design.Study('a/b', 'x')", "the study is called 'a/b'; give it one word"),
        (f"{_HEAD}{_GET}design.Study('a', 'x')", "has no grids"),
        (
            f"{_HEAD}{_GET}design.Study('a', 'x', (design.Grid('g', '?', design.methods('ce')),))",
            r"factors of grid 'g' are Factor\(.*, but must be a tuple of Factor",
        ),
        (
            f"{_HEAD}{_GET}design.Study('a', 'x', (design.Grid('g', '?', (), seeds=3),))",
            "seeds of grid 'g' are 3, but must be a tuple of int",
        ),
    ],
)
def test_what_is_wrong_with_the_file_of_a_study_is_a_line(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(errors.InputError, match=f"(?s){message}"):
        plan.load(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": (design.methods("ce", "rrdd"),)}, "cell grid/rrdd/seed0: .* mean 'rrd'"),
        ({"config": "configs/none.py"}, "cell grid/ce/seed0: there is no file configs/none.py"),
        ({"baseline": "kd"}, "'kd', its baseline, which is none of the levels of method: ce"),
        ({"compared": "pair"}, "unknown factor of grid 'grid' 'pair'"),
        ({"measures": ("predictionz",)}, "unknown measure 'predictionz'; did you mean"),
        ({"follows": "grid"}, "follows 'grid'"),
        ({"seeds": ()}, "give some, each once"),
        ({"shown": "pie"}, "unknown way to show a grid 'pie'"),
        ({"shown": "map"}, "'grid' is shown as a map, which takes two factors .* but has none"),
        ({"shown": "curve"}, "shown as a curve, which takes a factor whose levels are numbers"),
        ({"factors": (design.field("method", "ce"),)}, "only a name; use design.methods"),
        (
            {"factors": (design.field("seed", 1, 2),), "compared": "seed"},
            "both seeded and factor 'seed' set the field 'seed'",
        ),
        (
            {"factors": (design.field("data.pad", 0), design.field("data.pad", 1, name="other"))},
            "both factor 'pad' and factor 'other' set the field 'data.pad'",
        ),
    ],
)
def test_what_is_wrong_with_a_grid_is_said_before_anything_starts(options, message):
    grid = dataclasses.replace(_grid(design.methods("ce")), **options)
    with pytest.raises(errors.InputError, match=message):
        _plan(grid)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(a):\n    return 3", "get_config.* returns int"),
        ("x = 1", "must define get_config"),
    ],
)
def test_a_launch_file_that_cannot_be_run_is_named_with_its_cell(tmp_path, text, message):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(errors.InputError, match=f"(?s)cell grid/ce/seed0: .*{message}"):
        _plan(_grid(design.methods("ce"), config=str(path)))


def test_an_option_of_an_objective_is_set_where_the_objective_is(tmp_path):
    study = design.comparison("configs/digits.py:smoke", ["ce", "rrd"], seeds=1)
    made = plan.make(study, tmp_path, fields=["objectives.rrd.dim=8"], platform="cpu")
    options = [
        {choice.name: choice.options.get("dim") for choice in run.job.student.training.objectives}
        for run in made.runs.values()
    ]
    assert options == [{"ce": None}, {"ce": None, "rrd": 8}]
    with pytest.raises(errors.InputError, match="objectives.crd.dim: no run has that objective"):
        plan.make(study, tmp_path, fields=["objectives.crd.dim=8"], platform="cpu")


def test_a_level_of_methods_that_is_none_is_refused(tmp_path):
    study = design.comparison("configs/digits.py", ["ce", "smoke"], seeds=1)
    with pytest.raises(errors.InputError, match="'smoke' is no method"):
        plan.make(study, tmp_path, platform="cpu")


def test_levels_are_read_back_in_the_order_of_the_factors_which_published_figures_have(tmp_path):
    study = plan.load("experiments/studies/benchmark.py:vgg13-vgg8,ce,rrd")
    plan.make(study, tmp_path, seeds=1, platform="cpu").write()
    (grid,) = records.read(tmp_path).grids
    cells = [tuple(run.levels.values()) for run in grid.runs]
    assert cells == [("vgg13-vgg8", "ce"), ("vgg13-vgg8", "rrd")]
    assert [grid.published[cell] for cell in cells] == [70.36, 73.99]
