#!/usr/bin/env bash
# Reloads under load, with listeners and backends coming and going. First 100 in 60 s under 1,000 new connections a
# second and 500 long echoing sessions: nobody is refused or reset, memory stays, shares are even, and no session goes to
# a backend that is down. Then 1,000 with 20 idle sessions: descriptors, threads and memory stay.
#
# Usage: scripts/reload.sh [BINARY]
#
# The binary is BINARY, $RINGWAY, or the release build of this tree. Needs python3 and 4,000 descriptors. Ports of
# 127.0.0.1 only; under two minutes. SECONDS_LOADED=N loads for N seconds instead of 60, with as many reloads a second.
# KEEP=1 keeps the folder.
# Exit status: 0 all claims hold, 1 one does not, 2 wrong usage.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

if (($# > 1)) || [[ ${1:-} == -* ]]; then
    sed -n '2,/^set /{/^# \?/s/^# \?//p}' "$0" >&2
    exit 2
fi
[[ -z ${1:-} ]] || RINGWAY=$1
need_ringway
ulimit -n "$(ulimit -Hn)"
WORK=$(mktemp -d)
trap '[[ -n ${KEEP:-} ]] || rm -rf "$WORK"' EXIT
timeout --signal=INT --kill-after=10 170 \
    python3 scripts/reload.py run "$RINGWAY" "$WORK" "${SECONDS_LOADED:-60}"
