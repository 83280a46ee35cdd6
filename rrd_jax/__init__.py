"""Relational Representation Distillation (arXiv 2407.12073) for JAX."""

__version__ = "0.1.0"
