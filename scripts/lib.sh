# shellcheck shell=bash
# What the scripts of this folder share; sourced, never run.
#
# Packages, free ports, waiting on an event with a deadline, and processes that are stopped by the
# pid this script started them under, never by name.

# Prints to stderr and ends the script with status 1.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# need_packages PACKAGE...: installs those that are missing from Debian's archive. No service is
# started by it: a policy-rc.d stands there for as long as the installation lasts.
need_packages() {
    local missing=() package
    for package in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    [[ $(id -u) == 0 ]] || die "run as root, or install first: ${missing[*]}"
    printf 'installing: %s\n' "${missing[*]}" >&2
    (
        set -e
        export DEBIAN_FRONTEND=noninteractive
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod 755 "$policy"
        fi
        # A machine that other runs share: wait for dpkg's lock instead of failing on it.
        apt_options=(-qq -o DPkg::Lock::Timeout=300)
        apt-get "${apt_options[@]}" update
        apt-get "${apt_options[@]}" install -y --no-install-recommends "${missing[@]}"
    ) </dev/null >&2 || die "cannot install: ${missing[*]}"
}

# Sets RINGWAY to an executable: the caller's, or the release build of this tree.
need_ringway() {
    local root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if [[ -z ${RINGWAY:-} ]]; then
        RINGWAY=${CARGO_TARGET_DIR:-$root/target}/release/ringway
        [[ -x $RINGWAY ]] || (cd "$root" && cargo build --release --locked) >&2
    fi
    [[ -x $RINGWAY ]] || die "no executable at $RINGWAY"
}

# free_ports N: N free TCP ports of 127.0.0.1, on one line. They lie below the range from which the
# kernel takes the ports of outgoing connections, so that no client can sit on a port which a
# restarted backend needs again.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random, socket, sys
wanted, held = int(sys.argv[1]), []
for port in random.sample(range(12000, 32000), 2000):
    if len(held) == wanted:
        break
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", port))
        held.append(s)
    except OSError:
        s.close()
print(*(s.getsockname()[1] for s in held))
PYTHON
}

# wait_for SECONDS WHAT COMMAND...: polls COMMAND until it succeeds; fails after SECONDS.
wait_for() {
    local seconds=$1 what=$2 deadline
    shift 2
    deadline=$((${EPOCHREALTIME/[.,]/} + seconds * 1000000))
    until "$@" >/dev/null 2>&1; do
        if ((${EPOCHREALTIME/[.,]/} > deadline)); then
            printf 'waited %s s in vain for: %s\n' "$seconds" "$what" >&2
            return 1
        fi
        sleep 0.05
    done
}

# Whether something accepts connections on this port of 127.0.0.1.
port_open() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# The time a process started at, in clock ticks: with its pid it names the process for good.
process_started() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The second field may hold blanks: count from behind it. Field 3 is the state, 22 the time.
    read -r -a stat <<<"${stat##*) }"
    [[ ${stat[0]} != Z ]] || return 1
    printf '%s\n' "${stat[19]}"
}

# start NAME COMMAND...: runs COMMAND in the background, its output in $WORK/NAME.log; leaves its pid in
# STARTED, in $WORK/NAME.pid, and in the list that stop_all works off. $WORK is the caller's own directory.
start() {
    local name=$1
    shift
    "$@" </dev/null >>"$WORK/$name.log" 2>&1 &
    STARTED=$!
    printf '%s\n' "$STARTED" >"$WORK/$name.pid"
    printf '%s %s\n' "$STARTED" "$(process_started "$STARTED" || echo gone)" >>"$WORK/started"
}

# Whether the process listed as PID STARTTIME still runs.
still_runs() {
    [[ -n $2 && $(process_started "$1") == "$2" ]]
}

# Ends every process that `start` started: TERM, and KILL for what is left after five seconds.
stop_all() {
    local pid since
    [[ -e $WORK/started ]] || return 0
    while read -r pid since; do
        if still_runs "$pid" "$since"; then kill -TERM "$pid" 2>/dev/null || true; fi
    done <"$WORK/started"
    while read -r pid since; do
        wait_for 5 "the end of process $pid" eval "! still_runs $pid $since" ||
            kill -KILL "$pid" 2>/dev/null || true
    done <"$WORK/started"
}
