"""The command that lists, compares and watches runs."""
