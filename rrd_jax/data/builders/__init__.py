"""Builders that write data sets as ArrayRecord files, without TensorFlow."""
