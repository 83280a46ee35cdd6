"""Golden files of the objectives on feature maps: PyTorch's layouts to ours and back."""

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives.parts import adapters
from tests import golden
from tests.objectives import batches


def maps(file, letter):
    """The maps in/s0, in/s1, ... as [B, H, W, C]."""
    count = sum(name.startswith(f"in/{letter}") for name in file)
    return [nhwc(file[f"in/{letter}{i}"]) for i in range(count)]


def nhwc(x):
    return jnp.asarray(golden.to_nhwc(x))


def outputs(taps=(), *, preactivations=(), embedding=None, logits=None, head=()):
    """The Outputs of a network with these taps behind its stem (of 1 channel)."""
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
    """{(layer, ours): PyTorch's name}, given PyTorch's names of the modules of each layer."""
    names = {}
    for i, layer in enumerate(layers):
        names[f"layer{i}", "kernel"] = f"{conv[i]}.weight"
        if layer.bias:
            names[f"layer{i}", "bias"] = f"{conv[i]}.bias"
        if layer.norm:
            names[f"layer{i}", "scale"] = f"{norm[i]}.weight"
            names[f"layer{i}", "shift"] = f"{norm[i]}.bias"
    return names


def sequential(layers, prefix):
    """PyTorch's names where all modules, activations too, are in one nn.Sequential."""
    conv, norm, position = [], [], 0
    for layer in layers:
        conv.append(f"{prefix}.{position}")
        norm.append(f"{prefix}.{position + 1}")
        position += 3 if layer.norm else 2
    return layer_names(layers, conv, norm)


def read(file, layers, names, prefix="param/"):
    """A tree shaped as an adapter's parameters, of the entries under `prefix`."""
    tree = {f"layer{i}": {} for i in range(len(layers))}
    for (layer, own), name in names.items():
        value = file[f"{prefix}{name}"]
        if own == "kernel":
            value = _kernel(value, layers[int(layer.removeprefix("layer"))])
        tree[layer][own] = jnp.asarray(value)
    return tree


def _kernel(value, layer):
    if value.ndim == 2:  # a linear layer
        return value.T[None, None]
    return np.transpose(value, (2, 3, 0, 1) if layer.transposed else (2, 3, 1, 0))


def running(file, names, when):
    """Running statistics before or after, shaped as ours."""
    found = {}
    for (layer, own), name in names.items():
        if own == "scale":
            stem = f"buf_{when}/{name.removesuffix('.weight')}.running_"
            found[layer] = {key: jnp.asarray(file[f"{stem}{key}"]) for key in ("mean", "var")}
    return found


def check_running(file, layers, params, names, x):
    """Each batch norm moves its statistics as PyTorch's do."""
    update = jax.jit(adapters.update, static_argnums=0)
    _, moved = update(layers, params, running(file, names, "before"), x)
    wanted = running(file, names, "after")
    assert wanted.keys() == moved.keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), moved, wanted)


def jitted(loss):
    """Mean of an objective's losses and its gradients for the two arguments, compiled."""
    return jax.jit(jax.value_and_grad(lambda *args: jnp.mean(loss(*args)), argnums=(0, 1)))


def check(found, wanted, what="", tolerance=1e-5):
    """Equal up to rounding, relative to the largest value; absolute where that is tiny."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, what
    bound = tolerance * max(np.abs(wanted).max(), 1e-8)
    assert np.abs(found - wanted).max() <= bound, (what, np.abs(found - wanted).max(), bound)


def check_gradients(file, gradients, tolerance=1e-5):
    """{entry under grad/ in PyTorch's layout: found}; and that none is missing."""
    listed = {name.removeprefix("grad/") for name in file if name.startswith("grad/")}
    assert gradients.keys() == listed
    for name, found in gradients.items():
        deviation = float(file.get(f"f64dev/grad/{name}", 0.0))
        wanted = file[f"grad/{name}"]
        largest = np.abs(wanted).max()
        own = max(tolerance, 1e-4 if deviation > tolerance * largest else 0)
        # Biases in front of a batch norm have no gradient but rounding.
        if largest < 1e-6:
            assert np.abs(np.asarray(found)).max() < 1e-6
        else:
            check(found, wanted, name, own)


def torch_names(gradients, layers, names):
    """Gradients of an adapter's parameters by PyTorch's names, in its layout."""
    found = {}
    for (layer, own), name in names.items():
        value = np.asarray(gradients[layer][own])
        if own == "kernel":
            transposed = layers[int(layer.removeprefix("layer"))].transposed
            value = np.transpose(value, (2, 3, 0, 1) if transposed else (3, 2, 0, 1))
        is_dense = value.shape[2:] == (1, 1) and name.rsplit(".", 2)[-2].startswith("linear")
        found[f"param/{name}"] = value[..., 0, 0] if own == "kernel" and is_dense else value
    return found


def torch_maps(gradients, letter="s"):
    return {f"in/{letter}{i}": np.transpose(g, (0, 3, 1, 2)) for i, g in enumerate(gradients)}


def check_over_taps(name, file):
    """An objective without parameters has the file's loss and gradients."""
    student, teacher = maps(file, "s"), maps(file, "t")
    objective = objectives.create(name)

    def loss(params, student):
        pair = outputs(student), outputs(teacher)
        return objective.loss(objectives.ObjectiveState(params), *pair, batches.NO_BATCH)[0]

    value, (_, gradients) = jitted(loss)((), student)
    check(value, file["out/loss"])
    check_gradients(file, torch_maps(gradients))


def normal(seed, *shapes):
    """Arrays of standard normal values."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def check_only_before(objective, file, outputs_of):
    """An objective without parameters has the file's loss in its stage, and none afterwards.

    Args:
      objective: with a stage.
      file: what `golden.load` gave.
      outputs_of: the Outputs of a network with these maps.
    """
    student, teacher = maps(file, "s"), outputs_of(maps(file, "t"))
    state = objective.init(jax.random.key(0), outputs_of(student), teacher)
    assert not jax.tree.leaves(state)

    def loss(params, student):
        return objective.stage.loss(state, outputs_of(student), teacher, batches.NO_BATCH)[0]

    value, (_, gradients) = jitted(loss)((), student)
    check(value, file["out/loss"])
    check_gradients(file, torch_maps(gradients))
    after, _ = objective.loss(state, outputs_of(student), teacher, batches.NO_BATCH)
    np.testing.assert_array_equal(after, np.zeros(4))
    assert (objective.stage.student, objective.stage.epochs) == (True, 30)
    assert objective.stage.learning_rate is None
