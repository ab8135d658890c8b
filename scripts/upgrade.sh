#!/usr/bin/env bash
# Ten upgrades in a row while 1,000 clients a second come, half of them on a port and half on a Unix socket: none is refused or
# reset, long sessions live through all ten, and pid file and socket file belong to the newest process.
#
# Usage: scripts/upgrade.sh
#
# Needs: python3 (3.11 or later). Ports of 127.0.0.1 only; under a minute.
# The binary is $RINGWAY, default target/release/ringway, built when it is not there. UPGRADES and RATE may be set; KEEP=1 keeps
# the folder.
# Exit status: 0 all claims hold, 1 one does not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

UPGRADES=${UPGRADES:-10}
RATE=${RATE:-1000}
LONG=20

WORK=$(mktemp -d)
clean_up() {
    # The newest is no child of this shell, and has the file of the pid to itself.
    local pid
    pid=$(cat "$WORK/pid" 2>/dev/null || true)
    if [[ $(readlink "/proc/${pid:-none}/exe") == "$WORK"/* ]]; then kill -KILL "$pid" || true; fi
    stop_all
    [[ -n ${KEEP:-} ]] || rm -rf "$WORK"
}
trap clean_up EXIT

# The configuration, and a binary that can be replaced as a package replaces it.
make_instance() {
    read -r BACKEND PORT < <(free_ports 2)
    install -m 755 "$RINGWAY" "$WORK/ringway"
    cat >"$WORK/ringway.yaml" <<YAML
admin: {listen_address: off, socket: $WORK/admin.sock}
listeners:
  - {name: port, address: "127.0.0.1:$PORT", upstream: echo}
  - {name: path, address: "unix:$WORK/front", upstream: echo}
upstreams:
  - {name: echo, backends: [{address: 127.0.0.1, port: $BACKEND}], healthcheck: {interval: 1s}}
YAML
}

replace_binary() {
    install -m 755 "$RINGWAY" "$WORK/new"
    mv "$WORK/new" "$WORK/ringway"
}

newest() {
    cat "$WORK/pid"
}

is_replaced() {
    [[ -s $WORK/pid && $(newest) != "$1" ]]
}

upgrade() {
    local before
    before=$(newest)
    replace_binary
    kill -USR2 "$before"
    wait_for 20 "the successor of process $before" is_replaced "$before" || die "$(tail -n 20 "$WORK/ringway.log")"
    [[ $(readlink "/proc/$(newest)/exe") == "$WORK/ringway" ]] || die "process $(newest) does not run the binary on disk"
}

claim() {
    local sessions failed long_failed slowest
    read -r sessions failed long_failed slowest < <(tail -n 1 "$WORK/load.log")
    [[ $failed == 0 && $long_failed == 0 ]] || die "$failed of $sessions, $long_failed long: $(sed '1d;$d' "$WORK/load.log")"
    [[ $slowest -lt 5000 ]] || die "the slowest of $sessions sessions took $slowest ms"
    printf 'ok %s upgrades, %s sessions: none refused, none reset, the slowest took %s ms; %s long ones went on\n' \
        "$UPGRADES" "$sessions" "$slowest" "$LONG"
}

files_are_the_newest() {
    local last
    last=$(newest)
    [[ $("$RINGWAY" ctl --socket "$WORK/admin.sock" status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["pid"])') == "$last" ]] ||
        die "the admin socket is not that of process $last"
    kill -TERM "$last"
    wait_for 10 "the end of process $last" eval "! process_started $last" || die "it does not end"
    [[ ! -e $WORK/front && ! -e $WORK/pid && ! -e $WORK/admin.sock ]] || die "files are left: $(ls "$WORK")"
    printf 'ok pid file and sockets were those of the newest process\n'
}

main() {
    need_ringway
    make_instance
    start ringway "$WORK/ringway" run -f "$WORK/ringway.yaml" --pid-file "$WORK/pid"
    FIRST=$STARTED
    wait_for 10 "a listener" port_open "$PORT" || die "$(cat "$WORK/ringway.log")"
    start load python3 scripts/upgrade-load.py "$BACKEND" "$PORT" "$WORK/front" "$RATE" "$LONG"
    local load=$STARTED
    wait_for 10 "the first session" grep -q ready "$WORK/load.log" || die "$(cat "$WORK/load.log" "$WORK/ringway.log")"
    for _ in $(seq "$UPGRADES"); do
        upgrade
        # Not to wait for something: so long are the times between two, in which clients come, too.
        sleep 1
    done
    # The first one serves its long sessions still.
    process_started "$FIRST" >/dev/null || die "process $FIRST has left its sessions alone: $(tail -n 20 "$WORK/ringway.log")"
    kill -TERM "$load"
    wait_for 30 "the last sessions" eval "! process_started $load" || die "they do not end"
    claim
    files_are_the_newest
}

main
