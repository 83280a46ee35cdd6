"""Evaluation of networks on a split: predictions, and comparisons of embeddings.

`predictions` runs a network on a split. `alignment` compares a student's embeddings with its
teacher's and detects collapse. `knn` finds nearest images and classifies by their votes. `rows` has
the helpers that work on a few rows of embeddings at a time. Only `predictions` and `knn` import
JAX when they are imported; the others are functions of arrays on the host.
"""
