"""Subsets of data sets: shares, long tails, noisy labels, and labelled images for evaluation."""
