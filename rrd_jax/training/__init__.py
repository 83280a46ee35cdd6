"""The pure train step: its settings, the train state, the step itself and its metrics."""
