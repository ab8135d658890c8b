#!/usr/bin/env bash
# Real clients and real servers through Ringway, every result checked.
#
# Usage: scripts/e2e.sh [--quick] [CHECK...]
#   --quick   shorter runs, for CI (under 2.5 minutes; else under 6)
#   CHECK     only these, of: redis pool postgres nginx iperf3 mariadb ssh smtp failover healthchecks accesslog
#             shutdown
#
# One Ringway balances all of it, a listener for each service. Prints `ok NAME DETAIL` or `FAIL NAME`
# for each check, what a failed one wrote, and at the end `N passed, N failed`.
#
# Needs: Debian, root (the databases run as their own users); installs the missing packages itself.
# The binary is $RINGWAY, default target/release/ringway, built when it is not there.
# Servers live in a temporary directory on free ports of 127.0.0.1; at the end everything is stopped and the
# directory removed, unless KEEP=1.
# Exit status: 0 all passed, 1 a check failed or the run could not begin, 2 wrong usage.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
source "$here/lib.sh"

ALL_CHECKS=(redis pool postgres nginx iperf3 mariadb ssh smtp failover healthchecks accesslog shutdown)
PACKAGES=(redis-server redis-tools postgresql wrk nginx curl iperf3 mariadb-server mariadb-client
    openssh-server openssh-client postfix haproxy python3 procps)

# Health checks of the failover upstream. A dead backend is found at the latest after the interval,
# plus `fall` checks at the fast interval, plus this machine's scheduling.
INTERVAL=300ms FAST_INTERVAL=100ms FALL=2
VERDICT_SECONDS=1.5

usage() {
    printf 'usage: %s [--quick] [%s]...\n' "${0##*/}" "$(IFS='|'; printf '%s' "${ALL_CHECKS[*]}")" >&2
    exit 2
}

# Sets what the command line chooses: the checks, and how long the runs last.
parse_arguments() {
    SECONDS_EACH=10 FILE_MIB=512 PGBENCH_SCALE=5
    CHECKS=()
    local argument
    for argument in "$@"; do
        case $argument in
        --quick) SECONDS_EACH=3 FILE_MIB=128 PGBENCH_SCALE=2 ;;
        -*) usage ;;
        *)
            [[ " ${ALL_CHECKS[*]} " == *" $argument "* ]] || usage
            CHECKS+=("$argument")
            ;;
        esac
    done
    ((${#CHECKS[@]})) || CHECKS=("${ALL_CHECKS[@]}")
}

# ---- the checks -----------------------------------------------------------------------------------

PASSED=0 FAILED=0

# run NAME FUNCTION...: runs FUNCTION in a subshell that ends at the first failing command, its output in
# a log; leaves its status in RUN_STATUS, prints FAIL and the log's end when it failed. To be called bare: behind
# `if`, `||` or `!` bash would not end FUNCTION at a failing command.
run() {
    local name=$1
    shift
    : >"$WORK/detail"
    set +e
    (
        set -e
        "$@"
    ) >"$WORK/run-$name.log" 2>&1
    RUN_STATUS=$?
    set -e
    ((RUN_STATUS != 0)) || return 0
    FAILED=$((FAILED + 1))
    printf 'FAIL %s\n' "$name"
    tail -n 25 "$WORK/run-$name.log" | sed 's/^/    /'
}

# check NAME FUNCTION...: a check that counts.
check() {
    run "$@"
    ((RUN_STATUS == 0)) || return 0
    PASSED=$((PASSED + 1))
    printf 'ok %s %s\n' "$1" "$(<"$WORK/detail")"
}

# What a passing check has to say for itself.
detail() {
    printf '%s' "$*" >"$WORK/detail"
}

fail() {
    printf 'failed: %s\n' "$*"
    exit 1
}

# same WHAT EXPECTED FOUND
same() {
    [[ $2 == "$3" ]] || fail "$1: expected '$2', found '$3'"
}

sum_of() {
    sha256sum "$1" | cut -d ' ' -f 1
}

# client SECONDS COMMAND...: a client never hangs the run.
client() {
    local seconds=$1
    shift
    timeout --kill-after=5 "$seconds" "$@"
}

wanted() {
    [[ " ${CHECKS[*]} " == *" $1 "* ]]
}

# ---- Ringway --------------------------------------------------------------------------------------

# service NAME: gives the service a backend port (PORT[NAME]) and a listener's (VIA[NAME]).
declare -A PORT VIA
assign_ports() {
    local services=(redis pool postgres nginx iperf3 in_order mariadb ssh smtp a b c) ports service
    read -r -a ports < <(free_ports $((2 * ${#services[@]})))
    ((${#ports[@]} == 2 * ${#services[@]})) || die "too few free ports"
    for service in "${services[@]}"; do
        PORT[$service]=${ports[0]} VIA[$service]=${ports[1]}
        ports=("${ports[@]:2}")
    done
}

# listener NAME, and upstream NAME BACKEND...: their parts of the configuration.
listener() {
    printf '  - {name: %s, address: "127.0.0.1:%s", upstream: %s}\n' "$1" "${VIA[$1]}" "$1"
}

upstream() {
    local name=$1 backend
    shift
    printf '  - name: %s\n    algorithm: round_robin\n    backends:\n' "$name"
    for backend in "$@"; do
        printf '      - {name: %s, address: 127.0.0.1, port: %s}\n' "$backend" "${PORT[$backend]}"
    done
    printf '    healthcheck: {%s, interval: %s, fast_interval: %s, timeout: 1s, rise: 2, fall: %s}\n' \
        "${CHECK_OF[$name]:-type: tcp}" "$INTERVAL" "$FAST_INTERVAL" "$FALL"
}

# The services other than failover's have one backend each.
SINGLE=(redis postgres nginx iperf3 mariadb ssh smtp)
# How they are checked, where that is not by tcp.
declare -A CHECK_OF=([redis]='type: redis' [postgres]='type: postgres, user: ringway_check'
    [mariadb]='type: mysql, user: ringway_check' [smtp]='type: smtp, host: lb.test')

write_configuration() {
    local service
    printf 'logging: {level: info, format: text, target: stderr, access_log: %s}\n' "$WORK/access.log"
    printf 'admin: {listen_address: off, socket: %s}\nlisteners:\n' "$WORK/admin.sock"
    for service in "${SINGLE[@]}"; do wanted "$service" && listener "$service"; done
    wanted pool && listener pool
    listener a
    printf 'upstreams:\n'
    for service in "${SINGLE[@]}"; do wanted "$service" && upstream "$service" "$service"; done
    wanted pool && pool_upstream
    upstream a a b c
}

# Nothing but sessions and the pool connects to it.
pool_upstream() {
    printf '  - name: pool\n    backends: [{address: 127.0.0.1, port: %s}]\n    healthcheck: off\n' "${PORT[pool]}"
    printf '    pool: {size: 20, reuse: reset, clients: trusted, reset: {send: "RESET\\r\\n", expect: "+RESET\\r\\n"}}\n'
}

start_ringway() {
    write_configuration >"$WORK/ringway.yaml"
    start ringway "$RINGWAY" -f "$WORK/ringway.yaml"
    RINGWAY_PID=$STARTED
    local since
    since=$(process_started "$RINGWAY_PID") || true
    wait_for 20 "a first answer through Ringway" answers_or_ended "$since" || true
    if ! through_failover; then
        cat "$WORK/ringway.log" >&2
        die "Ringway does not serve"
    fi
    if wanted pool; then wait_for 10 "the pool to be filled" pool_is_filled; fi
    SOCKETS_AT_START=$(sockets_of "$RINGWAY_PID")
}

answers_or_ended() {
    through_failover || ! still_runs "$RINGWAY_PID" "$1"
}

through_failover() {
    local answer
    answer=$(curl -sS --max-time 2 "http://127.0.0.1:${VIA[a]}/")
    [[ $answer == [abc] ]]
}

sockets_of() {
    find "/proc/$1/fd" -lname 'socket:*' 2>/dev/null | wc -l
}

# ---- redis ----------------------------------------------------------------------------------------

start_redis() {
    mkdir "$WORK/redis"
    start redis redis-server --port "${PORT[redis]}" --bind 127.0.0.1 --dir "$WORK/redis" --save '' \
        --appendonly no --daemonize no
    wait_for 15 "redis" redis-cli -p "${PORT[redis]}" ping
}

redis() {
    redis-cli -h 127.0.0.1 -p "${VIA[redis]}" "$@"
}

check_redis_benchmark() {
    redis config resetstat
    client 90 redis-benchmark -h 127.0.0.1 -p "${VIA[redis]}" -n 200000 -c 100 -P 16 -t set,get --csv >"$WORK/redis.csv"
    cat "$WORK/redis.csv"
    # Every request reached the server, and none of them was answered with an error.
    redis info commandstats | tr -d '\r' >"$WORK/redis.stats"
    cat "$WORK/redis.stats"
    grep -Eq '^cmdstat_set:calls=200000,.*rejected_calls=0,failed_calls=0' "$WORK/redis.stats"
    grep -Eq '^cmdstat_get:calls=200000,.*rejected_calls=0,failed_calls=0' "$WORK/redis.stats"
    redis info errorstats | tr -d '\r' >"$WORK/redis.errors"
    same "errors of the server" "# Errorstats" "$(<"$WORK/redis.errors")"
    detail "$(awk -F '"' '/"SET"|"GET"/ {printf "%s %.0f/s ", $2, $4}' "$WORK/redis.csv")"
}

check_redis_values() {
    local n=20000
    redis flushall
    seq "$n" | awk '{printf "SET key:%d value:%d:%040d\r\n", $1, $1 * 7919, $1}' >"$WORK/redis.set"
    client 60 redis-cli -h 127.0.0.1 -p "${VIA[redis]}" --pipe <"$WORK/redis.set" | tee "$WORK/redis.pipe"
    grep -q "errors: 0, replies: $n" "$WORK/redis.pipe"
    seq "$n" | awk '{printf "value:%d:%040d\n", $1 * 7919, $1}' >"$WORK/redis.expected"
    seq "$n" | awk '{printf "GET key:%d\n", $1}' | client 60 redis-cli -h 127.0.0.1 -p "${VIA[redis]}" >"$WORK/redis.found"
    cmp "$WORK/redis.expected" "$WORK/redis.found"
    # One value of 64 MiB, set and read back whole.
    head -c 64M /dev/urandom >"$WORK/redis.big"
    same "SET of 64 MiB" OK "$(client 60 redis-cli -h 127.0.0.1 -p "${VIA[redis]}" -x set big <"$WORK/redis.big")"
    client 60 redis-cli -h 127.0.0.1 -p "${VIA[redis]}" --raw get big >"$WORK/redis.back"
    # redis-cli ends its output with a line feed.
    printf '\n' >>"$WORK/redis.big"
    cmp "$WORK/redis.big" "$WORK/redis.back"
    detail "$n values and one of 64 MiB read back"
}

# ---- the pool, with a Redis of its own --------------------------------------------------------------

start_pool() {
    mkdir "$WORK/pool"
    start pool redis-server --port "${PORT[pool]}" --bind 127.0.0.1 --dir "$WORK/pool" --save '' \
        --appendonly no --daemonize no
    wait_for 15 "redis of the pool" redis-cli -p "${PORT[pool]}" ping
}

# What Redis itself says of the connections it has accepted.
connections_of_pool() {
    redis-cli -p "${PORT[pool]}" info stats | tr -d '\r' | sed -n 's/^total_connections_received://p'
}

pool_is_filled() {
    (($(redis-cli -p "${PORT[pool]}" info clients | tr -d '\r' | sed -n 's/^connected_clients://p') > 20))
}

check_pool() {
    local before after sessions=10000
    before=$(connections_of_pool)
    client 120 python3 "$here/redis-sessions.py" "${VIA[pool]}" "$sessions" 4
    after=$(connections_of_pool)
    # The one that asks is one of them.
    ((after - before - 1 <= 20)) || fail "$((after - before - 1)) connections to Redis"
    same "the transaction that was never executed" "" "$(redis-cli -p "${PORT[pool]}" -n 3 get never)"
    detail "$sessions sessions, $((after - before - 1)) new connections beside the pool of 20"
}

# ---- PostgreSQL -----------------------------------------------------------------------------------

start_postgres() {
    local bin
    bin=$(postgres_bin)
    install -d -o postgres -m 700 "$WORK/postgres"
    (as_user postgres "$bin/initdb" -D "$WORK/postgres" -A trust -U postgres -E UTF8 --no-sync)
    start postgres as_user postgres "$bin/postgres" -D "$WORK/postgres" -p "${PORT[postgres]}" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c max_connections=100
    wait_for 30 "PostgreSQL" "$bin/pg_isready" -h 127.0.0.1 -p "${PORT[postgres]}" -U postgres -d postgres
    psql -h 127.0.0.1 -p "${PORT[postgres]}" -U postgres -c 'CREATE ROLE ringway_check LOGIN' postgres
}

postgres_bin() {
    find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin | sort -V | tail -n 1
}

# Replaces the process (no shell and no session in between), so that its pid is the server's.
as_user() {
    local user=$1
    shift
    exec setpriv --reuid="$user" --regid="$user" --init-groups "$@"
}

pgbench() {
    client 120 "$(postgres_bin)/pgbench" -h 127.0.0.1 -p "${VIA[postgres]}" -U postgres "$@" postgres
}

query() {
    client 30 psql -h 127.0.0.1 -p "${VIA[postgres]}" -U postgres -Atq -c "$1" postgres
}

# The four tables of pgbench were moved by the same amounts; one history row for each transaction.
check_balance() {
    same "the sums of the four tables" t "$(query 'SELECT a = b AND b = t AND t = h FROM
        (SELECT sum(abalance) a FROM pgbench_accounts) x, (SELECT sum(bbalance) b FROM pgbench_branches) y,
        (SELECT sum(tbalance) t FROM pgbench_tellers) z, (SELECT coalesce(sum(delta), 0) h FROM pgbench_history) w')"
    same "rows of history" "$1" "$(query 'SELECT count(*) FROM pgbench_history')"
}

transactions_of() {
    sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$1"
}

check_pgbench() {
    pgbench -i -q -s "$PGBENCH_SCALE"
    same "rows" $((PGBENCH_SCALE * 100000)) "$(query 'SELECT count(*) FROM pgbench_accounts')"
    pgbench -n -c 20 -j 2 -T "$SECONDS_EACH" | tee "$WORK/pgbench.out"
    grep -q '^number of failed transactions: 0 ' "$WORK/pgbench.out"
    check_balance "$(transactions_of "$WORK/pgbench.out")"
    detail "$(transactions_of "$WORK/pgbench.out") transactions, 0 failed, sums agree"
}

check_pgbench_connect() {
    local before
    before=$(query 'SELECT count(*) FROM pgbench_history')
    pgbench -n -C -c 20 -j 2 -T "$SECONDS_EACH" | tee "$WORK/pgbench-C.out"
    grep -q '^number of failed transactions: 0 ' "$WORK/pgbench-C.out"
    check_balance $((before + $(transactions_of "$WORK/pgbench-C.out")))
    detail "$(transactions_of "$WORK/pgbench-C.out") connections and transactions, 0 failed, sums agree"
}

# ---- nginx ----------------------------------------------------------------------------------------

# nginx_configuration NAME ROOT: one process and no master, so that the pid is all there is of it.
nginx_configuration() {
    local temp=$WORK/nginx-$1
    mkdir -p "$temp"
    cat <<NGINX
user root;
daemon off;
master_process off;
pid $temp/pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
    access_log off;
    sendfile on;
    keepalive_requests 1000000;
    client_body_temp_path $temp/body; proxy_temp_path $temp/proxy; fastcgi_temp_path $temp/fastcgi;
    uwsgi_temp_path $temp/uwsgi; scgi_temp_path $temp/scgi;
    server { listen 127.0.0.1:${PORT[$1]} backlog=4096; root $2; }
}
NGINX
}

# start_nginx NAME ROOT: again after a kill, too.
start_nginx() {
    nginx_configuration "$1" "$2" >"$WORK/nginx-$1.conf"
    start "nginx-$1" nginx -e stderr -c "$WORK/nginx-$1.conf"
    wait_for 15 "nginx $1" port_open "${PORT[$1]}"
}

start_web() {
    mkdir "$WORK/www"
    seq 200 >"$WORK/www/index.html"
    head -c "${FILE_MIB}M" /dev/urandom >"$WORK/www/large"
    start_nginx nginx "$WORK/www"
}

# run_wrk NAME WRK-ARGUMENT...
run_wrk() {
    local out=$WORK/wrk-$1.out
    shift
    client $((SECONDS_EACH + 30)) wrk -t 2 -d "$SECONDS_EACH" --latency "$@" "http://127.0.0.1:${VIA[nginx]}/" | tee "$out"
    if grep -E 'Socket errors|Non-2xx' "$out"; then fail "wrk saw errors"; fi
    local requests
    requests=$(awk '/requests in/ {print $1}' "$out")
    ((requests > 100)) || fail "only $requests requests"
    detail "$requests requests, $(awk '/Requests\/sec/ {printf "%.0f/s", $2} /99%/ {printf "p99 %s, ", $2}' "$out")"
}

check_large_file() {
    local expected found
    expected=$(sum_of "$WORK/www/large")
    found=$(client 120 curl -sS --fail "http://127.0.0.1:${VIA[nginx]}/large" | sha256sum | cut -d ' ' -f 1)
    same "checksum" "$expected" "$found"
    # A client that reads slowly fills every buffer on the way; not a byte may be lost for it.
    found=$(client 120 curl -sS --fail --limit-rate 20M --range 0-41943039 "http://127.0.0.1:${VIA[nginx]}/large" |
        sha256sum | cut -d ' ' -f 1)
    expected=$(head -c 40M "$WORK/www/large" | sha256sum | cut -d ' ' -f 1)
    same "checksum of the slow download" "$expected" "$found"
    detail "$FILE_MIB MiB, and 40 MiB at 20 MiB/s: checksums agree"
}

# ---- iperf3 ---------------------------------------------------------------------------------------

start_iperf3() {
    start iperf3 iperf3 -s -B 127.0.0.1 -p "${PORT[iperf3]}"
    wait_for 15 "iperf3" listening "${PORT[iperf3]}"
}

# Whether the port is bound, without connecting: iperf3 takes any connection for a test.
listening() {
    awk -v port="$(printf ':%04X' "$1")" '$4 == "0A" && substr($2, 9) == port {found = 1} END {exit !found}' /proc/net/tcp
}

# For --bidir, iperf3 gives its two streams their directions by the order in which the server accepts them. Two shards that
# connect for one stream each may swap them; then both ends of one stream send, and both of the other one wait. So one core.
start_in_order() {
    cat >"$WORK/in_order.yaml" <<YAML
runtime: {cores: 1}
admin: {listen_address: off, socket: off}
listeners: [{name: in_order, address: "127.0.0.1:${VIA[in_order]}", upstream: iperf3}]
upstreams: [{name: iperf3, healthcheck: off, backends: [{address: 127.0.0.1, port: ${PORT[iperf3]}}]}]
YAML
    start in_order "$RINGWAY" -f "$WORK/in_order.yaml"
    wait_for 15 "Ringway on one core" listening "${VIA[in_order]}"
}

# run_iperf3 PORT DIRECTIONS ARGUMENT...: DIRECTIONS is how many of them must have moved bytes.
run_iperf3() {
    local port=$1 directions=$2 out summary
    shift 2
    out=$(mktemp "$WORK/iperf3.XXXX")
    # The server serves one test at a time and frees itself a moment after the client has left.
    wait_for 10 "iperf3 to be free" iperf3_ready
    client $((SECONDS_EACH + 30)) iperf3 -c 127.0.0.1 -p "$port" -t "$SECONDS_EACH" -J "$@" >"$out" || {
        cat "$out"
        fail "iperf3"
    }
    # Assigned first: a failure within an argument would go unnoticed.
    summary=$(iperf3_summary "$directions" "$out")
    detail "$summary"
}

iperf3_ready() {
    client 10 iperf3 -c 127.0.0.1 -p "${VIA[iperf3]}" -n 1
}

iperf3_summary() {
    python3 - "$@" <<'PYTHON'
import json, sys
directions, result = int(sys.argv[1]), json.load(open(sys.argv[2]))
if "error" in result:
    sys.exit(f"iperf3: {result['error']}")
end, found = result["end"], []
for suffix in ("", "_bidir_reverse")[:directions]:
    sent, received = end["sum_sent" + suffix], end["sum_received" + suffix]
    if not (sent["bytes"] > 0 and received["bytes"] > 0):
        sys.exit(f"no bytes in a direction: {sent} {received}")
    found.append(f"{received['bytes'] / 1e9:.1f} GB at {received['bits_per_second'] / 1e9:.1f} Gbit/s")
print(", ".join(found))
PYTHON
}

# ---- MariaDB --------------------------------------------------------------------------------------

start_mariadb() {
    install -d -o mysql -m 700 "$WORK/mariadb"
    mariadb-install-db --no-defaults --user=mysql --datadir="$WORK/mariadb" --auth-root-authentication-method=normal \
        --skip-test-db
    start mariadb as_user mysql /usr/sbin/mariadbd --no-defaults --datadir="$WORK/mariadb" --bind-address=127.0.0.1 \
        --port="${PORT[mariadb]}" --socket="$WORK/mariadb/socket" --pid-file="$WORK/mariadb/pid" \
        --max-allowed-packet=64M --innodb-flush-log-at-trx-commit=0
    wait_for 40 "MariaDB" mariadb_on "${PORT[mariadb]}" -e 'SELECT 1'
    mariadb_on "${PORT[mariadb]}" -e "CREATE USER ringway_check@'%'"
}

# mariadb_on PORT ARGUMENT...
mariadb_on() {
    local port=$1
    shift
    client 60 mariadb --no-defaults --protocol=TCP -h 127.0.0.1 -P "$port" -u root --max-allowed-packet=64M -N -B "$@"
}

check_mariadb_select() {
    local i
    for ((i = 0; i < 50; i++)); do
        same "SELECT over session $i" $((i * i)) "$(mariadb_on "${VIA[mariadb]}" -e "SELECT $i * $i")"
    done
    detail "50 sessions, greeted by the backend each"
}

check_mariadb_dump() {
    local via=${VIA[mariadb]} direct=${PORT[mariadb]}
    head -c 8M /dev/urandom >"$WORK/row"
    {
        printf 'CREATE DATABASE e2e; USE e2e; CREATE TABLE t (id INT PRIMARY KEY, b LONGBLOB);\n'
        printf 'INSERT INTO t SELECT seq, SHA2(seq, 512) FROM seq_1_to_20000;\n'
        # The big row goes through Ringway in one statement of 16 MiB.
        printf "INSERT INTO t VALUES (0, X'%s');\n" "$(od -An -v -tx1 "$WORK/row" | tr -d ' \n')"
    } >"$WORK/row.sql"
    mariadb_on "$via" <"$WORK/row.sql"
    same "checksum of the big row" "$(sum_of "$WORK/row")" "$(mariadb_on "$via" -e 'SELECT SHA2(b, 256) FROM e2e.t WHERE id = 0')"
    dump "$via" >"$WORK/dump.via"
    dump "$direct" >"$WORK/dump.direct"
    grep -q 'CREATE TABLE' "$WORK/dump.via"
    cmp "$WORK/dump.via" "$WORK/dump.direct"
    detail "a row of 8 MiB, and a dump of $(($(stat -c %s "$WORK/dump.via") >> 20)) MiB equal to the direct one"
}

dump() {
    client 60 mariadb-dump --no-defaults --protocol=TCP -h 127.0.0.1 -P "$1" -u root --max-allowed-packet=64M \
        --skip-comments --hex-blob e2e
}

# ---- ssh ------------------------------------------------------------------------------------------

start_ssh() {
    local pam=no
    # Without PAM sshd refuses an account whose password is locked by a '!'.
    [[ $(getent shadow "$(id -un)" | cut -d : -f 2) != '!'* ]] || pam=yes
    mkdir -p "$WORK/ssh" /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f "$WORK/ssh/host"
    ssh-keygen -q -t ed25519 -N '' -f "$WORK/ssh/client"
    cat >"$WORK/ssh/sshd_config" <<SSHD
ListenAddress 127.0.0.1:${PORT[ssh]}
HostKey $WORK/ssh/host
AuthorizedKeysFile $WORK/ssh/client.pub
PidFile $WORK/ssh/pid
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM $pam
Subsystem sftp internal-sftp
MaxStartups 100
SSHD
    start sshd /usr/sbin/sshd -D -e -f "$WORK/ssh/sshd_config"
    wait_for 15 "sshd" port_open "${PORT[ssh]}"
}

check_scp() {
    local user ssh_options
    user=$(id -un)
    ssh_options=(-F none -i "$WORK/ssh/client" -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=accept-new
        -o "UserKnownHostsFile=$WORK/ssh/known_hosts")
    head -c "${FILE_MIB}M" /dev/urandom >"$WORK/ssh/file"
    client 120 scp -q "${ssh_options[@]}" -P "${VIA[ssh]}" "$WORK/ssh/file" "$user@127.0.0.1:$WORK/ssh/uploaded"
    client 120 scp -q "${ssh_options[@]}" -P "${VIA[ssh]}" "$user@127.0.0.1:$WORK/ssh/uploaded" "$WORK/ssh/downloaded"
    same "checksum of the upload" "$(sum_of "$WORK/ssh/file")" "$(sum_of "$WORK/ssh/uploaded")"
    same "checksum of the download" "$(sum_of "$WORK/ssh/file")" "$(sum_of "$WORK/ssh/downloaded")"
    # A command's input, output and status, with a half-close in the middle.
    same "sort over ssh" $'1\n2\n3' "$(printf '3\n1\n2\n' |
        client 30 ssh "${ssh_options[@]}" -p "${VIA[ssh]}" "$user@127.0.0.1" sort)"
    detail "$FILE_MIB MiB each way, checksums agree"
}

# ---- Postfix --------------------------------------------------------------------------------------

# Takes every mail and forgets it. It writes to its standard output what it would tell syslog.
start_smtp() {
    local service
    mkdir -p "$WORK/postfix" "$WORK/postfix-queue"
    install -d -o postfix -m 700 "$WORK/postfix-data"
    cat >"$WORK/postfix/main.cf" <<POSTFIX
compatibility_level = 3.6
queue_directory = $WORK/postfix-queue
data_directory = $WORK/postfix-data
maillog_file = /dev/stdout
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.test
mydestination =
alias_maps =
default_transport = discard:
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_tls_security_level = none
POSTFIX
    {
        printf '127.0.0.1:%s inet n - n - - smtpd\n' "${PORT[smtp]}"
        printf 'postlog unix-dgram n - n - 1 postlogd\nqmgr unix n - n 300 1 qmgr\npickup unix n - n 60 1 pickup\n'
        printf 'cleanup unix n - n - 0 cleanup\n'
        for service in anvil proxymap discard error; do printf '%s unix - - n - 0 %s\n' "$service" "$service"; done
        printf 'rewrite unix - - n - - trivial-rewrite\nretry unix - - n - - error\n'
        for service in bounce defer trace; do printf '%s unix - - n - 0 bounce\n' "$service"; done
    } >"$WORK/postfix/master.cf"
    # Makes the directories.
    /usr/sbin/postfix -c "$WORK/postfix" check
    start postfix "$(postconf -h -c "$WORK/postfix" daemon_directory)/master" -s -c "$WORK/postfix"
    wait_for 30 "Postfix" port_open "${PORT[smtp]}"
}

mails_sent() {
    grep -c 'status=sent' "$WORK/postfix.log"
}

check_mails() {
    local count=50
    client 60 python3 - "${VIA[smtp]}" "$count" <<'PYTHON'
import smtplib, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
for number in range(count):
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test") as server:
        # The last one has a megabyte.
        body = ("x" * 70 + "\r\n") * (15_000 if number + 1 == count else 10)
        server.sendmail("a@client.test", ["b@mx.test"], f"Subject: {number}\r\n\r\n{body}")
PYTHON
    wait_for 20 "the mails to be delivered" at_least "$count" mails_sent
    detail "$count mails, one of 1 MB"
}

# ---- health checks by their protocols ---------------------------------------------------------------

# How many connections a server has seen, by its own count.
redis_pings() { redis-cli -p "${PORT[redis]}" info commandstats | sed -n 's/^cmdstat_ping:calls=\([0-9]*\).*/\1/p'; }
postgres_sessions() { query "SELECT sessions FROM pg_stat_database WHERE datname = 'postgres'"; }
mariadb_status() { mariadb_on "${PORT[mariadb]}" -e "SHOW GLOBAL STATUS LIKE '$1'" | cut -f 2; }
postfix_checks() { grep -c 'ehlo=1 quit=1 commands=2' "$WORK/postfix.log"; }

# What the checks have left at the servers after all that went before, each every 300 ms.
check_traces() {
    local found=() checks=20
    if wanted redis; then
        wait_for 20 "checks of Redis" at_least "$checks" redis_pings
        redis-cli -p "${PORT[redis]}" info errorstats | tr -d '\r' >redis.errors
        same "errors of Redis" "# Errorstats" "$(<redis.errors)"
        found+=("Redis $(redis_pings)")
    fi
    if wanted postgres; then
        wait_for 20 "checks of PostgreSQL" at_least "$checks" postgres_sessions
        same "errors of PostgreSQL" "" "$(grep -E 'FATAL|ERROR|could not|unexpected|incomplete|invalid' postgres.log || true)"
        found+=("PostgreSQL $(postgres_sessions)")
    fi
    if wanted mariadb; then
        wait_for 20 "checks of MariaDB" at_least "$checks" mariadb_status Connections
        same "aborted connects of MariaDB" 0 "$(mariadb_status Aborted_connects)"
        same "aborted clients of MariaDB" 0 "$(mariadb_status Aborted_clients)"
        same "warnings of MariaDB" "" "$(grep -E 'Aborted|denied' mariadb.log || true)"
        found+=("MariaDB $(mariadb_status Connections)")
    fi
    if wanted smtp; then
        wait_for 20 "checks of Postfix" at_least "$checks" postfix_checks
        # The first connection is the one that waited for the port.
        same "trouble of Postfix" "" "$(grep -E 'lost|timeout|warning|improper|error' postfix.log | sed 1d)"
        found+=("Postfix $(postfix_checks)")
    fi
    detail "no server noticed any, of so many connections: ${found[*]}"
}

# said TIMES NAME STATE WORDS: Ringway has said so often that the only backend of this name is up or down, with these words.
said() {
    (($(grep -F "$2/$2 is $3" "$WORK/ringway.log" | grep -cF "$4") >= $1))
}

# refuses NAME WORDS: the backend goes down by these words.
refuses() {
    wait_for 10 "$1 to be down by: $2" said 1 "$1" down "$2" || fail "$(grep -F "$1/$1 is" "$WORK/ringway.log")"
}

comes_back() {
    wait_for 10 "$1 to be up" said 1 "$1" up succeeded || fail "$(grep -F "$1/$1 is" "$WORK/ringway.log")"
}

# Each server refuses its clients in its own way, is down by its own words, and comes back, but for PostgreSQL, which ends.
check_verdicts() {
    local found=()
    if wanted redis; then
        redis-cli -p "${PORT[redis]}" config set replica-serve-stale-data no
        redis-cli -p "${PORT[redis]}" replicaof 127.0.0.1 1
        refuses redis "PING was answered \`-MASTERDOWN Link with MASTER is down"
        redis-cli -p "${PORT[redis]}" replicaof no one
        # It wants a password, and serves those who have one.
        redis-cli -p "${PORT[redis]}" config set requirepass secret
        comes_back redis
        found+=(Redis)
    fi
    if wanted mariadb; then
        mariadb_on "${PORT[mariadb]}" -e "ALTER USER ringway_check@'%' ACCOUNT LOCK"
        refuses mariadb "refused with 4151 \`Access denied, this account is locked\`"
        mariadb_on "${PORT[mariadb]}" -e "ALTER USER ringway_check@'%' ACCOUNT UNLOCK"
        comes_back mariadb
        found+=(MariaDB)
    fi
    if wanted smtp; then
        postconf -c "$WORK/postfix" -e smtpd_delay_reject=no smtpd_helo_restrictions=reject
        /usr/sbin/postfix -c "$WORK/postfix" reload
        refuses smtp "EHLO was answered \`554 5.7.1 <lb.test>: Helo command rejected: Access denied\`"
        postconf -c "$WORK/postfix" -e smtpd_helo_restrictions=
        /usr/sbin/postfix -c "$WORK/postfix" reload
        comes_back smtp
        found+=(Postfix)
    fi
    if wanted postgres; then
        # A session is open, and the server waits for its end.
        start session psql -h 127.0.0.1 -p "${PORT[postgres]}" -U postgres -c 'SELECT pg_sleep(60)' postgres
        wait_for 10 "a session" session_sleeps
        kill -TERM "$(<"$WORK/postgres.pid")"
        refuses postgres "refused with \`57P03\` \`the database system is shutting down\`"
        # It waits no longer.
        kill -INT "$(<"$WORK/postgres.pid")"
        found+=(PostgreSQL)
    fi
    detail "down by their own words: ${found[*]}"
}

session_sleeps() {
    [[ $(psql -h 127.0.0.1 -p "${PORT[postgres]}" -U postgres -Atqc "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'" \
        postgres) == 1 ]]
}

# ---- failover -------------------------------------------------------------------------------------

start_failover() {
    local name
    for name in a b c; do
        mkdir "$WORK/www-$name"
        printf '%s' "$name" >"$WORK/www-$name/index.html"
        start_nginx "$name" "$WORK/www-$name"
    done
}

# sessions_after TIME: how many short sessions have begun since then; count_after TIME ANSWER likewise.
sessions_after() {
    awk -v after="$1" '$1 > after' "$WORK/sessions.log" | wc -l
}

count_after() {
    awk -v after="$1" -v answer="$2" '$1 > after && $2 == answer' "$WORK/sessions.log" | wc -l
}

at_least() {
    (($("${@:2}") >= $1))
}

# The clock of the sessions; `now AFTER` is that many seconds ahead.
now() {
    python3 -c "import time; print(time.monotonic() + ${1:-0})"
}

# Each of a, b and c has a third of the sessions after TIME, within a tenth of it.
fair_shares() {
    local total share name
    total=$(sessions_after "$1")
    for name in a b c; do
        share=$(count_after "$1" "$name")
        ((share * 30 > total * 9 && share * 30 < total * 11)) || fail "$name served $share of $total sessions"
        SHARES+="$name $share "
    done
}

check_failover() {
    local from verdict back killed_at during
    start sessions python3 "$here/short-sessions.py" "${VIA[a]}" 8
    from=$(now)
    wait_for 20 "900 sessions" at_least 900 sessions_after "$from"
    SHARES=
    fair_shares "$from"

    kill -KILL "$(<"$WORK/nginx-b.pid")"
    killed_at=$(now)
    verdict=$(now "$VERDICT_SECONDS")
    wait_for 20 "900 sessions after the verdict" at_least 900 sessions_after "$verdict"
    back=$(now)
    same "answers of the dead backend" 0 "$(awk -v f="$verdict" '$1 > f && $2 == "b"' "$WORK/sessions.log" | wc -l)"
    same "errors after the verdict" "" "$(awk -v f="$verdict" '$1 > f && $2 ~ /^!/' "$WORK/sessions.log" | sed -n 1,5p)"
    same "errors before the kill" "" "$(awk -v t="$killed_at" '$1 < t - 1 && $2 ~ /^!/' "$WORK/sessions.log" | sed -n 1,5p)"
    during=$(awk -v a="$killed_at" -v b="$verdict" '$1 > a - 1 && $1 <= b && $2 ~ /^!/' "$WORK/sessions.log" | wc -l)
    # Only the sessions that were under way when the backend died may have failed.
    ((during <= 8)) || fail "$during sessions failed at the kill, of 8 at a time"

    start_nginx b "$WORK/www-b"
    wait_for 15 "an answer of the restarted backend" at_least 1 count_after "$back" b
    from=$(now 0.5)
    wait_for 20 "900 sessions after the restart" at_least 900 sessions_after "$from"
    SHARES=
    fair_shares "$from"
    same "errors after the restart" "" "$(awk -v f="$back" '$1 > f && $2 ~ /^!/' "$WORK/sessions.log" | sed -n 1,5p)"
    detail "$(wc -l <"$WORK/sessions.log") sessions, $during failed at the kill, 0 after the verdict, shares again: $SHARES"
}

# ---- access log -----------------------------------------------------------------------------------

# Sessions that have ended, by the metrics: those of each reason.
ended_sessions() {
    curl -sS --unix-socket "$WORK/admin.sock" http://localhost/metrics |
        awk '/^ringway_sessions_closed_total/ { sum += $NF } END { print sum + 0 }'
}

all_are_logged() {
    local ended
    ended=$(ended_sessions)
    LOGGED=$(wc -l <"$WORK/access.log")
    ((LOGGED >= ended && ended > 0))
}

# HAProxy's halog finds of these lines what it finds of HAProxy's own lines for TCP: when sessions began, and the servers. The
# client is field 1 here; it looks for it in field 5, behind the header of syslog.
check_access_log() {
    wait_for 10 "a record of each session" all_are_logged || fail "$LOGGED records of $(ended_sessions) sessions"
    # Sessions go on, and so does the log.
    head -n "$LOGGED" "$WORK/access.log" >logged
    halog -s -4 -ad 0 -ac 1 <logged >halog-times 2>halog-said
    grep "^$LOGGED lines in, .* 0 parsing errors" halog-said
    halog -s -4 -srv <logged >halog-servers 2>/dev/null
    grep '^a/b ' halog-servers
    detail "$LOGGED records, by letters: $(awk '{ count[$7]++ } END { for (letters in count) print letters, count[letters] }' \
        logged | sort | tr '\n' ' ')"
}

# ---- the end of Ringway ---------------------------------------------------------------------------

few_sockets() {
    (($(sockets_of "$RINGWAY_PID") <= SOCKETS_AT_START + 4))
}

# After all that traffic Ringway holds no more sockets than at the start, but for a health check under way.
check_no_leak() {
    wait_for 15 "Ringway's sockets to be closed" few_sockets ||
        fail "$(sockets_of "$RINGWAY_PID") sockets, $SOCKETS_AT_START at the start"
    if grep -i panicked "$WORK/ringway.log"; then fail "a panic"; fi
    detail "$(sockets_of "$RINGWAY_PID") sockets, $SOCKETS_AT_START at the start"
}

# TERM while a session is open: no new ones, the open one is served to its end.
check_drain() {
    local answer since
    since=$(process_started "$RINGWAY_PID")
    exec 7<>"/dev/tcp/127.0.0.1/${VIA[a]}"
    printf 'GET / HTTP/1.0\r\n' >&7
    kill -TERM "$RINGWAY_PID"
    wait_for 10 "the listener to be closed" not listening "${VIA[a]}"
    still_runs "$RINGWAY_PID" "$since" || fail "Ringway left while a session was open"
    printf '\r\n' >&7
    answer=$(timeout 5 tail -n 1 <&7)
    [[ $answer == [abc] ]] || fail "the open session got '$answer'"
    exec 7<&-
    wait_for 10 "Ringway's end" not still_runs "$RINGWAY_PID" "$since"
    detail "an open session was served to its end"
}

not() {
    ! "$@"
}

check_status() {
    same "exit status of Ringway" 0 "$1"
    detail 0
}

shut_down() {
    check no-leak check_no_leak
    check drain check_drain
    local status=0
    kill -KILL "$RINGWAY_PID" 2>/dev/null || true
    wait "$RINGWAY_PID" || status=$?
    check exit-status check_status "$status"
}

# ---- all of it ------------------------------------------------------------------------------------

run_checks() {
    local check
    for check in "${CHECKS[@]}"; do
        case $check in
        redis)
            check redis-benchmark check_redis_benchmark
            check redis-values check_redis_values
            ;;
        pool) check pool check_pool ;;
        postgres)
            check pgbench check_pgbench
            check pgbench-connect check_pgbench_connect
            ;;
        nginx)
            check wrk run_wrk keepalive -c 100
            check wrk-close run_wrk close -c 50 -H 'Connection: close'
            check large-file check_large_file
            ;;
        iperf3)
            check iperf3-upload run_iperf3 "${VIA[iperf3]}" 1
            check iperf3-download run_iperf3 "${VIA[iperf3]}" 1 -R
            check iperf3-bidir run_iperf3 "${VIA[in_order]}" 2 --bidir
            ;;
        mariadb)
            check mariadb-select check_mariadb_select
            check mariadb-dump check_mariadb_dump
            ;;
        ssh) check scp check_scp ;;
        smtp) check mails check_mails ;;
        failover) check failover check_failover ;;
        healthchecks)
            check healthcheck-traces check_traces
            check healthcheck-verdicts check_verdicts
            ;;
        accesslog) check access-log check_access_log ;;
        shutdown) shut_down ;;
        esac
    done
}

start_servers() {
    local service
    for service in redis pool postgres iperf3 mariadb ssh smtp; do
        if wanted "$service"; then run "start-$service" "start_$service"; fi
    done
    if wanted nginx; then run start-nginx start_web; fi
    if wanted iperf3; then run start-in-order start_in_order; fi
    # Ringway's own start is seen by an answer of these.
    run start-failover start_failover
    ((RUN_STATUS == 0)) || die "the backends do not start"
}

clean_up() {
    stop_all
    [[ -n ${KEEP:-} ]] || rm -rf "$WORK"
}

main() {
    parse_arguments "$@"
    need_packages "${PACKAGES[@]}"
    need_ringway
    RINGWAY=$(realpath "$RINGWAY")
    PATH=$PATH:/usr/sbin
    WORK=$(mktemp -d)
    # The databases' users look for their directories in it.
    chmod 711 "$WORK"
    trap clean_up EXIT
    trap 'exit 1' INT TERM HUP
    cd "$WORK"
    assign_ports
    start_servers
    start_ringway
    run_checks
    printf '%s passed, %s failed\n' "$PASSED" "$FAILED"
    ((FAILED == 0))
}

main "$@"
