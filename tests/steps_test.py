import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import convert, memory, networks, objectives, optim, parallel, state, steps
from rrd_jax.data import augment
from rrd_jax.objectives import logits
from tests import golden, tiny


@pytest.mark.parametrize("run", ["rrd", "rrd_kd"])
def test_five_steps_have_the_losses_of_the_reference_training_loop(run):
    file = golden.load("rrd_resnet8_tiny")
    found, last, _ = _train(file, run)
    names = {"cls": "loss/ce", "div": "loss/kd", "rrd": "loss/rrd", "total": "loss"}
    for theirs, ours in names.items():
        wanted = file[f"{run}/step/{theirs}"]
        np.testing.assert_allclose(found[ours][:2], wanted[:2], rtol=1e-5)
        np.testing.assert_allclose(found[ours], wanted, rtol=1e-3)
    np.testing.assert_array_equal(found["cursor"], file[f"{run}/step/ptr"])
    # The fixed projection has not moved, and the optimizer does not know it.
    fixed = np.asarray(last.frozen["rrd"]["kernel"]).T
    np.testing.assert_array_equal(fixed, file[f"{run}/final/param/embed_t.weight"])
    chex.assert_trees_all_equal_structs(last.opt_state[1][0].trace, last.params)


@pytest.mark.parametrize("run", ["rrd", "rrd_kd"])
def test_five_steps_end_in_the_state_of_the_reference(run):
    file = golden.load("rrd_resnet8_tiny")
    # An activation of rrd_kd is so near a ReLU's edge that rounding decides its side, and five
    # steps make 0.3 % of that. Some relative nudge of the input by at most 1e-6 takes the
    # reference's side, and then everything agrees.
    errors = [_end_errors(file, run, nudge) for nudge in (0, 1e-7, 3e-7, 1e-6)]
    assert min(max(error.values()) for error in errors) < 1e-5
    assert max(max(error.values()) for error in errors) < 0.02


def _end_errors(file, run, nudge):
    chex.clear_trace_counter()
    _, last, probe = _train(file | {"in/x": file["in/x"] * np.float32(1 + nudge)}, run)
    variables = {"params": last.params["student"], "batch_stats": last.batch_stats}
    weights = convert.to_torch("resnet8", variables)
    names = ("fc.weight", "fc.bias", "conv1.weight", "bn1.running_mean", "bn1.running_var")
    found = {f"final/param/student.{name}": weights[name] for name in names} | {
        "final/param/embed_s.weight": last.params["objectives"]["rrd"]["kernel"].T,
        "final/queue": last.memory["rrd"].rows,
        "final/momentum/fc.weight": last.opt_state[1][0].trace["student"]["fc"]["kernel"].T,
        "probe/student_logits": probe,
    }
    return {name: golden.relative(value, file[f"{run}/{name}"]) for name, value in found.items()}


def _train(file, run):
    own = {key.removeprefix(f"{run}/hp/"): v for key, v in file.items() if f"{run}/hp/" in key}
    classes, dim = int(own["num_classes"]), int(own["feat_dim"])
    pair = [networks.create(name, classes) for name in ("resnet8", str(own["teacher"]))]
    student, teacher = [
        _named(network, name)
        for network, name in zip(pair, ("resnet8", str(own["teacher"])), strict=True)
    ]
    terms = {
        "ce": objectives.create("ce"),
        "kd": objectives.create("kd", temperature=float(own["kd_T"])),
        "rrd": objectives.create(
            "rrd",
            temperature_student=float(own["nce_t_s"]),
            temperature_teacher=float(own["nce_t_t"]),
            push_before=True,
            dim=dim,
            queue_size=int(own["nce_k"]),
        ),
    }
    weights = {"ce": float(own["gamma"]), "kd": float(own["alpha"]), "rrd": float(own["beta"])}
    optimizer = optim.sgd(
        lambda step: float(own["learning_rate"]),
        momentum=float(own["momentum"]),
        weight_decay=float(own["weight_decay"]),
    )
    start = state.create(jax.random.key(0), pair[0], terms, optimizer, (32, 32, 3), pair[1])
    params = {
        "student": student["params"],
        "objectives": start.params["objectives"] | {"rrd": _projection("embed_s", dim)},
    }
    run_state = start.replace(
        params=params,
        batch_stats=student["batch_stats"],
        opt_state=optimizer.init(params),
        frozen=start.frozen | {"rrd": _projection("embed_t", dim)},
        memory=start.memory | {"rrd": memory.Queue(_queue(own), jnp.int32(0))},
    )
    step = jax.jit(
        chex.assert_max_traces(n=1)(
            steps.make_train_step(
                pair[0], terms, weights, optimizer, tiny.plain, 5, steps.running(pair[1])
            )
        )
    )
    found = {}
    for i in range(len(file["in/x"])):
        batch = {
            "image": golden.to_nhwc(file["in/x"][i]),
            "label": file["in/y"][i].astype(np.int32),
            "index": np.arange(len(file["in/y"][i]), dtype=np.int32),
        }
        run_state, logged = step(run_state, teacher, batch)
        for name, value in (logged | {"cursor": run_state.memory["rrd"].cursor}).items():
            found.setdefault(name, []).append(float(value))
    variables = {"params": run_state.params["student"], "batch_stats": run_state.batch_stats}
    probe = pair[0].apply(variables, golden.to_nhwc(file["in/probe"]), train=False).logits
    return found, run_state, probe


def _named(network, name):
    abstract = jax.eval_shape(
        network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    )
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract)
    entries = convert.to_torch(name, zeros)
    shapes = ["x".join(map(str, np.shape(value))) for value in entries.values()]
    return convert.from_torch(name, golden.named_weights(list(entries), shapes))


def _projection(name, dim):
    weights = golden.named_weights([f"{name}.weight", f"{name}.bias"], [f"{dim}x64", str(dim)])
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}


def _queue(own):
    import zlib

    shape = (int(own["nce_k"]), int(own["feat_dim"]))
    rows = np.random.default_rng(zlib.crc32(b"queue")).standard_normal(shape)
    return jnp.asarray((rows / np.linalg.norm(rows, axis=0)).astype(np.float32))


def test_the_state_is_donated_and_the_teacher_is_not():
    mesh = parallel.make_mesh(jax.devices()[:1])
    run_state, step, teacher, batches = tiny.job(mesh)
    leaf = run_state.params["student"]["conv1"]["kernel"]
    next_state, _ = step(run_state, teacher, parallel.put_batch(mesh, batches[0]))
    assert leaf.is_deleted()
    assert not teacher["params"]["conv1"]["kernel"].is_deleted()
    assert int(next_state.step) == 1


def test_bfloat16_keeps_parameters_losses_and_memory_float32():
    mesh = parallel.make_mesh(jax.devices()[:1])
    run_state, step, teacher, batches = tiny.job(mesh, dtype=jnp.bfloat16)
    next_state, logged = step(run_state, teacher, parallel.put_batch(mesh, batches[0]))
    for leaf in jax.tree.leaves((next_state.params, next_state.batch_stats, logged)):
        assert leaf.dtype == jnp.float32
    assert next_state.memory["rrd"].rows.dtype == jnp.float32
    assert np.isfinite(float(logged["loss"]))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_teacher_sees_the_mixed_images(kind):
    network = networks.create("resnet8", 3)
    terms = {name: objectives.create(name) for name in ("ce", "kd")}
    optimizer = optim.sgd(lambda step: 0.1)
    start = state.create(jax.random.key(0), network, terms, optimizer, (8, 8, 3), network)
    teacher = networks.init(network, (8, 8, 3), seed=1)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.standard_normal((4, 8, 8, 3)).astype(np.float32),
        "label": np.array([0, 1, 2, 2], np.int32),
        "index": np.arange(4, dtype=np.int32),
    }
    mix = augment.make_mix(kind, 1.0)
    seen = {}

    def spy(key, images, labels):
        images, entries = mix(key, images, labels)
        jax.debug.callback(lambda x, e: seen.update(images=x, **e), images, entries)
        return images, entries

    weights, teach = {"ce": 1.0, "kd": 1.0}, steps.running(network)
    step = jax.jit(
        steps.make_train_step(network, terms, weights, optimizer, tiny.plain, 5, teach, spy)
    )
    _, logged = step(start, teacher, batch)
    jax.effects_barrier()
    variables = {"params": start.params["student"], "batch_stats": start.batch_stats}
    student, _ = network.apply(variables, seen["images"], train=True, mutable=["batch_stats"])
    target = network.apply(teacher, seen["images"], train=False)
    kd = jnp.mean(logits.kd_loss(student.logits, target.logits, temperature=4.0))
    assert float(logged["loss/kd"]) == pytest.approx(float(kd), rel=1e-4)
    log_p = np.asarray(jax.nn.log_softmax(student.logits))
    losses = [-log_p[np.arange(4), label] for label in (batch["label"], seen["other_label"])]
    wanted = np.mean(seen["share"] * losses[0] + (1 - seen["share"]) * losses[1])
    assert float(logged["loss/ce"]) == pytest.approx(float(wanted), rel=1e-4)
    assert not np.array_equal(seen["images"], batch["image"])
