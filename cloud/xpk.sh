#!/usr/bin/env bash
# A run as a workload of a GKE cluster that xpk made (pip install xpk):
#
#   cloud/xpk.sh FLAGS...         the flags of rrd_jax.main
#   DRY_RUN=1 cloud/xpk.sh ...    prints what would be done; MANIFEST=FILE keeps the JobSet
#
# The environment says what and where: PROJECT, ZONE, CLUSTER, NAME, TYPE (such as v5litepod-16) and
# IMAGE, made by the Dockerfile with EXTRAS=tpu; STORAGE, a Filestore that `xpk storage attach` knows,
# which all workers see, for --workdir and --config.data.dir. SLICES is 1, RESTARTS is 100.
#
# A worker that is taken away is started again by Kubernetes, and so is a run that ends with 75; both
# go on from the last checkpoint. Mistakes (1, 2), losses that are not finite (3) and other errors end
# the workload.
set -euo pipefail
for variable in PROJECT ZONE CLUSTER NAME TYPE IMAGE; do
  if [ -z "${!variable:-}" ]; then
    echo "error: $variable is not set; the first lines of cloud/xpk.sh say what it is" >&2
    exit 2
  fi
done
# exec: the SIGTERM that a worker gets before it is taken away reaches Python.
command="exec python -m rrd_jax.main$(printf ' %q' "$@")"
xpk workload create --project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER" --workload="$NAME" \
  --tpu-type="$TYPE" --num-slices="${SLICES:-1}" --docker-image="$IMAGE" --command="$command" \
  --max-restarts="${RESTARTS:-100}" --restart-on-exit-codes=75 \
  --termination-grace-period-seconds=120 \
  ${STORAGE:+--storage="$STORAGE"} ${SPOT:+--spot} \
  ${MANIFEST:+--output-manifest-file="$MANIFEST"} ${DRY_RUN:+--dry-run --skip-validation}
