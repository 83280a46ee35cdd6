"""The report that compares a student with its teachers: accuracy, size and latency."""
