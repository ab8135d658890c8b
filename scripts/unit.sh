#!/usr/bin/env bash
# The systemd units: systemd finds no fault with them, and the service leaves an attacker little.
#
# Usage: scripts/unit.sh
#
# Needs: Debian, root (or the package systemd installed). systemd need not run. A few seconds.
# The binary is $RINGWAY, default target/release/ringway, built when it is not there.
# Exit status: 0 all claims hold, 1 one does not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

UNIT=configs/systemd/ringway.service
SOCKET=configs/systemd/ringway.socket
# In tenths of the points that systemd-analyze gives. 0 is best, 100 worst.
EXPOSURE_MAX=24

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# The units as they are, but with the binary of this tree: `verify` looks whether it can be executed.
units_are_valid() {
    local said
    sed "s|=ringway |=$(realpath "$RINGWAY") |" "$UNIT" >"$WORK/ringway.service"
    cp "$SOCKET" "$WORK/ringway.socket"
    # It succeeds for some faults, too, but is silent only if there is none.
    said=$(systemd-analyze verify --man=no --recursive-errors=one \
        "$WORK/ringway.service" "$WORK/ringway.socket" 2>&1) || die "verify: $said"
    [[ -z $said ]] || die "verify: $said"
    printf 'ok the units are valid\n'
}

exposure_is_low() {
    local said
    if ! said=$(systemd-analyze security --offline=true --threshold="$EXPOSURE_MAX" --no-pager "$UNIT" 2>&1); then
        die "security: above $EXPOSURE_MAX tenths: $said"
    fi
    printf 'ok %s\n' "$(grep -o 'exposure level.*: [0-9.]*' <<<"$said")"
}

main() {
    need_packages systemd
    need_ringway
    units_are_valid
    exposure_is_low
}

main
