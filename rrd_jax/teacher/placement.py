"""The weights of frozen networks on the devices: once, as train steps apply them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from rrd_jax import checkpoints, networks, parallel
from rrd_jax.teacher import fold, wrappers


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenWeights:
    """The weights of a frozen network.

    The weights are folded, cast to the dtype of their computation, and sharded if the mesh or
    shard_parameters says so. A network without batch norms is evaluated with the same arrays. A
    network with batch norms is evaluated with its original weights, because folding rounds; they
    are in host memory, and on the devices only during an evaluation.

    Attributes:
      network: the network.
      shapes: the original weights, as shapes.
      sums: the sums of the original weights, see `checkpoints.leaf_sums`.
      image_shape: (H, W, channels).
      mesh: the devices.
      fully: see `parallel.weight_axes`.
      host: the original weights in host memory; None if folding changes no result.
      placed: the weights on the devices; None if they are placed when they are used.
    """

    network: networks.Network
    shapes: Any
    sums: Any
    image_shape: tuple[int, ...]
    mesh: jax.sharding.Mesh
    fully: bool
    host: Any = None
    placed: Any = None

    @functools.cached_property
    def digest(self) -> str:
        """The digest of the original weights."""
        return checkpoints.combine(self.shapes, self.sums)

    @property
    def parameters(self) -> int:
        """The number of trained scalars of the original weights."""
        return networks.count_parameters(self.shapes["params"])

    @functools.cached_property
    def folded(self) -> Any:
        """The weights on the devices, for train steps and for the teacher cache."""
        if self.placed is not None:
            return self.placed
        folding = fold.plan(self.network, self.image_shape)
        combined = folding.combines(self.host)
        flat = traverse_util.flatten_dict({n: self.host[n] for n in ("params", "batch_stats")})
        parts = {path: self.put(flat[path]) for path in combined}
        folded = {
            path: self.put(leaf, folding.dtype(path))
            for path, leaf in flat.items()
            if path not in combined
        }
        function = functools.partial(fold.fold, self.network, image_shape=self.image_shape)
        parts = {"params": {}, "batch_stats": {}, **traverse_util.unflatten_dict(parts)}
        shardings = self._shardings(jax.eval_shape(function, parts))
        parts = jax.jit(function, out_shardings=shardings)(parts)
        folded |= traverse_util.flatten_dict(parts)
        return {"params": {}, "batch_stats": {}, **traverse_util.unflatten_dict(folded)}

    def evaluated(self) -> Any:
        """Returns weights on the devices for an evaluation, to be released after it."""
        return self.folded if self.host is None else jax.tree.map(self.put, self.host)

    def head(self) -> Any:
        """Returns the classifier on the devices, see `networks.head`; () if there is none."""
        if not networks.summarize(self.network, self.image_shape).outputs.head:
            return ()
        return networks.head(self.network, self.evaluated(), self.image_shape)

    def with_parameter(
        self, network: networks.Network, name: str, value: Mapping[str, jax.Array]
    ) -> "FrozenWeights":
        """Returns the weights of a wrapper: these, and the parameter that the wrapper adds.

        Args:
          network: the wrapper.
          name: name of the parameter.
          value: replicated arrays on the devices.
        """
        add = functools.partial(wrappers.with_parameter, name=name)
        return dataclasses.replace(
            self,
            network=network,
            shapes=add(self.shapes, value=jax.tree.map(_shape, value)),
            sums=add(self.sums, value=checkpoints.leaf_sums(value)),
            host=self.host and add(self.host, value=jax.tree.map(np.asarray, value)),
            placed=self.placed and add(self.placed, value=value),
        )

    def put(self, leaf: Any, dtype: Any = None) -> Any:
        """Puts an array on the devices, cast to a dtype, or a tree of arrays."""
        if dtype is not None:
            leaf = leaf.astype(dtype)
        return jax.tree.map(lambda array: parallel.put(self._shardings(array), array), leaf)

    def _shardings(self, tree: Any) -> Any:
        return parallel.weight_shardings(self.mesh, tree, fully=self.fully)


def place(
    network: networks.Network,
    variables: Mapping[str, Any],
    image_shape: tuple[int, ...],
    mesh: jax.sharding.Mesh,
    *,
    fully: bool,
    folds: bool = True,
) -> tuple[FrozenWeights, dict[int, Any]]:
    """Puts the weights of a frozen network on the devices, one array at a time.

    Args:
      network: the network.
      variables: its weights: arrays, or arrays in files, which are read one at a time.
      image_shape: (H, W, channels).
      mesh: the devices.
      fully: see `parallel.weight_axes`.
      folds: False for a network that is only evaluated, with the weights that it was trained with.

    Returns:
      The weights, and the sums of each array of `variables` by its id, see
      `checkpoints.leaf_sums`, without arrays whose dtype JAX changes.
    """
    folding = fold.plan(network, image_shape) if folds else None
    keeps = folding is None or bool(folding.combines(variables))
    empty = FrozenWeights(network, None, None, image_shape, mesh, fully)
    by_id: dict[int, Any] = {}

    def read(path, leaf):
        array = np.asarray(leaf)
        array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
        sums = checkpoints.leaf_sums(array)
        if array.dtype == leaf.dtype:
            by_id[id(leaf)] = sums
        keys = tuple(getattr(key, "key", None) for key in path)
        placed = array if keeps else empty.put(array, folding.dtype(keys))
        return _shape(array), sums, placed

    leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
    columns = zip(*(read(path, leaf) for path, leaf in leaves), strict=True)
    shapes, sums, placed = (structure.unflatten(column) for column in columns)
    place_field = {"host": placed} if keeps else {"placed": placed}
    return dataclasses.replace(empty, shapes=shapes, sums=sums, **place_field), by_id


def _shape(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)
