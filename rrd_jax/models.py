"""The former name of `python -m rrd_jax.networks`: python -m rrd_jax.models."""

from absl import app

from rrd_jax import cli
from rrd_jax.networks.__main__ import define_flags, main

if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=cli.parse_flags)
