"""A profile of the train step: the time of its instructions, by kind, from JAX's profiler."""
