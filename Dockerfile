# An image with rrd_jax, its launch files and no network while it is built: all packages come from
# build/wheelhouse, which `make wheelhouse` fills, with the same EXTRAS, where there is a network.
#
#   make wheelhouse EXTRAS=cuda13            # for CPUs: without EXTRAS
#   docker build --network=none --build-arg EXTRAS=cuda13 -t rrd_jax .
#   docker run --gpus=all --user "$(id -u):$(id -g)" -v "$PWD:/work" rrd_jax \
#     rrd_jax.main --config=/opt/rrd_jax/configs/digits.py --workdir=/work/runs/digits
#
# CUDA comes with the wheels; the host has the driver and NVIDIA's container toolkit. BASE must be
# there already (`docker pull`), and its Python the one that made the wheelhouse.
ARG BASE=python:3.13-slim
FROM ${BASE}
# Extras of setup.cfg, such as cuda13, cuda12, tpu or cuda13,onnx.
ARG EXTRAS=
# The wheelhouse holds one version of each.
# hadolint ignore=DL3013
RUN --mount=type=bind,source=build/wheelhouse,target=/wheelhouse \
    python -m pip install --no-cache-dir --root-user-action=ignore --no-index \
      --find-links=/wheelhouse "rrd_jax[${EXTRAS}]"
COPY configs /opt/rrd_jax/configs
# Root by default, to whom a TPU belongs; `--user` makes it anybody, who needs a home to write to.
ENV HOME=/tmp PYTHONUNBUFFERED=1
WORKDIR /work
# A module of rrd_jax and its flags. As process 1 it gets SIGTERM itself: it saves the step at hand and
# ends with 75; give it time, as in `docker stop --timeout=120`.
ENTRYPOINT ["python", "-m"]
CMD ["rrd_jax.main", "--help"]
