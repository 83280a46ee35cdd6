"""What programs call: training, loading and evaluation of networks, by name or made in Python."""

from rrd_jax.library.loaded import Loaded, Trained, evaluate, load
from rrd_jax.library.training import distill, train_teacher

__all__ = ["Loaded", "Trained", "distill", "evaluate", "load", "train_teacher"]
