"""The choices of a training run, its recipe, the train state, the train step and metrics."""
