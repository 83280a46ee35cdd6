#!/usr/bin/env bash
# Starts a run on a Cloud TPU VM or a slice of several, from your own machine:
#
#   cloud/tpu_vm.sh create | install | run FLAGS... | keep FLAGS... | stop | delete
#
# create   creates the TPU; with SPOT=1 a preemptible one, which costs less.
# install  installs the committed state of this checkout on all workers.
# run      starts `python -m rrd_jax.main FLAGS` on all workers and prints the output of worker 0.
# keep     does all of this until the run has ended. A preempted or broken TPU is recreated, and the
#          run resumes from its last checkpoint. Exits with the exit code of the run after an error.
# stop     sends SIGTERM to the run, which saves the current step. End `keep` first, or it resumes.
# delete   deletes the TPU.
#
# FLAGS include --workdir=gs://BUCKET/... The disks of the workers are lost after a preemption.
#
# Environment variables: PROJECT, ZONE, NAME, TYPE (such as v5litepod-16), VERSION of the TPU's
# system (such as v2-alpha-tpuv5-lite). Optional: SERVICE_ACCOUNT, which may read and write the
# bucket, by default that of the project; NFS, a Filestore share such as 10.0.0.2:/share, which is
# mounted on /mnt/shared; WAIT, the number of seconds between attempts, 60 by default.
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")/.."

need() {
  local variable
  for variable in "$@"; do
    if [ -z "${!variable:-}" ]; then
      echo "error: $variable is not set; set it as the first lines of cloud/tpu_vm.sh describe" >&2
      exit 2
    fi
  done
}

tpu() {
  local command=$1
  shift
  gcloud compute tpus tpu-vm "$command" "$@" --project="$PROJECT" --zone="$ZONE"
}

everywhere() { tpu ssh "$NAME" --worker=all --command="$1"; }

create() {
  need TYPE VERSION
  tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" \
    ${SPOT:+--spot} ${SERVICE_ACCOUNT:+--service-account="$SERVICE_ACCOUNT"}
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git archive --format=tar.gz --output="$archive" HEAD -- . ':!tests' ':!docs'
  tpu scp "$archive" "$NAME:rrd_jax.tar.gz" --worker=all
  rm "$archive"
  if [ -n "${NFS:-}" ]; then
    everywhere "mountpoint -q /mnt/shared || { sudo apt-get update -qq && \
      sudo apt-get install -y -qq nfs-common && sudo mkdir -p /mnt/shared && \
      sudo mount -t nfs '$NFS' /mnt/shared && sudo chmod a+rwx /mnt/shared; }"
  fi
  # The Python of the system may be older than 3.11; uv installs another one.
  everywhere "mkdir -p rrd_jax && tar -xzf rrd_jax.tar.gz -C rrd_jax && cd rrd_jax && \
    python3 -m pip install --quiet --user uv && \
    python3 -m uv venv --quiet --allow-existing --python 3.13 .venv && \
    python3 -m uv pip install --quiet --python .venv/bin/python \
      --constraint requirements.lock -e '.[tpu,gcs]'"
}

# `keep` reads the last line of each worker, because gcloud has a single exit code for all workers.
run() {
  local flags
  flags=$(printf '%q ' "$@")
  everywhere "cd rrd_jax && { .venv/bin/python -m rrd_jax.main $flags; echo \"rrd_jax: ended with \$?\"; }"
}

# Returns the exit code of the run from the exit codes in its log. Errors take precedence over a
# reason to retry (75, 134 or a signal), which takes precedence over 0. A log without exit codes, as
# after a preemption, is 75.
outcome() {
  local code last=
  while read -r code; do
    case $code in
      0) last=${last:-0} ;;
      1 | 2 | 3 | 69 | 70 | 74 | 130) echo "$code" && return ;;
      *) last=75 ;;
    esac
  done < <(sed -n 's/^.*rrd_jax: ended with \([0-9]*\)$/\1/p' "$1")
  echo "${last:-75}"
}

# Creates the TPU if it does not exist or was preempted. Fails if the TPU is not ready yet, or if
# gcloud returns no state: a TPU that may be healthy is not deleted.
present() {
  case $(tpu describe "$NAME" --format='value(state)' 2>&1) in
    READY) ;;
    *NOT_FOUND*) "$self" create ;;
    PREEMPTED | TERMINATED | STOPPED | SUSPENDED) tpu delete "$NAME" --quiet && "$self" create ;;
    *) return 1 ;;
  esac
}

keep() {
  local log code failures=0
  need TYPE VERSION
  log=$(mktemp)
  while :; do
    # A repeated installation takes seconds.
    if present && { "$self" install || { failures=$((failures + 1)) && false; }; }; then
      failures=0
      run "$@" 2>&1 | tee "$log" || true
      code=$(outcome "$log")
      if [ "$code" != 75 ]; then
        rm "$log"
        exit "$code"
      fi
      # A lost connection leaves the run active.
      "$self" stop >/dev/null 2>&1 || true
      echo "the run resumes from its last checkpoint"
    elif [ "$failures" = 3 ]; then
      echo "error: the installation failed three times; the TPU still exists: fix the cause, or" \
        "delete the TPU: cloud/tpu_vm.sh delete" >&2
      exit 1
    fi
    sleep "${WAIT:-60}"
  done
}

command=${1:-}
case $command in
  create | install | run | keep | stop | delete) shift ;;
  *)
    sed -n '2,19s/^# \{0,1\}//p' "$self"
    exit 1
    ;;
esac
need PROJECT ZONE NAME
case $command in
  stop) everywhere "pkill -TERM -f '[r]rd_jax[.]main'" ;;
  delete) tpu delete "$NAME" --quiet ;;
  *) "$command" "$@" ;;
esac
