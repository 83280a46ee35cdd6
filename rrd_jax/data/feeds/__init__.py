"""Batches for training and evaluation, in device memory or decoded as they are used."""
