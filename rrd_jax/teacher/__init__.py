"""Frozen teachers: loading, folding, ensembles, preprocessing and the cache of their outputs."""
