"""The former name of `python -m rrd_jax.networks`: python -m rrd_jax.models."""

from rrd_jax.networks.__main__ import main

if __name__ == "__main__":
    main()
