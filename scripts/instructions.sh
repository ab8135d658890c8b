#!/usr/bin/env bash
# Instructions in user space: how many Ringway executes for a message of 64 bytes there and back, and for a session with one such
# message. valgrind's callgrind counts them, and a busy machine counts the same within 4 %.
#
# Usage: scripts/instructions.sh [BINARY]
#
# The binary is BINARY, $RINGWAY, or the release build of this tree. Needs: x86-64, Debian, root (or the packages valgrind, gcc,
# libc6-dev and python3). Ports of 127.0.0.1 only; under half a minute. KEEP=1 keeps the folder with what callgrind wrote, which
# callgrind_annotate reads.
# Exit status: 0 both are within the bounds of scripts/instructions.py, 1 one is not, or something failed, 2 wrong usage.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

if (($# > 1)) || [[ ${1:-} == -* ]]; then
    sed -n '2,/^set /{/^# \?/s/^# \?//p}' "$0" >&2
    exit 2
fi
[[ -z ${1:-} ]] || RINGWAY=$1
[[ $(uname -m) == x86_64 ]] || die "the bounds are those of x86-64"
need_packages valgrind gcc libc6-dev python3
need_ringway
WORK=$(mktemp -d)
trap '[[ -n ${KEEP:-} ]] || rm -rf "$WORK"' EXIT
[[ -z ${KEEP:-} ]] || printf 'kept: %s\n' "$WORK"
cc -O2 -shared -fPIC -o "$WORK/instructions.so" scripts/instructions.c
read -r PORT BACKEND < <(free_ports 2)
timeout --kill-after=10 120 python3 scripts/instructions.py "$RINGWAY" "$WORK" "$PORT" "$BACKEND"
