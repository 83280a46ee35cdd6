"""Subsets of data sets: shares, long tails, noisy labels, and labeled images for evaluation."""
