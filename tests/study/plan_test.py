import dataclasses
import json
import pathlib

import pytest

from experiments.study import design, plan, records, validation
from rrd_jax import errors

_PAIR = "resnet8x4-resnet8"


def _grid(*factors, **options):
    defaults = {
        "name": "grid",
        "question": "What is best?",
        "config": "configs/digits.py",
        "argument": "smoke",
        "seeds": (0,),
    }
    return design.Grid(**defaults | {"factors": factors} | options)


def _plan(*grids, **options):
    study = design.Study(name="mine", title="Mine", grids=grids)
    validation.check(study)
    return plan.make(study, options.pop("folder", plan.pathlib.Path("none")), **options)


def _runs(planned, grid):
    return [planned.runs[cell.run] for cell in planned.cells if cell.grid == grid]


def test_equal_cells_share_a_run_and_students_share_their_teacher():
    planned = _plan(
        _grid(design.methods("ce", "kd"), name="one", seeds=(0, 1)),
        _grid(design.methods("kd", "rrd"), name="two", seeds=(0, 1), measures=("calibration",)),
    )
    assert len(planned.cells) == 8
    assert len(planned.runs) == 6
    assert len(planned.teachers()) == 1
    common = {run.name: run for run in _runs(planned, "one")}.keys() & {
        run.name for run in _runs(planned, "two")
    }
    assert {planned.runs[name].measures for name in common} == {("predictions", "calibration")}
    # All cells of a seed come before the next seed.
    assert [cell.seed for cell in planned.cells[:4]] == [0, 0, 1, 1]


def test_several_teachers_are_trained_once_and_shared_with_runs_of_one_teacher():
    pairs = design.pairs("resnet8x4-resnet8", "resnet8x4+resnet14-resnet8")
    planned = _plan(_grid(design.methods("kd"), pairs))
    single, several = planned.runs.values()
    assert len(several.teachers) == 2
    assert single.teachers[0] in several.teachers
    assert len(planned.teachers()) == 2


def test_set_inserts_the_names_of_the_networks(tmp_path):
    first, second = (str(tmp_path / f"{name}-resnet8.pth") for name in ("resnet8x4", "resnet14"))
    for path in (first, second):
        pathlib.Path(path).touch()
    pairs = design.pairs("resnet8x4-resnet8", "resnet8x4+resnet14-resnet8")
    fields = [f"teacher.checkpoint={tmp_path}/{{teacher}}-{{student}}.pth"]
    planned = _plan(_grid(design.methods("kd"), pairs), fields=fields)
    teachers = [run.teachers for run in planned.runs.values()]
    assert teachers == [(first,), (first, second)]
    assert not planned.teachers()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.epochs", "is not FIELD=VALUE"),
        ("seed=1", "the study defines methods and seeds"),
        ("data.pad=2", "grid 'grid' varies this field; leave"),
        ("train.epoch=2", r"cell grid/0/seed0: unknown field 'train.epoch'; did you mean"),
        ("train.epochs=two", "cell grid/0/seed0: field train.epochs cannot be 'two'"),
        ("train.epochs=-1", "cell grid/0/seed0: train.epochs is -1, but must be"),
        ("teacher.checkpoint=w/{foo}.pth", r"has the unknown placeholder \{foo\}; use"),
        ("teacher.checkpoint=nothing", "teacher.checkpoint is 'nothing', which does not exist"),
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
    planned = _plan(first, second)
    starts = {cell.run: cell for cell in planned.cells if cell.grid == "first"}
    followers = [cell for cell in planned.cells if cell.grid == "second"]
    assert len(followers) == 4
    for cell in followers:
        start = starts[planned.runs[cell.run].follows]
        assert (start.seed, start.levels["method"]) == (cell.seed, cell.levels["method"])
    part = planned.only(["second/rrd/*/seed1"])
    assert [name in starts for name in part.runs] == [True, False]


def test_only_accepts_patterns_of_cells():
    planned = _plan(_grid(design.methods("ce", "kd", "rrd"), seeds=(0, 1)))
    assert len(planned.only(["grid/*d"]).runs) == 4
    assert len(planned.only(["grid/ce", "*/seed1"]).runs) == 4
    assert planned.only([]).runs == planned.runs
    with pytest.raises(
        errors.InputError, match=r"--only=x matches none of the 6 cells; known: .*grid/ce"
    ):
        planned.only(["x"])
    assert len(_plan(_grid(design.methods("ce")), seeds=3).runs) == 3


def test_only_accepts_a_name_that_looks_like_a_pattern():
    planned = _plan(_grid(design.field("data.mean", [0.3], [0.2]), compared="mean"))
    assert len(planned.only(["grid/[0.3]"]).runs) == 1


def test_the_name_of_a_folder_depends_on_fields_that_differ_from_the_defaults():
    (run,) = _plan(_grid(design.methods("kd"))).runs
    (equal,) = _plan(_grid(design.methods("kd"), fields={"train.log_every": 7})).runs
    (other,) = _plan(_grid(design.methods("kd"), fields={"train.epochs": 7})).runs
    assert run == equal
    assert run.rpartition("-")[0] == other.rpartition("-")[0] == f"digits-{_PAIR}-kd-smoke-seed0"
    assert run != other


def test_the_use_of_the_teacher_cache_does_not_depend_on_the_order_of_runs():
    grid = _grid(design.field("train.epochs", 9, 10), argument="smoke,kd", compared="epochs")
    caches = [run.job.student.training.teacher_cache.use for run in _plan(grid).runs.values()]
    # The recipe has 9 views.
    assert caches == ["off", "auto"]


_HEAD = "from experiments.study import design\n"
_GET = "def get_study(argument=''):\n    return "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_study(", r"mine.py.*SyntaxError: '\(' was never closed"),
        ("x = 1", r"mine.py does not define get_study\(argument\)"),
        (f"{_GET}3", "get_study returned int, but must return a Study"),
        (f"{_GET}1 / 0", "mine.py.*ZeroDivisionError: division by zero"),
        ("raise SystemExit('no')", "mine.py.*SystemExit: no"),
        (f"{_HEAD}{_GET}design.Study('a/b', 'x')", "study name 'a/b' is invalid; use one word"),
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
def test_an_invalid_study_file_is_refused_with_one_line(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(errors.InputError, match=f"(?s){message}"):
        plan.load(str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": (design.methods("ce", "rrds"),)}, "cell grid/rrds/seed0: .* mean 'rrd'"),
        ({"config": "configs/none.py"}, "cell grid/ce/seed0: .* configs/none.py does not exist"),
        ({"baseline": "kd"}, "baseline 'kd', which is not a level of method; known: ce"),
        ({"compared": "pair"}, "unknown factor of grid 'grid' 'pair'"),
        ({"measures": ("predictionz",)}, "unknown measure 'predictionz'; did you mean"),
        ({"follows": "grid"}, "follows 'grid'"),
        ({"seeds": ()}, "set one or more different seeds"),
        ({"display": "pie"}, "unknown display 'pie'"),
        ({"display": "map"}, "display 'map', which needs two numeric factors, but has none"),
        ({"display": "curve"}, "display 'curve', which needs a numeric factor"),
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
def test_an_invalid_grid_is_refused_before_any_run_starts(options, message):
    grid = dataclasses.replace(_grid(design.methods("ce")), **options)
    with pytest.raises(errors.InputError, match=message):
        _plan(grid)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(a):\n    return 3", "get_config.* returns int"),
        ("x = 1", "does not define get_config"),
    ],
)
def test_the_error_of_a_launch_file_names_the_cell(tmp_path, text, message):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(errors.InputError, match=f"(?s)cell grid/ce/seed0: .*{message}"):
        _plan(_grid(design.methods("ce"), config=str(path)))


def test_an_option_of_an_objective_is_set_only_in_runs_with_the_objective(tmp_path):
    study = design.comparison("configs/digits.py:smoke", ["ce", "rrd"], seeds=1)
    planned = plan.make(study, tmp_path, fields=["objectives.rrd.dim=8"], platform="cpu")
    options = [
        {choice.name: choice.options.get("dim") for choice in run.job.student.training.objectives}
        for run in planned.runs.values()
    ]
    assert options == [{"ce": None}, {"ce": None, "rrd": 8}]
    with pytest.raises(errors.InputError, match="objectives.crd.dim: no run has this objective"):
        plan.make(study, tmp_path, fields=["objectives.crd.dim=8"], platform="cpu")


def test_a_level_that_is_not_a_method_is_refused(tmp_path):
    study = design.comparison("configs/digits.py", ["ce", "smoke"], seeds=1)
    with pytest.raises(errors.InputError, match="'smoke' is not a method"):
        plan.make(study, tmp_path, platform="cpu")


def test_a_record_has_levels_in_the_order_of_the_factors_as_published_values_require(tmp_path):
    study = plan.load("experiments/studies/benchmark.py:vgg13-vgg8,ce,rrd")
    plan.make(study, tmp_path, seeds=1, platform="cpu").write()
    (grid,) = records.read(tmp_path).grids
    cells = [tuple(run.levels.values()) for run in grid.runs]
    assert cells == [("vgg13-vgg8", "ce"), ("vgg13-vgg8", "rrd")]
    assert [grid.published[cell] for cell in cells] == [70.36, 73.99]


def _halving():
    methods, weights = design.methods("ce", "kd"), design.scales("weight", 0.5, 1.0, 2.0)
    first = _grid(
        methods, weights, name="first", seeds=(7, 8), metric="val/top1", compared="method"
    )
    best = design.Selection("first", "weight", 2)
    second = dataclasses.replace(first, name="second", selection=best, fields={"train.epochs": 9})
    last = _grid(methods, weights, name="last", selection=design.Selection("second", "weight"))
    return first, second, last


def _finish(planned, folder, top1):
    """Writes the last metrics of each run of a study; `top1` maps a run's weights to accuracy."""
    for run in planned.runs.values():
        weights = {o.name: o.weight for o in run.job.student.training.objectives}
        value = top1(weights)
        path = folder / "runs" / run.name
        path.mkdir(parents=True, exist_ok=True)
        if value is None:
            (path / records.FAILED).write_text('{"error": "diverged", "launch": "x"}')
        else:
            row = {"epoch": run.epochs, "val/top1": value}
            (path / "metrics.jsonl").write_text(json.dumps(row))


def test_a_selection_runs_the_best_levels_of_an_earlier_grid_for_each_method(tmp_path):
    grids = _halving()
    planned = _plan(*grids, folder=tmp_path)
    assert len(planned.cells) == 2 * 3 * 2
    # The weight of kd is scaled, and that of ce only if it is the only objective.
    kd = [r for r in _runs(planned, "first") if len(r.job.student.training.objectives) == 2]
    weights = [{o.name: o.weight for o in r.job.student.training.objectives} for r in kd[:3]]
    assert [(x["ce"], x["kd"]) for x in weights] == [(0.1, 0.45), (0.1, 0.9), (0.1, 1.8)]
    # Doubled weights fail for ce; kd is best with a doubled weight.
    _finish(planned, tmp_path, lambda x: x.get("kd") or (x["ce"] if x["ce"] < 2 else None))
    planned = _plan(*grids, folder=tmp_path)
    assert planned.selected["second"] == {"ce": ["1", "0.5"], "kd": ["2", "1"]}
    assert {cell.grid for cell in planned.cells} == {"first", "second"}
    _finish(planned, tmp_path, lambda x: x.get("kd") or (x["ce"] if x["ce"] < 2 else None))
    planned = _plan(*grids, folder=tmp_path)
    last = [cell for cell in planned.cells if cell.grid == "last"]
    assert [dict(cell.levels) for cell in last] == [{"method": "ce"}, {"method": "kd"}]
    weights = [r.job.student.training.objectives[-1].weight for r in _runs(planned, "last")]
    assert weights == [1, 1.8]
    planned.write()
    record = records.read(tmp_path).grids[-1]
    assert record.selected["levels"] == {"ce": ["1"], "kd": ["2"]}
    assert [factor["name"] for factor in record.factors] == ["method"]


def test_other_numbers_of_seeds_leave_the_seeds_of_a_selection_alone(tmp_path):
    planned = _plan(*_halving(), folder=tmp_path, seeds=3)
    assert {cell.seed for cell in planned.cells if cell.grid == "first"} == {7, 8}


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (design.Selection("none", "weight"), "unknown grid to select from, before 'last' 'none'"),
        (design.Selection("last", "weight"), "unknown grid to select from"),
        (design.Selection("first", "width"), "grid 'first' has no factor 'width'"),
        (design.Selection("first", "weight", 0), "selects 0 levels"),
    ],
)
def test_a_selection_that_is_impossible_is_refused(selection, message):
    first, _, last = _halving()
    with pytest.raises(errors.InputError, match=message):
        _plan(first, dataclasses.replace(last, selection=selection))
