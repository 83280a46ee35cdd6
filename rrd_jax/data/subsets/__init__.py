"""Parts of a data set: shares of it, long tails, noisy labels, a few labelled images."""
