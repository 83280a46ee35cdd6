"""Flax Linen modules as Networks."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.networks.contract import Outputs
from rrd_jax.networks.custom.conversion import as_outputs, mode_arguments, mode_flags
from rrd_jax.networks.custom.custom_network import CustomNetwork

_CAPTURED = "intermediates"


def from_linen(
    module: nn.Module, *, embedding_of: str = "", patches_of: str = "", name: str = ""
) -> CustomNetwork:
    """Converts a Linen module to a Network.

    The module may have any collections of variables. Collections other than `params` that keep
    their structure from step to step are carried in `batch_stats`; sown values are dropped.
    Training and evaluation mode are set with the arguments of `__call__`, or the fields, named
    `train`, `training`, `is_training`, `deterministic`, `inference` or `use_running_average`. In
    training, random number streams of any name are available.

    Args:
      module: a module that reads images [B, H, W, channels]; see `conversion.as_outputs` for the
        results that it may return.
      embedding_of: path of the submodule whose result is the embedding, such as "norm" or
        "encoder/norm"; "" if the module returns the embedding.
      patches_of: path of the submodule whose result [B, h, w, D] is the patches; "" if the module
        returns the patches, or has none.
      name: the network's name in messages; "" for the name of its class.

    Examples:
      >>> network = from_linen(nn.Sequential([nn.Dense(8), nn.Dense(10)]), embedding_of="layers_0")
      >>> images = jnp.ones((2, 12))
      >>> network.apply(network.init(jax.random.key(0), images), images).embedding.shape
      (2, 8)
    """
    paths = {"embedding": embedding_of.replace(".", "/"), "patches": patches_of.replace(".", "/")}
    sources = {part: path for part, path in paths.items() if path}
    return _Linen(module, sources, name or type(module).__name__).network()


def flagged_fields(module: type[nn.Module]) -> dict[str, bool]:
    """Returns the mode flags that are fields of a module, but not arguments of its `__call__`.

    A flag that is both, as in Flax's own layers, may be set only once, in the call.
    """
    fields, arguments = set(module.__dataclass_fields__), mode_flags(module.__call__)
    return {k: v for k, v in mode_flags(module).items() if k in fields and k not in arguments}


class _Linen:
    def __init__(self, module: nn.Module, sources: Mapping[str, str], name: str):
        # The paths of the submodules whose results are the embedding and the patches.
        self.module, self.sources, self.name = module, sources, name
        self._flags = mode_flags(type(module).__call__)
        self._fields = flagged_fields(type(module))

    def network(self) -> CustomNetwork:
        dtype = getattr(self.module, "dtype", None)
        return CustomNetwork(self.name, self._init, self._apply, dtype, self._packed)

    def _in_mode(self, train: bool) -> tuple[nn.Module, dict[str, Any]]:
        """Returns the module and the call's arguments for training or evaluation."""
        module = self.module
        if self._fields:
            module = module.clone(**mode_arguments(self._fields, train))
        return module, mode_arguments(self._flags, train)

    def _capture(self) -> dict[str, Any]:
        return {"capture_intermediates": self._is_source} if self.sources else {}

    def _is_source(self, module: nn.Module, method: str) -> bool:
        return method == "__call__" and "/".join(module.path) in self.sources.values()

    def _init(self, key: jax.Array, images: jax.Array) -> tuple[Outputs, dict[str, Any]]:
        module, options = self._in_mode(train=False)
        mutable = True if self.sources else nn.DenyList(_CAPTURED)
        returned, variables = module.init_with_output(
            key, images, mutable=mutable, **self._capture(), **options
        )
        return self._outputs(returned, variables), self._packed(variables, images)

    def _packed(self, variables: Mapping[str, Any], images: jax.Array) -> dict[str, Any]:
        rest = {
            name: variables[name] for name in self._carried(images.shape[1:]) if name in variables
        }
        return {"params": variables.get("params", {}), "batch_stats": _pack(rest)}

    def _apply(
        self, variables: dict[str, Any], images: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[Outputs, Any]:
        module, options = self._in_mode(train)
        rest = _unpack(variables["batch_stats"], self._carried(images.shape[1:]))
        mutable = [*(rest if train else ()), *([_CAPTURED] if self.sources else ())]
        if train and key is not None:
            # Flax derives streams of any other name from `params`.
            options["rngs"] = {"params": key, "dropout": jax.random.fold_in(key, 1)}
        returned, changed = module.apply(
            {"params": variables["params"], **rest},
            images,
            mutable=mutable,
            **self._capture(),
            **options,
        )
        outputs = self._outputs(returned, changed)
        return outputs, _pack({name: changed.get(name, rest[name]) for name in rest})

    def _outputs(self, returned: Any, variables: Mapping[str, Any]) -> Outputs:
        outputs = as_outputs(returned)
        if not self.sources:
            return outputs
        captured = {part: self._captured(part, variables) for part in self.sources}
        return as_outputs({**outputs._asdict(), **captured})

    def _captured(self, part: str, variables: Mapping[str, Any]) -> Any:
        """Returns the result of the submodule that computes a part of the Outputs."""
        node: Any = variables.get(_CAPTURED, {})
        for key in (*self.sources[part].split("/"), "__call__"):
            node = node.get(key) if isinstance(node, Mapping) else None
        if node is None:
            raise errors.InputError(
                f"network '{self.name}' has no submodule '{self.sources[part]}' (option"
                f" {part}_of); submodules: {', '.join(self._submodules(variables))}"
            )
        return node[-1][0] if isinstance(node[-1], tuple) else node[-1]

    def _submodules(self, variables: Mapping[str, Any]) -> list[str]:
        """Returns the paths of the submodules that have parameters."""
        leaves = jax.tree_util.tree_leaves_with_path(variables.get("params", {}))
        paths = {"/".join(str(k.key) for k in path[:-1]) for path, _ in leaves}
        return sorted(paths - {""})

    # The cache lives as long as the network.
    @functools.cache  # noqa: B019
    def _carried(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Returns the collections whose structure a train step on images of this shape keeps."""
        images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
        module, options = self._in_mode(train=False)
        key = jax.random.key(0)
        before = jax.eval_shape(lambda x: module.init(key, x, **options), images)
        rest = tuple(name for name in before if name != "params")
        if not rest:
            return ()
        module, options = self._in_mode(train=True)
        _, after = jax.eval_shape(
            lambda v, x: module.apply(v, x, mutable=rest, rngs={"params": key}, **options),
            before,
            images,
        )
        return tuple(n for n in rest if _same_structure(before[n], after.get(n, before[n])))


def _same_structure(before: Any, after: Any) -> bool:
    def types(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    return jax.tree.structure(before) == jax.tree.structure(after) and types(before) == types(after)


def _pack(rest: dict[str, Any]) -> dict[str, Any]:
    """Returns `batch_stats`: the collection of that name if it is the only one, else all."""
    return rest.get("batch_stats", {}) if set(rest) <= {"batch_stats"} else rest


def _unpack(packed: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return dict.fromkeys(names, packed) if set(names) <= {"batch_stats"} else packed
