"""Where the time of a train step goes: its instructions, timed by JAX's profiler, by kind."""
