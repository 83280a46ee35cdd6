"""What can be shown, sorted and asked of runs."""

import csv
import io
import json

import pytest

from rrd_jax import errors
from rrd_jax.runs import columns, conditions, forms, reading
from tests.runs import made


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made.run(folder / "kd" / "seed2", method="kd", seed=2, top1=60.0, objectives={"kd": {}})
    made.run(folder / "kd" / "seed10", method="kd", seed=10, top1=70.0, objectives={"kd": {}})
    made.run(folder / "rrd+kd" / "seed0", method="rrd+kd", top1=80.0)
    teachers = [{"model": "resnet8x4"}, {"model": "vgg8"}]
    made.run(folder / "two teachers", teacher=teachers, top1=65.0, epochs=2)
    made.silent(folder / "two teachers")
    broken = made.run(folder / "broken", epochs=0)
    (broken / "config.json").write_text("null")
    return reading.read(str(folder))[0]


def _asked(runs, text):
    condition = conditions.parse(text, columns.Names(runs))
    return sorted(run.place.name for run in runs if condition(run))


_KD2, _KD10, _RRD, _TWO, _BROKEN = "kd/seed2", "kd/seed10", "rrd+kd/seed0", "two teachers", "broken"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("method=kd", [_KD10, _KD2]),
        ("method==kd and seed<3", [_KD2]),
        ("method = kd AND seed >= 3", [_KD10]),
        ("seed<10", [_KD2, _RRD, _TWO]),  # as numbers: as texts 2 is behind 10
        ("seed=2.0", [_KD2]),
        ("seed=10 or top1>75", [_KD10, _RRD]),
        ("not (seed=10 or top1>75) and state=done", [_KD2]),
        ("not method=kd", [_BROKEN, _RRD, _TWO]),
        ("method!=kd", [_BROKEN, _RRD, _TWO]),
        ("method=*kd", [_KD10, _KD2, _RRD]),
        ("method~RRD", [_RRD, _TWO]),
        ("name='two teachers'", [_TWO]),
        ('"name" = "two teachers"', [_TWO]),
        ("pair=resnet8x4-resnet8", [_KD10, _KD2, _RRD]),
        ("pair=resnet8x4+vgg8-resnet8", [_TWO]),
        ("teacher.model=vgg8", [_TWO]),
        ("teacher.model!=vgg8", [_BROKEN, _KD10, _KD2, _RRD]),
        ("teacher[1].model=vgg8", [_TWO]),
        ("optimizer.learning_rate=0.05 and seed=2", [_KD2]),
        ("optimizer.learning_rate=5e-2 and seed=2", [_KD2]),
        ("optimizer.nesterov=true", []),
        ("optimizer.nesterov=False and seed=2", [_KD2]),
        ("objectives.rrd.temperature_teacher<0.1", [_RRD, _TWO]),
        ("objectives.rrd.temperature_student=none and top1>75", [_RRD]),
        ("data.train_split=train[:200] and seed=2", [_KD2]),
        ("data.train_split=train[*] and seed=2", [_KD2]),
        ("data.mean=0.3 and seed=2", [_KD2]),
        ("config.seed=10", [_KD10]),
        ("test/loss<1.5", [_KD10, _RRD]),
        ("state=damaged", [_BROKEN]),
        ("state=d*", [_BROKEN, _KD10, _KD2, _RRD, _TWO]),
        ("state=died", [_TWO]),
        ("why~json", [_BROKEN]),
        ("why=none and seed=2", [_KD2]),
        ("age>1d and size<1MB", [_TWO]),
        ("age<2H and top1>75 and size>0.1kb", [_RRD]),
        ("epoch<3 and epochs=3", [_TWO]),
        ("(((seed=2)))", [_KD2]),
        ("seed=text", []),
        ("seed<-1", []),
    ],
)
def test_conditions_choose_runs(runs, text, names):
    assert _asked(runs, text) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it ends where the name of a column is missing"),
        ("seed", "it ends where a comparison of 'seed' is missing"),
        ("seed<", "it ends where a value behind 'seed<' is missing"),
        ("seed 3", "'seed' is followed by '3', and not by ="),
        ("seed=<3", "there is no value behind 'seed='"),
        ("=3", "there is no name before '='"),
        ("(seed=3", "a '\\)' is missing"),
        ("seed=3)", "'\\)' does not follow"),
        ("seed=3 method=kd", "'method' does not follow"),
        ("seed=3 and", "it ends where the name"),
        ("name='a", "what ''a' means is not known"),
        ("seed!3", "what '!3' means is not known"),
        ("(" * 50_000, "nested too deeply"),
        ("sede=3", "no run has 'sede'; did you mean 'seed'\\?"),
        ("optimizer.learningrate=3", "did you mean 'optimizer.learning_rate'\\?"),
        ("test/los<3", "did you mean 'test/loss'\\?"),
        ("optimizer=3", "no run has 'optimizer'"),  # a section, and no field
        ("state=dead", "state is never 'dead'; did you mean 'died'\\?"),
        ("seed<few", "seed is a number \\(.* in one run\\), and 'few' is none"),
    ],
)
def test_what_is_no_condition_is_told_in_a_line(runs, text, message):
    with pytest.raises(errors.InputError, match=message) as error:
        _asked(runs, text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["name"], [_BROKEN, _KD2, _KD10, _RRD, _TWO]),  # seed2 before seed10
        (["-top1"], [_RRD, _KD10, _TWO, _KD2, _BROKEN]),  # what has no value comes last
        (["top1"], [_KD2, _TWO, _KD10, _RRD, _BROKEN]),
        (["state", "-name"], [_RRD, _KD10, _KD2, _TWO, _BROKEN]),  # running ones would be first
        (["method", "-seed"], [_KD10, _KD2, _TWO, _RRD, _BROKEN]),
    ],
)
def test_runs_are_sorted(runs, names, order):
    ordered = columns.ordered(runs, names, columns.Names(runs))
    assert [run.place.name for run in ordered] == order


def test_the_runs_in_a_folder_follow_it(tmp_path):
    for name in ("a", "a2", "a10", "a/teacher", "a/alone"):
        made.run(tmp_path / name)
    runs, _ = reading.read(str(tmp_path))
    ordered = columns.ordered(runs, ["name"], columns.Names(runs))
    assert [run.place.name for run in ordered] == ["a", "a/alone", "a/teacher", "a2", "a10"]


def test_columns_are_those_asked_for(runs):
    names = columns.Names(runs)
    shown = [column.name for column in names.columns(["name", " test/loss", "seed", "name"])]
    assert shown == ["name", "test/loss", "seed"]
    more = [column.name for column in names.columns(["+optimizer.learning_rate", "role"])]
    assert more == [*columns.USUAL, "optimizer.learning_rate", "role"]
    with pytest.raises(errors.InputError, match="no run has 'nane'; did you mean 'name'"):
        names.columns(["nane"])


def _table(runs, room=None):
    names = columns.Names(runs)
    ordered = columns.ordered(runs, ["name"], names)
    return forms.table(ordered, names.columns(columns.USUAL), room, drops=True)


def test_a_file_has_the_whole_table(runs):
    text, notes = _table(runs)
    header, _, _, row, *_ = [
        [cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines()
    ]
    assert header == list(columns.USUAL)
    assert row[:9] == [
        *("kd/seed2", "resnet8x4-resnet8", "kd", "digits", "2", "3/3", "60.00", "61.00 (1)"),
        "done",
    ]
    assert not notes


@pytest.mark.parametrize("room", [120, 100, 80, 60, 40])
def test_a_screen_leaves_out_what_matters_least_and_says_so(runs, room):
    text, notes = _table([run for run in runs if run.state != "damaged"], room)
    assert max(map(len, text.splitlines())) <= room
    assert "two teachers" in text
    if room == 80:
        assert {"name", "epoch", "top1", "state"} <= set(text.splitlines()[0].split())
        assert notes[0] == "the same for all: data digits"
        assert notes[1] == "no room for size, pair; --columns has them"


def test_the_middle_of_a_long_name_is_left_out_on_a_screen_alone(tmp_path):
    name = "digits-resnet8x4-resnet8-rrd+kd-seed3-a88e575eda" * 2
    made.run(tmp_path / name)
    runs, _ = reading.read(str(tmp_path))
    text, _ = _table(runs, 80)
    assert f"{name[:13]}...{name[-24:]} | " in text
    assert f" {name} " in _table(runs)[0]
    assert {"method", "epoch", "top1"} <= set(text.splitlines()[0].split())


def test_csv_and_json_have_numbers(runs):
    names = columns.Names(runs)
    chosen = names.columns(["name", "seed", "top1", "data.mean", "why", "optimizer.nesterov"])
    records = forms.records(columns.ordered(runs, ["-top1"], names), chosen)
    assert json.loads(forms.as_json(records))[0] == {
        "name": _RRD,
        "seed": 0,
        "top1": 80.0,
        "data.mean": [0.3],
        "why": None,
        "optimizer.nesterov": False,
    }
    text = forms.as_csv([column.name for column in chosen], records)
    first = next(iter(csv.DictReader(io.StringIO(text))))
    assert list(first.values()) == [_RRD, "0", "80.0", "[0.3]", "", "false"]


def test_a_number_that_json_lacks_is_null(runs):
    column = columns.Column("x", lambda run: float("nan"))
    assert forms.records(runs[:1], [column]) == [{"x": None}]


def test_a_summary_counts_states(runs):
    assert forms.summary(runs, 5) == "5 runs: 3 done, 1 died, 1 damaged"
    assert forms.summary(runs[:0], 5) == "0 of 5 runs"
