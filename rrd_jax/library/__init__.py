"""The Python API: trains, loads and evaluates networks, by name or as Python objects."""

from rrd_jax.library.accuracy import evaluate
from rrd_jax.library.distillation import distill, train_teacher
from rrd_jax.library.loaded_network import Loaded, Trained
from rrd_jax.library.predictor import Guess, Predictions, Predictor, Unread
from rrd_jax.library.run_teachers import load_teacher
from rrd_jax.library.weights_loader import load

__all__ = [
    "Guess",
    "Loaded",
    "Predictions",
    "Predictor",
    "Trained",
    "Unread",
    "distill",
    "evaluate",
    "load",
    "load_teacher",
    "train_teacher",
]
