"""Exceptions in a user's code: the library chains them, commands print their traceback."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

from rrd_jax import data, errors, imports, networks, objectives, optim
from rrd_jax.objectives.batch import Batch
from rrd_jax.terminal import cli
from tests.objectives import toy

_MODULE = """\
import flax.linen as nn
import jax.numpy as jnp
import optax


class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes)(images) + missing_layer


def net(num_classes, width=3):
    return {}[width]


def loss(student, teacher, batch):
    return jnp.mean(student.logits - teacher.logits[:, :3], axis=-1)


def factory(*, power=1):
    return 1 / (power - 1)


def optimizer(learning_rate):
    return optax.sgd(learning_rate, momentun=0.9)


def exits(learning_rate):
    raise SystemExit(3)


def schedule(step):
    return 1.0 if step > 3 else 0.1


class Source:
    num_classes = 3

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return 9

    def __getitem__(self, i):
        return self.images[i], 0
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """The path of a user's module in the working directory, next to two invalid modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "user_module.py").write_text(_MODULE)
    (tmp_path / "user_import.py").write_text("import absent_library\n")
    (tmp_path / "user_syntax.py").write_text("def f(:\n")
    yield tmp_path / "user_module.py"
    for name in ("user_module", "user_import", "user_syntax"):
        sys.modules.pop(name, None)


def _network(path):
    networks.check(networks.create(path, 4), path, 4, (8, 8, 1))


def _loss(path):
    outputs = jax.eval_shape(lambda: toy.outputs(0))
    numbers = jax.ShapeDtypeStruct((8,), jnp.int32)
    batch = Batch(None, numbers, numbers, numbers)
    objectives.check(path, objectives.create(path), outputs, outputs, batch)


def _schedule(path):
    optim.create_schedule(path, learning_rate=0.1, epochs=2, steps_per_epoch=5)


def _source(path):
    data.load(data.Source(path, image_size=8))


# For each case: a function that runs the code, the name in the module, the source line that raises,
# and the start of the last line of the traceback.
_CASES = {
    "network": (_network, "Net", "+ missing_layer", "NameError: name 'missing_layer'"),
    "factory of a network": (_network, "net", "return {}[width]", "KeyError: 3"),
    "loss": (_loss, "loss", "student.logits - teacher.logits[:, :3]", "TypeError: sub got"),
    "objective": (objectives.create, "factory", "return 1 / (power - 1)", "ZeroDivisionError"),
    "optimizer": (lambda path: optim.create(path, 0.1), "optimizer", "momentun=0.9", "TypeError"),
    "exit": (lambda path: optim.create(path, 0.1), "exits", "raise SystemExit(3)", "SystemExit: 3"),
    "schedule": (_schedule, "schedule", "1.0 if step > 3", "jax.errors.TracerBoolConversion"),
    "data": (_source, "Source", "return self.images[i], 0", "AttributeError: 'Source' object"),
}


@pytest.mark.parametrize("case", _CASES)
def test_a_command_prints_only_the_users_part_of_a_traceback(case, module, capsys):
    run, name, source, message = _CASES[case]
    raised = []

    def job():
        try:
            run(f"user_module:{name}")
        except errors.UserCodeError as error:
            raised.append(error)
            raise

    with pytest.raises(SystemExit) as end:
        cli.guard(job)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: ")
    assert "user_module" in lines[0] or "objective" in lines[0]
    assert lines[1] == "Traceback (most recent call last):"
    assert [line for line in lines if line.startswith("  File ")] == [
        line for line in lines if line.startswith(f'  File "{module}"')
    ]
    assert any(source in line for line in lines)
    assert any(line.startswith(message) for line in lines[2:])
    # The user's exception is the cause of the library's.
    cause = raised[0].__cause__
    assert type(cause).__name__ in "\n".join(lines)
    assert not isinstance(cause, errors.InputError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user_import", r'user_import.py", line 1, in .*import absent_library.*No module named'),
        ("user_syntax", r'user_syntax.py", line 1.*def f\(:.*SyntaxError'),
    ],
)
def test_a_failed_import_shows_the_line_that_raised(name, message):
    with pytest.raises(errors.UserCodeError, match=f"(?s)importing objective .*{message}"):
        imports.load("objective", f"{name}:loss")


def test_an_exception_in_a_library_shows_the_frame_of_the_user(tmp_path):
    with pytest.raises(errors.UserCodeError) as caught, errors.user_code("reading", "weights"):
        pathlib.Path(tmp_path, "absent").read_text()
    text = str(caught.value)
    assert text.startswith("reading weights failed:\n")
    assert 'pathlib.Path(tmp_path, "absent").read_text()' in text
    assert text.count("  File ") == 1


def test_library_errors_keep_their_type():
    named = pytest.raises(errors.InputError, match=r"^network 'x': the width is 3$")
    with named as caught, errors.user_code("calling", "network 'x'"):
        raise errors.InputError("the width is 3")
    assert not isinstance(caught.value, errors.UserCodeError)
    with pytest.raises(errors.DiskError), errors.user_code("calling", "network 'x'"):
        raise errors.DiskError("full")
    with pytest.raises(KeyboardInterrupt), errors.user_code("calling", "network 'x'"):
        raise KeyboardInterrupt
