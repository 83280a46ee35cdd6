"""Conversion of PyTorch weights to network variables and back."""

from rrd_jax.weights.state_dicts import from_torch, sizes, to_torch

__all__ = ["from_torch", "sizes", "to_torch"]
