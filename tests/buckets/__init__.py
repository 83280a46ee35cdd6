"""Tests of `rrd_jax.buckets`, and of run folders in buckets."""
