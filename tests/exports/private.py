"""An export format for tests: a file that names a function in this process."""

import contextlib
import json
import sys
import types

import jax
import numpy as np
import pytest

from rrd_jax import errors, exports
from rrd_jax.exports import headers, interface

FUNCTIONS = []


class _Runtime:
    runtime = "tests 1.0"

    def __init__(self, path):
        content = json.loads(path.read_text())
        self.about = headers.from_json(json.dumps(content["header"]), str(path)).about
        self._function = FUNCTIONS[content["function"]]

    def __call__(self, images):
        images = interface.normalized(self.about, images)
        return {name: np.array(v) for name, v in self._function(images).items()}


def write(exportable, path, options):
    """Implements `Format.write`."""
    header = headers.Header(exportable.about, "private", "NHWC", "float32", ("logits", "embedding"))
    function = jax.jit(exportable.function(options))
    FUNCTIONS.append(function)
    content = {"function": len(FUNCTIONS) - 1, "header": json.loads(headers.to_json(header))}
    path.write_text(json.dumps(content))


def open_file(path, threads):
    """Implements `Format.open`."""
    del threads
    try:
        return _Runtime(path)
    except (IndexError, KeyError, ValueError) as error:
        raise errors.InputError(f"{path} is damaged") from error


FORMAT = interface.Format(
    name="private",
    extension=".private",
    extra="tests",
    modules=(),
    options=("fold", "quantize"),
    write=write,
    open=open_file,
    recognizes=lambda path: path.is_file() and path.suffix == ".private",
)


@contextlib.contextmanager
def replaced_formats(*forms):
    """Replaces all formats within the context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "FORMATS", tuple(form.name for form in forms))
        for form in forms:
            module = types.SimpleNamespace(FORMAT=form)
            patch.setitem(sys.modules, f"rrd_jax.exports.{form.name}", module)
        yield


@contextlib.contextmanager
def registered(**changes):
    """Makes `private`, with fields replaced by `changes`, the only format within the context."""
    form = FORMAT._replace(**changes)
    with replaced_formats(form):
        yield form


def faulty_write(change, output="logits"):
    """Returns a `write` function whose files return one output changed by a function."""

    def write_wrong(exportable, path, options):
        write(exportable, path, options)
        correct = FUNCTIONS[-1]

        def wrong(images):
            outputs = dict(correct(images))
            outputs[output] = change(np.array(outputs[output]))
            return outputs

        FUNCTIONS[-1] = wrong

    return write_wrong
