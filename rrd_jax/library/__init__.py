"""What programs call: training, loading and evaluation of networks, by name or made in Python."""

from rrd_jax.library.evaluating import evaluate
from rrd_jax.library.loaded import Loaded, Trained
from rrd_jax.library.loading import load
from rrd_jax.library.predicting import Guess, Predictions, Predictor, Unread
from rrd_jax.library.teachers import load_teacher
from rrd_jax.library.training import distill, train_teacher

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
