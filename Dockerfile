# Builds an image with rrd_jax and its launch files, without network access: all packages come from
# build/wheelhouse. Fill it with `make wheelhouse` and the same EXTRAS on a machine with network access.
#
#   make wheelhouse EXTRAS=cuda13            # for CPUs: without EXTRAS
#   docker build --network=none --build-arg EXTRAS=cuda13 -t rrd_jax .
#   docker run --gpus=all --user "$(id -u):$(id -g)" -v "$PWD:/work" rrd_jax \
#     rrd_jax.main --config=/opt/rrd_jax/configs/digits.py --workdir=/work/runs/digits
#
# The wheels contain CUDA; the host needs the driver and NVIDIA's container toolkit. Pull BASE before
# the build (`docker pull`). Its Python version must be the one that created the wheelhouse.
ARG BASE=python:3.13-slim
FROM ${BASE}
# Extras of setup.cfg, such as cuda13, cuda12, tpu or cuda13,onnx.
ARG EXTRAS=
# The wheelhouse contains one version of each package, so pip needs no pins.
# hadolint ignore=DL3013
RUN --mount=type=bind,source=build/wheelhouse,target=/wheelhouse \
    python -m pip install --no-cache-dir --root-user-action=ignore --no-index \
      --find-links=/wheelhouse "rrd_jax[${EXTRAS}]"
COPY configs /opt/rrd_jax/configs
# The default user is root, which can access a TPU. Other users (`--user`) need a writable home.
ENV HOME=/tmp PYTHONUNBUFFERED=1
WORKDIR /work
# The arguments are a module of rrd_jax and its flags. As process 1 it receives SIGTERM, saves the
# current step and ends with exit code 75. Allow time for this: `docker stop --timeout=120`.
ENTRYPOINT ["python", "-m"]
CMD ["rrd_jax.main", "--help"]
