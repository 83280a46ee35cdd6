"""A benchmark of the distillation step, compared with PyTorch."""
