"""A report of a student beside its teacher: accuracy, size and latency."""
