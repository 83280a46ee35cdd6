"""A benchmark of the distillation step beside PyTorch's."""
