"""Golden files of the objectives on feature maps, and conversions from and to PyTorch's layout."""

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives.parts import adapters
from tests import golden
from tests.objectives import batches


def maps(file, letter):
    """Returns the entries in/s0, in/s1, ... (or in/t0, ...) as maps [B, H, W, C]."""
    count = sum(name.startswith(f"in/{letter}") for name in file)
    return [nhwc(file[f"in/{letter}{i}"]) for i in range(count)]


def nhwc(x):
    return jnp.asarray(golden.to_nhwc(x))


def outputs(taps=(), *, preactivations=(), embedding=None, logits=None, head=()):
    """Returns the Outputs of a network with these taps after a stem of one channel."""
    batch = len(taps[0]) if len(taps) else len(embedding)
    stem = [jnp.zeros((batch, 4, 4, 1))]
    return Outputs(
        jnp.zeros((batch, 3)) if logits is None else jnp.asarray(logits),
        jnp.zeros((batch, 5)) if embedding is None else jnp.asarray(embedding),
        (*stem, *taps),
        (*stem, *(preactivations or taps)),
        head,
    )


def layer_names(layers, conv, norm):
    """Returns {(layer, parameter): PyTorch's name} from PyTorch's module names for each layer."""
    names = {}
    for i, layer in enumerate(layers):
        names[f"layer{i}", "kernel"] = f"{conv[i]}.weight"
        if layer.bias:
            names[f"layer{i}", "bias"] = f"{conv[i]}.bias"
        if layer.norm:
            names[f"layer{i}", "scale"] = f"{norm[i]}.weight"
            names[f"layer{i}", "shift"] = f"{norm[i]}.bias"
    return names


def sequential_names(layers, prefix):
    """Returns `layer_names` for an nn.Sequential that contains all modules and activations."""
    conv, norm, position = [], [], 0
    for layer in layers:
        conv.append(f"{prefix}.{position}")
        norm.append(f"{prefix}.{position + 1}")
        position += 3 if layer.norm else 2
    return layer_names(layers, conv, norm)


def read_params(file, layers, names, prefix="param/"):
    """Returns the parameters of an adapter from the entries under `prefix`."""
    tree = {f"layer{i}": {} for i in range(len(layers))}
    for (layer, parameter), name in names.items():
        value = file[f"{prefix}{name}"]
        if parameter == "kernel":
            value = _kernel(value, layers[int(layer.removeprefix("layer"))])
        tree[layer][parameter] = jnp.asarray(value)
    return tree


def _kernel(value, layer):
    # A linear layer has a weight [out, in].
    if value.ndim == 2:
        return value.T[None, None]
    return np.transpose(value, (2, 3, 0, 1) if layer.transposed else (2, 3, 1, 0))


def running_statistics(file, names, when):
    """Returns the running statistics "before" or "after" the step, as adapters store them."""
    statistics = {}
    for (layer, parameter), name in names.items():
        if parameter == "scale":
            stem = f"buf_{when}/{name.removesuffix('.weight')}.running_"
            statistics[layer] = {key: jnp.asarray(file[f"{stem}{key}"]) for key in ("mean", "var")}
    return statistics


def check_running_statistics(file, layers, params, names, x):
    """Asserts that each batch norm updates its running statistics as PyTorch does."""
    update = jax.jit(adapters.update, static_argnums=0)
    _, moved = update(layers, params, running_statistics(file, names, "before"), x)
    expected = running_statistics(file, names, "after")
    assert expected.keys() == moved.keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), moved, expected)


def jit_value_and_grad(loss):
    """Returns a compiled function for the mean loss and its gradients for both arguments."""
    return jax.jit(jax.value_and_grad(lambda *args: jnp.mean(loss(*args)), argnums=(0, 1)))


def check_close(actual, expected, name="", tolerance=1e-5):
    """Asserts equality up to rounding, relative to the largest expected value (at least 1e-8)."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, name
    bound = tolerance * max(np.abs(expected).max(), 1e-8)
    assert np.abs(actual - expected).max() <= bound, (name, np.abs(actual - expected).max(), bound)


def check_gradients(file, gradients, tolerance=1e-5):
    """Asserts that gradients equal all entries of the file under grad/.

    Args:
      file: the arrays of a golden file.
      gradients: {entry without "grad/": gradient in PyTorch's layout}; no entry may be missing.
      tolerance: relative tolerance; 1e-4 where the file's own error is larger than `tolerance`.
    """
    listed = {name.removeprefix("grad/") for name in file if name.startswith("grad/")}
    assert gradients.keys() == listed
    for name, actual in gradients.items():
        deviation = float(file.get(f"f64dev/grad/{name}", 0.0))
        expected = file[f"grad/{name}"]
        largest = np.abs(expected).max()
        bound = max(tolerance, 1e-4 if deviation > tolerance * largest else 0)
        # The gradient of a bias before a batch norm consists of rounding errors.
        if largest < 1e-6:
            assert np.abs(np.asarray(actual)).max() < 1e-6
        else:
            check_close(actual, expected, name, bound)


def torch_gradients(gradients, layers, names):
    """Returns the gradients of an adapter's parameters under PyTorch's names, in its layout."""
    converted = {}
    for (layer, parameter), name in names.items():
        value = np.asarray(gradients[layer][parameter])
        if parameter == "kernel":
            transposed = layers[int(layer.removeprefix("layer"))].transposed
            value = np.transpose(value, (2, 3, 0, 1) if transposed else (3, 2, 0, 1))
        is_dense = value.shape[2:] == (1, 1) and name.rsplit(".", 2)[-2].startswith("linear")
        converted[f"param/{name}"] = (
            value[..., 0, 0] if parameter == "kernel" and is_dense else value
        )
    return converted


def torch_map_gradients(gradients, letter="s"):
    return {f"in/{letter}{i}": np.transpose(g, (0, 3, 1, 2)) for i, g in enumerate(gradients)}


def check_golden_loss(name, file):
    """Asserts that an objective without parameters has the loss and the gradients of a file."""
    student, teacher = maps(file, "s"), maps(file, "t")
    objective = objectives.create(name)

    def loss(params, student):
        pair = outputs(student), outputs(teacher)
        return objective.loss(objectives.ObjectiveState(params), *pair, batches.NO_BATCH)[0]

    value, (_, gradients) = jit_value_and_grad(loss)((), student)
    check_close(value, file["out/loss"])
    check_gradients(file, torch_map_gradients(gradients))


def check_adapter_loss(file, loss, params, layers, names, student):
    """Asserts that a loss and its gradients for an adapter and a map equal a file.

    Args:
      file: the arrays of a golden file; it must list gradients for all parameters and in/f_s.
      loss: (params, map) -> [B].
      params: the parameters of the adapter.
      layers: the layers of the adapter.
      names: the result of `layer_names`.
      student: the student's map, [B, H, W, C].
    """
    value, (params_gradient, student_gradient) = jit_value_and_grad(loss)(params, student)
    check_close(value, file["out/loss"])
    gradients = torch_gradients(params_gradient, layers, names)
    gradients["in/f_s"] = np.transpose(student_gradient, (0, 3, 1, 2))
    check_gradients(file, gradients)


def read_head(file):
    """Returns the teacher's classifier."""
    return {"kernel": jnp.asarray(file["param/cls_t.weight"].T), "bias": file["param/cls_t.bias"]}


def normal(seed, *shapes):
    """Returns arrays of standard normal values."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def check_golden_stage(objective, file, outputs_of):
    """Asserts that the stage of an objective without parameters has the loss of a file.

    After the stage, the objective's loss must be zero.

    Args:
      objective: an objective with a stage.
      file: the arrays of a golden file.
      outputs_of: a function that returns the Outputs of a network with these maps.
    """
    student, teacher = maps(file, "s"), outputs_of(maps(file, "t"))
    state = objective.init(jax.random.key(0), outputs_of(student), teacher)
    assert not jax.tree.leaves(state)

    def loss(params, student):
        return objective.stage.loss(state, outputs_of(student), teacher, batches.NO_BATCH)[0]

    value, (_, gradients) = jit_value_and_grad(loss)((), student)
    check_close(value, file["out/loss"])
    check_gradients(file, torch_map_gradients(gradients))
    after, _ = objective.loss(state, outputs_of(student), teacher, batches.NO_BATCH)
    np.testing.assert_array_equal(after, np.zeros(4))
    assert (objective.stage.student, objective.stage.epochs) == (True, 30)
    assert objective.stage.learning_rate is None
