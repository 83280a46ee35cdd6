"""Frozen teachers: loading, folding, ensembles, preprocessing and cached outputs."""
