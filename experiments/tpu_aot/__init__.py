"""Train steps compiled ahead of time for TPUs."""
