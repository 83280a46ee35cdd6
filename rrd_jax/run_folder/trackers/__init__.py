"""Trackers of metrics. The process of a tracker imports this package, but not JAX."""
