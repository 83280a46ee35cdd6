"""Batches for training and evaluation, from device memory or decoded on demand."""
