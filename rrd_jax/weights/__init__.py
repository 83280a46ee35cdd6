"""Weights of PyTorch's networks as ours, and back."""

from rrd_jax.weights.state_dicts import from_torch, sizes, to_torch

__all__ = ["from_torch", "sizes", "to_torch"]
