#!/usr/bin/env bash
# Starts a run as a workload of a GKE cluster created by xpk (pip install xpk):
#
#   cloud/xpk.sh FLAGS...         the flags of rrd_jax.main
#   DRY_RUN=1 cloud/xpk.sh ...    prints the commands; MANIFEST=FILE saves the JobSet
#
# Required environment variables: PROJECT, ZONE, CLUSTER, NAME, TYPE (such as v5litepod-16), and
# IMAGE, built from the Dockerfile with EXTRAS=tpu,gcs. Optional: STORAGE, a Filestore that was
# attached with `xpk storage attach`; SLICES (default 1), RESTARTS (default 100), SPOT=1 for
# preemptible TPUs. FLAGS include --workdir=gs://BUCKET/..., which the workers may read and write.
#
# Kubernetes restarts a preempted worker, and a run that ends with exit code 75, or, as xpk does by
# default, from 127 to 255, such as 134; all resume from the last checkpoint. Mistakes (1, 2), losses
# that are not finite (3) and other errors end the workload.
set -euo pipefail
for variable in PROJECT ZONE CLUSTER NAME TYPE IMAGE; do
  if [ -z "${!variable:-}" ]; then
    echo "error: $variable is not set; set it as the first lines of cloud/xpk.sh describe" >&2
    exit 2
  fi
done
# With exec, Python receives the SIGTERM that precedes a preemption.
command="exec python -m rrd_jax.main$(printf ' %q' "$@")"
xpk workload create --project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER" --workload="$NAME" \
  --tpu-type="$TYPE" --num-slices="${SLICES:-1}" --docker-image="$IMAGE" --command="$command" \
  --max-restarts="${RESTARTS:-100}" --restart-on-exit-codes=75 \
  --termination-grace-period-seconds=120 \
  ${STORAGE:+--storage="$STORAGE"} ${SPOT:+--spot} \
  ${MANIFEST:+--output-manifest-file="$MANIFEST"} ${DRY_RUN:+--dry-run --skip-validation}
