#!/usr/bin/env bash
# A run on a Cloud TPU VM or a slice of several, from your own machine:
#
#   cloud/tpu_vm.sh create | install | run FLAGS... | keep FLAGS... | stop | delete
#
# create   makes the TPU. SPOT=1 for one that can be taken away, which costs less.
# install  mounts the shared disk, and installs this checkout, as committed, on all workers.
# run      starts `python -m rrd_jax.main FLAGS` on all workers; what worker 0 says is shown.
# keep     all of this until the run has ended: a TPU that is gone or broken is made anew, and the
#          run goes on from its last checkpoint. Ends with the run's own code where that is a mistake.
# stop     SIGTERM to the run, which saves the step at hand. End `keep` first, which would go on.
# delete   gives the TPU back.
#
# The environment says what and where: PROJECT, ZONE, NAME, TYPE (such as v5litepod-16), VERSION of
# the TPU's system (such as v2-alpha-tpuv5-lite); NFS, a Filestore share such as 10.0.0.2:/share, which
# is mounted on /mnt/shared. One worker without NFS keeps its files on its own disk, which a TPU that is
# taken away loses. WAIT is the seconds between attempts, 60.
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")/.."

need() {
  local variable
  for variable in "$@"; do
    if [ -z "${!variable:-}" ]; then
      echo "error: $variable is not set; the first lines of cloud/tpu_vm.sh say what it is" >&2
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
  tpu create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" ${SPOT:+--spot}
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
  # The system's own Python may be older than 3.11; uv brings one.
  everywhere "mkdir -p rrd_jax && tar -xzf rrd_jax.tar.gz -C rrd_jax && cd rrd_jax && \
    python3 -m pip install --quiet --user uv && \
    python3 -m uv venv --quiet --allow-existing --python 3.13 .venv && \
    python3 -m uv pip install --quiet --python .venv/bin/python \
      --constraint requirements.lock -e '.[tpu]'"
}

# The line of each worker's end is what `keep` decides by: gcloud has one code for many workers.
run() {
  local flags
  flags=$(printf '%q ' "$@")
  everywhere "cd rrd_jax && { .venv/bin/python -m rrd_jax.main $flags; echo \"rrd_jax: ended with \$?\"; }"
}

# Of the ends that a log tells of: a mistake or an error before a reason to try again, before 0; that
# also where no worker came to its end, as when the TPU was taken away.
outcome() {
  local code last=
  while read -r code; do
    case $code in
      0) last=${last:-0} ;;
      1 | 2 | 3 | 70 | 74 | 130) echo "$code" && return ;;
      *) last=75 ;;
    esac
  done < <(sed -n 's/^.*rrd_jax: ended with \([0-9]*\)$/\1/p' "$1")
  echo "${last:-75}"
}

# Makes the TPU if there is none, or none any more. Fails where it is not there yet, or where gcloud
# does not know: what may be a healthy TPU is left alone.
present() {
  case $(tpu describe "$NAME" --format='value(state)' 2>&1) in
    READY) ;;
    *NOT_FOUND*) "$self" create ;;
    PREEMPTED | TERMINATED | STOPPED) tpu delete "$NAME" --quiet && "$self" create ;;
    *) return 1 ;;
  esac
}

keep() {
  local log code failures=0
  need TYPE VERSION
  log=$(mktemp)
  while :; do
    # What is installed already takes seconds.
    if present && { "$self" install || { failures=$((failures + 1)) && false; }; }; then
      failures=0
      run "$@" 2>&1 | tee "$log" || true
      code=$(outcome "$log")
      if [ "$code" != 75 ]; then
        rm "$log"
        exit "$code"
      fi
      "$self" stop >/dev/null 2>&1 || true  # what a lost connection left running
      echo "the run goes on from its last checkpoint"
    elif [ "$failures" = 3 ]; then
      echo "error: it could not be installed three times; the TPU is still there" >&2
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
