import inspect
import subprocess
import sys

import pytest

from rrd_jax import errors, objectives

_EVERY = pytest.mark.parametrize("name", objectives.RECORDS)


@_EVERY
def test_an_objective_has_the_name_of_its_file_and_options_have_defaults(name):
    factory = objectives.OBJECTIVES[name]
    assert factory.__module__ == f"rrd_jax.objectives.{name}"
    parameters = inspect.signature(factory).parameters
    assert all(option.kind is inspect.Parameter.KEYWORD_ONLY for option in parameters.values())
    assert all(option.default is not inspect.Parameter.empty for option in parameters.values())
    assert set(objectives.RECORDS[name].filled_in) <= set(parameters)
    assert all(objectives.takes(name, option) for option in parameters)


@_EVERY
def test_the_reference_of_a_record_is_in_a_docstring(name):
    record = objectives.RECORDS[name]
    functions = inspect.getmembers(inspect.getmodule(record.factory), inspect.isfunction)
    assert record.compares
    assert name == "ce" or any(record.reference in (f.__doc__ or "") for _, f in functions)


def test_invalid_names_options_and_temperatures_are_refused():
    with pytest.raises(errors.InputError, match="unknown objective 'rrds'; did you mean 'rrd'"):
        objectives.create("rrds")
    with pytest.raises(errors.InputError, match="did you mean 'temperature'"):
        objectives.create("kd", temprature=3.0)
    with pytest.raises(errors.InputError, match="temperature is 0"):
        objectives.create("kd", temperature=0)


def test_importing_the_objectives_imports_no_data_or_checkpoint_library():
    program = (
        "import sys, rrd_jax.objectives\n"
        "heavy = {'tensorflow_datasets', 'grain', 'orbax', 'cv2', 'PIL', 'ml_collections'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
