"""Evaluation of networks on a split: predictions, and comparisons of embeddings.

`predictions` runs a network on a split. `alignment` compares a student's embeddings with its
teacher's and detects collapse. `knn` finds nearest images and classifies by their votes. `rows`
contains helpers that process embeddings in chunks of rows. Importing `predictions` or `knn` imports
JAX; `alignment` and `rows` operate on host arrays and do not.
"""
