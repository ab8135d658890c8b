#!/usr/bin/env bash
# Tests the admin API against its own description with schemathesis: requests of every kind, wanted and unwanted, to
# the TCP endpoint and to the Unix socket. Not /v1/drain and /v1/upgrade, which end the process.
#
# schemathesis speaks TCP only, so a second Ringway leads from a port to the socket of the first one.
#
# Usage: scripts/api.sh
#
# Needs: python3 with venv, curl; installs schemathesis from PyPI into target/schemathesis. Under a minute without that.
# The binary is $RINGWAY, default target/release/ringway, built when it is not there.
# Exit status: 0 the API is as described, 1 it is not, or the run could not begin.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
source "$here/lib.sh"

VERSION=4.32.5
VENV=${CARGO_TARGET_DIR:-$here/../target}/schemathesis
WORK=$(mktemp -d)
finish() {
    stop_all
    rm -rf "$WORK"
}
trap finish EXIT

install_schemathesis() {
    [[ -x $VENV/bin/python ]] || python3 -m venv "$VENV"
    "$VENV/bin/python" -c "import importlib.metadata as m; assert m.version('schemathesis') == '$VERSION'" 2>/dev/null ||
        "$VENV/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$VERSION"
}

# await URL: waits until it is answered.
await() {
    wait_for 15 "$1" curl --silent --output /dev/null "$1" && return
    cat "$WORK"/*.log >&2
    return 1
}

# check NAME URL: all checks on.
check() {
    printf 'the %s\n' "$1"
    (cd "$WORK" && "$VENV/bin/schemathesis" --config-file "$WORK/schemathesis.toml" run "$2/v1/openapi.json" --url "$2" \
        --checks all --exclude-path /v1/drain --exclude-path /v1/upgrade --max-examples 100 --seed 1 --request-timeout 15 --output-truncate true \
        --suppress-health-check all) || return 1
}

main() {
    need_ringway
    install_schemathesis
    local listener tcp bridge backend
    read -r listener tcp bridge backend < <(free_ports 4)
    cat >"$WORK/tested.yaml" <<YAML
admin: {listen_address: "127.0.0.1:$tcp", socket: $WORK/admin.sock}
logging: {level: warn}
loadbalancer: {listen_address: "127.0.0.1:$listener"}
healthcheck: off
backends: ["127.0.0.1:$backend"]
YAML
    cat >"$WORK/bridge.yaml" <<YAML
admin: {listen_address: off, socket: off}
logging: {level: warn}
loadbalancer: {listen_address: "127.0.0.1:$bridge"}
healthcheck: off
backends: [{name: admin, address: "unix:$WORK/admin.sock"}]
YAML
    # What there is, beside what is made up.
    # An order may be refused for what runs, however well it is written.
    cat >"$WORK/schemathesis.toml" <<TOML
[parameters]
listener = "default"
"path.upstream" = "default"
"path.backend" = "127.0.0.1:$backend"
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "5xx"]
TOML
    # The backlog alone answers: its sessions stay open, so that there are some.
    start backend python3 -c "import socket, time; s = socket.create_server(('127.0.0.1', $backend)); time.sleep(600)"
    wait_for 15 "the backend" port_open "$backend"
    start tested "$RINGWAY" -f "$WORK/tested.yaml"
    await "http://127.0.0.1:$tcp/healthz"
    exec 3<>"/dev/tcp/127.0.0.1/$listener" 4<>"/dev/tcp/127.0.0.1/$listener"
    start bridge "$RINGWAY" -f "$WORK/bridge.yaml"
    await "http://127.0.0.1:$bridge/healthz"
    local failed=0
    check "TCP endpoint" "http://127.0.0.1:$tcp" || failed=1
    check "Unix socket" "http://127.0.0.1:$bridge" || failed=1
    # What was asked must not have ended it.
    await "http://127.0.0.1:$tcp/healthz" || failed=1
    return $failed
}

main
