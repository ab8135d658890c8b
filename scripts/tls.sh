#!/usr/bin/env bash
# TLS on both sides of Ringway before real peers: openssl, curl and testssl.sh in front, nginx behind.
#
# Usage: scripts/tls.sh
#
# Certificates by name, versions, ALPN, client certificates with a revocation list; 100 of 100 resumptions over two cores, again
# after a reload and after an upgrade; renewed certificates; verified TLS to backends; ends without close_notify; what is no TLS;
# and 1,000 handshakes at once beside open plain sessions (scripts/tls-flood.py). Prints a line for each claim, and at the end the
# number of them. Three minutes, half of them testssl.sh.
#
# Needs: Debian, root, two cores; installs the missing packages itself.
# The binary is $RINGWAY, default target/release/ringway, built when it is not there. KEEP=1 keeps the folder. SKIP=testssl,flood
# leaves those two out.
# Exit status: 0 all claims hold, 1 one does not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

CLAIMS=0
SHOP=shop.example.com
DOCS=docs.example.com
BACK=backend.example.com
RESUMPTIONS=100

declare -A PORT
assign_ports() {
    local names=(web h2 alpn mutual strict other door echo counted flood calm
        b_good b_name b_unknown b_expired b_client b_proxy b_cut
        n_http n_h2 n_tls n_expired n_client n_proxy p_echo p_cut p_count) ports name
    read -r -a ports < <(free_ports "${#names[@]}")
    ((${#ports[@]} == ${#names[@]})) || die "too few free ports"
    for name in "${names[@]}"; do
        PORT[$name]=${ports[0]}
        ports=("${ports[@]:1}")
    done
}

# ---- certificates ---------------------------------------------------------------------------------

# ca NAME: a certificate authority in $WORK/NAME.
ca() {
    mkdir -p "$WORK/$1/new"
    : >"$WORK/$1/index.txt"
    # With a number a revocation list is of version 2; one of version 1 is nothing that TLS libraries read.
    echo 01 >"$WORK/$1/crlnumber"
    cat >"$WORK/$1/ca.cnf" <<CNF
[ca]
default_ca = own
[own]
database = $WORK/$1/index.txt
new_certs_dir = $WORK/$1/new
crlnumber = $WORK/$1/crlnumber
crl_extensions = list
rand_serial = yes
default_md = sha256
default_crl_days = 5
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[list]
authorityKeyIdentifier = keyid
CNF
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$1" -keyout "$WORK/$1/ca.key" \
        -out "$WORK/$1.pem" -addext "keyUsage=critical,keyCertSign,cRLSign" 2>>"$WORK/openssl.log"
}

# leaf CA FILE NAME KEY [OPTION...]: a certificate $WORK/FILE.pem with its key $WORK/FILE.key; KEY is ec or rsa.
leaf() {
    local ca=$1 file=$2 name=$3 key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256)
    [[ $4 == ec ]] || key=(-newkey rsa:2048)
    shift 4
    (($#)) || set -- -days 30
    openssl req "${key[@]}" -nodes -subj "/CN=$name" -addext "subjectAltName=DNS:$name" \
        -addext "keyUsage=critical,digitalSignature" -addext "extendedKeyUsage=serverAuth,clientAuth" \
        -keyout "$WORK/$file.key" -out "$WORK/$file.csr" 2>>"$WORK/openssl.log"
    openssl ca -batch -config "$WORK/$ca/ca.cnf" -cert "$WORK/$ca.pem" -keyfile "$WORK/$ca/ca.key" -notext "$@" \
        -in "$WORK/$file.csr" -out "$WORK/$file.new" 2>>"$WORK/openssl.log"
    mv "$WORK/$file.new" "$WORK/$file.pem"
}

make_certificates() {
    ca authority
    ca stranger
    leaf authority shop "$SHOP" ec
    leaf authority docs "$DOCS" rsa
    leaf authority renewed "$SHOP" ec
    leaf authority backend "$BACK" ec
    leaf authority expired "$BACK" ec -startdate 20200101000000Z -enddate 20200201000000Z
    leaf authority client client ec
    leaf authority revoked revoked ec
    leaf stranger foreign client ec
    local authority=(openssl ca -config "$WORK/authority/ca.cnf" -cert "$WORK/authority.pem" -keyfile "$WORK/authority/ca.key")
    "${authority[@]}" -revoke "$WORK/revoked.pem" 2>>"$WORK/openssl.log"
    "${authority[@]}" -gencrl -out "$WORK/crl.pem" 2>>"$WORK/openssl.log"
}

# ---- peers ----------------------------------------------------------------------------------------

# nginx_server PORT "LISTEN-OPTIONS" CERTIFICATE [DIRECTIVES]
nginx_server() {
    printf '    server { listen 127.0.0.1:%s %s; ' "$1" "$2"
    [[ -z $3 ]] || printf 'ssl_certificate %s.pem; ssl_certificate_key %s.key; ' "$WORK/$3" "$WORK/$3"
    # shellcheck disable=SC2016 # nginx's variables
    printf '%s location / { return 200 "$server_protocol $ssl_client_verify $ssl_server_name $proxy_protocol_addr\\n"; } }\n' "${4:-}"
}

start_nginx() {
    mkdir "$WORK/nginx"
    local temporary
    temporary=$(for kind in client_body proxy fastcgi uwsgi scgi; do printf '%s_temp_path %s/nginx/%s; ' "$kind" "$WORK" "$kind"; done)
    {
        printf 'user root; daemon off; master_process off; pid %s/nginx/pid; error_log stderr warn;\n' "$WORK"
        printf 'events { worker_connections 4096; }\nhttp {\n    access_log off; default_type text/plain; %s\n' "$temporary"
        nginx_server "${PORT[n_http]}" "" ""
        nginx_server "${PORT[n_h2]}" http2 ""
        nginx_server "${PORT[n_tls]}" ssl backend
        nginx_server "${PORT[n_expired]}" ssl expired
        nginx_server "${PORT[n_client]}" ssl backend "ssl_client_certificate $WORK/authority.pem; ssl_verify_client on;"
        nginx_server "${PORT[n_proxy]}" "ssl proxy_protocol" backend
        printf '}\n'
    } >"$WORK/nginx.conf"
    start nginx nginx -e stderr -c "$WORK/nginx.conf"
}

start_peers() {
    start_nginx
    start echo python3 scripts/traffic.py echo "${PORT[p_echo]}"
    start cut python3 scripts/tls.py cut "$WORK/backend.pem" "$WORK/backend.key" "${PORT[p_cut]}"
    start count python3 scripts/tls.py count "${PORT[p_count]}"
    local name
    for name in n_http n_h2 n_tls n_expired n_client n_proxy p_echo p_cut p_count; do
        wait_for 10 "$name" port_open "${PORT[$name]}" || die "$(cat "$WORK"/*.log)"
    done
}

# ---- Ringway --------------------------------------------------------------------------------------

# listener NAME UPSTREAM [TLS-KEYS [MORE-KEYS]]
listener() {
    local tls=''
    [[ -z ${3:-} ]] || tls=", tls: {$3}"
    printf '  - {name: %s, address: "127.0.0.1:%s", upstream: %s%s%s}\n' "$1" "${PORT[$1]}" "$2" "$tls" "${4:-}"
}

# upstream NAME PEER [TLS-KEYS [MORE-KEYS]]: nobody is checked, so that each claim meets the backend itself.
upstream() {
    local tls=''
    [[ -z ${3:-} ]] || tls=", tls: {$3}"
    printf '  - {name: %s, backends: ["127.0.0.1:%s"], healthcheck: off, outlier: off%s%s}\n' "$1" "${PORT[$2]}" "$tls" "${4:-}"
}

pair() {
    printf '{certificate: %s/%s.pem, key: %s/%s.key}' "$WORK" "$1" "$WORK" "$1"
}

write_configuration() {
    local both name
    both="certificates: [$(pair served), $(pair docs)]"
    {
        printf 'runtime: {cores: 2}\nadmin: {listen_address: off, socket: %s}\nlisteners:\n' "$WORK/admin.sock"
        listener web http "$both"
        listener h2 h2 "$both, alpn: [h2]"
        listener alpn http "$both, alpn: [h2, http/1.1]"
        listener mutual http "$both, client_ca: $WORK/authority.pem, client_crl: [$WORK/crl.pem]"
        listener strict http "$both, min_version: \"1.3\""
        listener other http "$both"
        listener door http "$both" ', timeouts: {handshake: 3s}'
        listener echo echo "$both"
        listener counted counted "$both"
        for name in good name unknown expired client proxy cut; do listener "b_$name" "b_$name"; done
        printf 'upstreams:\n'
        upstream http n_http
        upstream h2 n_h2
        upstream echo p_echo
        upstream counted p_count
        upstream b_good n_tls "ca: $WORK/authority.pem, server_name: $BACK"
        upstream b_name n_tls "ca: $WORK/authority.pem, server_name: $SHOP"
        upstream b_unknown n_tls "ca: $WORK/stranger.pem, server_name: $BACK"
        upstream b_expired n_expired "ca: $WORK/authority.pem, server_name: $BACK"
        upstream b_client n_client "ca: $WORK/authority.pem, server_name: $BACK, certificate: $WORK/client.pem, key: $WORK/client.key"
        upstream b_proxy n_proxy "ca: $WORK/authority.pem, server_name: $BACK" ', send_proxy: v2'
        upstream b_cut p_cut "ca: $WORK/authority.pem, server_name: $BACK"
    } >"$WORK/ringway.yaml"
}

# serve CERTIFICATE: what listeners show for the shop from the next start or reload on.
serve() {
    # The key first: what is read in between is a pair that does not match, and the old one serves on.
    install -m 600 "$WORK/$1.key" "$WORK/served.key"
    install -m 644 "$WORK/$1.pem" "$WORK/served.pem"
}

start_ringway() {
    install -m 755 "$RINGWAY" "$WORK/ringway"
    serve shop
    write_configuration
    "$WORK/ringway" check -f "$WORK/ringway.yaml" >"$WORK/check.log" 2>&1 || die "$(cat "$WORK/check.log")"
    start ringway "$WORK/ringway" run -f "$WORK/ringway.yaml" --pid-file "$WORK/pid"
    wait_for 20 "Ringway" port_open "${PORT[b_cut]}" || die "$(tail -n 20 "$WORK/ringway.log")"
}

reload() {
    "$RINGWAY" ctl --socket "$WORK/admin.sock" reload >"$WORK/reload.log" 2>&1 || die "the reload: $(cat "$WORK/reload.log")"
}

is_replaced() {
    [[ -s $WORK/pid && $(cat "$WORK/pid") != "$1" ]]
}

upgrade() {
    local before
    before=$(cat "$WORK/pid")
    install -m 755 "$RINGWAY" "$WORK/new"
    mv "$WORK/new" "$WORK/ringway"
    kill -USR2 "$before"
    wait_for 20 "the successor of process $before" is_replaced "$before" || die "$(tail -n 20 "$WORK/ringway.log")"
}

# metric REGEX: the sum of the series whose name and labels match.
metric() {
    curl -sS --fail --max-time 5 --unix-socket "$WORK/admin.sock" http://ringway/metrics |
        awk -v wanted="$1" '$1 ~ wanted {sum += $2} END {printf "%d\n", sum}'
}

# ---- claims ---------------------------------------------------------------------------------------

ok() {
    printf 'ok %s\n' "$*"
    CLAIMS=$((CLAIMS + 1))
}

# shows WHAT TEXT COMMAND...: the command succeeds and prints TEXT, a fixed string.
shows() {
    local what=$1 text=$2
    shift 2
    "$@" >"$WORK/client.log" 2>&1 || die "$what: failed: $(tail -n 5 "$WORK/client.log")"
    grep -qF -- "$text" "$WORK/client.log" || die "$what: no '$text' in: $(tail -n 15 "$WORK/client.log")"
    ok "$what"
}

# refused WHAT TEXT COMMAND...: the command fails and prints TEXT, an extended regular expression.
refused() {
    local what=$1 text=$2
    shift 2
    if "$@" >"$WORK/client.log" 2>&1; then die "$what: was served: $(tail -n 5 "$WORK/client.log")"; fi
    grep -qE -- "$text" "$WORK/client.log" || die "$what: no '$text' in: $(tail -n 5 "$WORK/client.log")"
    ok "$what"
}

# handshake LISTENER NAME OPTION...: openssl verifies that NAME answers, if it is not empty.
handshake() {
    local port=${PORT[$1]} asked=(-servername "$2" -verify_hostname "$2")
    [[ -n $2 ]] || asked=(-noservername -verify_hostname "$SHOP")
    shift 2
    timeout 10 openssl s_client -connect "127.0.0.1:$port" "${asked[@]}" -CAfile "$WORK/authority.pem" -verify_return_error "$@" </dev/null
}

# get LISTENER NAME OPTION...: curl fetches over TLS. A client certificate may be refused after the handshake only, with 1.3.
get() {
    local port=${PORT[$1]} name=$2
    shift 2
    curl -sSf --max-time 10 --http1.1 --cacert "$WORK/authority.pem" --resolve "$name:$port:127.0.0.1" "$@" "https://$name:$port/"
}

# fetch LISTENER: curl over a plain listener, whose backend speaks TLS.
fetch() {
    curl -sSf --max-time 10 "http://127.0.0.1:${PORT[$1]}/"
}

claim_versions_and_names() {
    local version
    for version in 1_2 1_3; do
        shows "openssl ${version/_/.}, ECDSA by name" "subject=CN = $SHOP" handshake web "$SHOP" "-tls$version"
        shows "openssl ${version/_/.}, RSA by name" "subject=CN = $DOCS" handshake web "$DOCS" "-tls$version"
        shows "openssl ${version/_/.}, the first without a name" "subject=CN = $SHOP" handshake web "" "-tls$version"
        shows "curl ${version/_/.}" "HTTP/1.1" get web "$SHOP" "--tlsv${version/_/.}" --tls-max "${version/_/.}"
    done
    shows "openssl, the first for a name of nobody" "subject=CN = $SHOP" \
        timeout 10 openssl s_client -connect "127.0.0.1:${PORT[web]}" -servername nobody.example.com </dev/null
    shows "openssl, the name in other case" "subject=CN = $DOCS" handshake web DOCS.Example.com
    shows "openssl 1.3 where 1.3 is the least" "TLSv1.3" handshake strict "$SHOP" -tls1_3
    refused "openssl 1.2 where 1.3 is the least" "alert protocol version" handshake strict "$SHOP" -tls1_2
    refused "openssl 1.1" "alert protocol version|alert handshake failure|no protocols available" handshake web "$SHOP" -tls1_1 -cipher "ALL:@SECLEVEL=0"
}

claim_alpn() {
    shows "ALPN h2" "ALPN protocol: h2" handshake alpn "$SHOP" -alpn h2
    shows "ALPN http/1.1" "ALPN protocol: http/1.1" handshake alpn "$SHOP" -alpn http/1.1
    shows "ALPN, the order is the listener's" "ALPN protocol: h2" handshake alpn "$SHOP" -alpn http/1.1,h2
    shows "no ALPN from the client" "No ALPN negotiated" handshake alpn "$SHOP"
    refused "ALPN, none shared" "alert no application protocol" handshake alpn "$SHOP" -alpn imap
    shows "curl h2 to nginx" "HTTP/2.0" get h2 "$SHOP" --http2
}

claim_client_certificates() {
    local version
    for version in 1.2 1.3; do
        local only=("--tlsv$version" --tls-max "$version")
        shows "client certificate, $version" "HTTP/1.1" get mutual "$SHOP" "${only[@]}" --cert "$WORK/client.pem" --key "$WORK/client.key"
        refused "no client certificate, $version" "alert (certificate required|handshake failure)" get mutual "$SHOP" "${only[@]}"
        refused "revoked client certificate, $version" "alert certificate revoked" \
            get mutual "$SHOP" "${only[@]}" --cert "$WORK/revoked.pem" --key "$WORK/revoked.key"
        refused "client certificate of a stranger, $version" "alert (unknown ca|decrypt error|bad certificate)" \
            get mutual "$SHOP" "${only[@]}" --cert "$WORK/foreign.pem" --key "$WORK/foreign.key"
    done
}

# session LISTENER OPTION...: a handshake, a request and its answer; tickets come before the answer.
session() {
    local port=${PORT[$1]}
    shift
    printf 'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' "$SHOP" | timeout 10 openssl s_client -connect "127.0.0.1:$port" -servername "$SHOP" \
        -verify_hostname "$SHOP" -CAfile "$WORK/authority.pem" -verify_return_error -ign_eof "$@" 2>&1
}

# A session that was resumed, and answered.
resumes() {
    local answer
    answer=$(session "$@") || return 1
    [[ $answer == *"Reused, TLSv1."* && $answer == *"200 OK"* ]]
}

# resumptions WHEN: each with the ticket of the one before, the first with that of $WORK/VERSION.session.
resumptions() {
    local version resumed i
    core_sessions >"$WORK/before"
    # A process that is new counts from 0.
    [[ $1 != *upgrade* ]] || : >"$WORK/before"
    for version in 1_2 1_3; do
        resumed=0
        for ((i = 0; i < RESUMPTIONS; i++)); do
            if resumes web "-tls$version" -sess_in "$WORK/$version.session" -sess_out "$WORK/$version.session"; then
                resumed=$((resumed + 1))
            fi
        done
        ((resumed == RESUMPTIONS)) || die "$1: $resumed of $RESUMPTIONS sessions of ${version/_/.} were resumed"
    done
    core_sessions >"$WORK/after"
    awk -v least=$((RESUMPTIONS / 4)) 'FILENAME == ARGV[1] {before[$1] = $2; next} $2 - before[$1] >= least {busy++} END {exit busy != 2}' \
        "$WORK/before" "$WORK/after" || die "$1: not two busy cores: $(cat "$WORK/before"), then $(cat "$WORK/after")"
    ok "$RESUMPTIONS of $RESUMPTIONS sessions of 1.2 and of 1.3 resumed over two cores, $1"
}

# A line for each core: its number and its sessions.
core_sessions() {
    curl -sS --fail --max-time 5 --unix-socket "$WORK/admin.sock" http://ringway/metrics |
        sed -n 's/^ringway_core_sessions_total{core="\([0-9]*\)"} /\1 /p'
}

claim_resumption() {
    local version answer
    for version in 1_2 1_3; do
        session web "-tls$version" -sess_out "$WORK/$version.session" >"$WORK/client.log" || die "$(tail -n 5 "$WORK/client.log")"
    done
    resumptions "at first"
    for version in 1_2 1_3; do
        answer=$(session other "-tls$version" -sess_in "$WORK/$version.session") || die "the other listener: $(tail -n 5 <<<"$answer")"
        [[ $answer == *"New, TLSv1."* && $answer == *"200 OK"* ]] || die "the other listener resumed: $(grep -E 'Reused|New,' <<<"$answer")"
        ok "a ticket of another listener is worth a full handshake, ${version/_/.}"
    done
    reload
    resumptions "after a reload"
    upgrade
    resumptions "after an upgrade"
}

serial() {
    handshake web "$SHOP" 2>>"$WORK/openssl.log" | openssl x509 -noout -serial
}

claim_renewal() {
    local held before after rounds
    before=$(openssl x509 -noout -serial -in "$WORK/shop.pem")
    after=$(openssl x509 -noout -serial -in "$WORK/renewed.pem")
    [[ $(serial) == "$before" ]] || die "another certificate than the first one is served"
    coproc HELD { exec python3 scripts/tls.py hold "$WORK/authority.pem" "$SHOP" "${PORT[echo]}" 2>>"$WORK/held.log"; }
    held=$HELD_PID
    read -r -t 20 -u "${HELD[0]}" rounds || die "no session: $(cat "$WORK/held.log")"
    serve renewed
    reload
    [[ $(serial) == "$after" ]] || die "after the reload not the renewed certificate is served"
    ok "the renewed certificate is served after a reload"
    # The session is closed by nothing but the end of the client's own input.
    printf '\n' >&"${HELD[1]}"
    read -r -t 20 -u "${HELD[0]}" rounds || die "the open session ended with the reload: $(cat "$WORK/held.log")"
    wait "$held" || die "the open session: $(cat "$WORK/held.log")"
    ((rounds > 0)) || die "the open session did nothing"
    ok "a session that was open at the reload went on: $rounds echoes"
}

logged() {
    grep -qiE -- "$1" "$WORK/ringway.log"
}

# unverified WHAT LISTENER REASON: the client gets nothing, and the log says why.
unverified() {
    refused "$1" "reset by peer|Empty reply|Couldn't connect" fetch "$2"
    wait_for 5 "the log" logged "$2.*($3)" || die "$1: the log has no '$3': $(tail -n 5 "$WORK/ringway.log")"
    ok "$1: the log says why"
}

claim_backends() {
    shows "backend with CA and name" "NONE $BACK" fetch b_good
    unverified "backend of another name" b_name "the certificate is for "
    unverified "backend of an unknown authority" b_unknown "the certificate comes from no CA"
    unverified "backend whose certificate has expired" b_expired "expired"
    shows "client certificate for the backend" "SUCCESS" fetch b_client
    shows "PROXY v2 before TLS to nginx" "$BACK 127.0.0.9" \
        curl -sSf --max-time 10 --interface 127.0.0.9 "http://127.0.0.1:${PORT[b_proxy]}/"
}

claim_ends() {
    shows "a backend without close_notify is a reset for the client" reset python3 scripts/tls.py end "${PORT[b_cut]}"
    python3 scripts/tls.py leave "$WORK/authority.pem" "$SHOP" "${PORT[counted]}" 2>"$WORK/client.log" || die "$(cat "$WORK/client.log")"
    wait_for 5 "the end at the backend" grep -qx "end 5" "$WORK/count.log" || die "the backend saw: $(tail -n 3 "$WORK/count.log")"
    ok "a client without close_notify is a clean end for the backend"
}

handshake_failures() {
    metric "^ringway_tls_handshake_failures_total[{].*listener=\"door\""
}

failed_handshakes_are() {
    (($(handshake_failures) == $1))
}

claim_no_tls() {
    local kind how before
    for kind in garbage http nothing; do
        before=$(handshake_failures)
        how=$(python3 scripts/tls.py odd "$kind" "${PORT[door]}")
        [[ $how =~ ^(alert|reset|end)$ ]] || die "$kind instead of TLS: $how"
        wait_for 5 "the count" failed_handshakes_are $((before + 1)) || die "$kind: $before failures before, $(handshake_failures) after"
        ok "$kind instead of TLS: $how, and counted"
    done
}

claim_testssl() {
    local findings=$WORK/testssl.json
    # testssl.sh ends with the number of its findings.
    TERM=dumb testssl --quiet --color 0 --warnings off --ip 127.0.0.1 --add-ca "$WORK/authority.pem" -p -s -f -P -U --severity MEDIUM \
        --jsonfile "$findings" "https://$SHOP:${PORT[web]}" >"$WORK/testssl.log" 2>&1 </dev/null || true
    # It has looked to the end.
    grep -q "RC4" "$WORK/testssl.log" || die "testssl.sh did not get far: $(tail -n 5 "$WORK/testssl.log")"
    python3 - "$findings" <<'PYTHON' || die "testssl.sh: see above"
import json, sys
# Of the warnings, one is about this machine's openssl and not about the server.
wanted = ("MEDIUM", "HIGH", "CRITICAL", "WARN", "FATAL")
bad = [f for f in json.load(open(sys.argv[1])) if f["severity"] in wanted and f["id"] != "engine_problem"]
for finding in bad:
    print(finding["severity"], finding["id"], finding["finding"], file=sys.stderr)
sys.exit(bool(bad))
PYTHON
    ok "testssl.sh finds nothing of medium severity or above"
}

# A Ringway of one shard, with a core to itself, in front of whatever else runs there: what the pings wait for is then the shard.
# (Measured without SCHED_RR on a virtual machine whose agent runs at nice -10: 10 ms of its work each second, and p99 6.4 ms, not 1.7. Up to Linux 6.11, a core is taken from SCHED_RR for 50 ms in a second that it
# fills; a phase of this test does not.)
claim_flood() {
    local cores line
    read -r -a cores < <(python3 -c 'import os; print(*os.sched_getaffinity(0))')
    {
        printf 'runtime: {cores: 1}\nadmin: {listen_address: off, socket: off}\nlisteners:\n'
        listener flood echo "certificates: [$(pair served)]"
        listener calm echo
        printf 'upstreams:\n'
        upstream echo p_echo
    } >"$WORK/flood.yaml"
    start flood taskset -c "${cores[0]}" chrt --rr 1 "$WORK/ringway" run -f "$WORK/flood.yaml"
    wait_for 20 "Ringway" port_open "${PORT[calm]}" || die "$(tail -n 20 "$WORK/flood.log")"
    # The pings wait for the echo, too, so nobody may hold it up.
    taskset -cap "${cores[1]}" "$(<"$WORK/echo.pid")" >/dev/null
    chrt --all-tasks --rr --pid 1 "$(<"$WORK/echo.pid")"
    taskset -c "${cores[1]}" python3 scripts/tls-flood.py "$WORK/authority.pem" "$SHOP" "${PORT[flood]}" "${PORT[calm]}" "${PORT[p_echo]}" >"$WORK/pings.log" 2>"$WORK/pings.err" ||
        die "$(tail -n 20 "$WORK/pings.log" "$WORK/pings.err")"
    while read -r line; do ok "$line"; done <"$WORK/pings.log"
}

clean_up() {
    # After an upgrade the newest is no child of this shell, and has the file of the pid to itself.
    local pid
    pid=$(cat "$WORK/pid" 2>/dev/null || true)
    if [[ $(readlink "/proc/${pid:-none}/exe") == "$WORK"/* ]]; then kill -KILL "$pid" || true; fi
    stop_all
    [[ -n ${KEEP:-} ]] || rm -rf "$WORK"
}

main() {
    need_packages openssl curl nginx python3 testssl.sh
    need_ringway
    RINGWAY=$(realpath "$RINGWAY")
    PATH=$PATH:/usr/sbin
    ulimit -n "$(ulimit -Hn)"
    WORK=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 1' INT TERM HUP
    assign_ports
    make_certificates
    start_peers
    start_ringway
    claim_versions_and_names
    claim_alpn
    claim_client_certificates
    claim_backends
    claim_ends
    claim_no_tls
    [[ ${SKIP:-} == *testssl* ]] || claim_testssl
    [[ ${SKIP:-} == *flood* ]] || claim_flood
    claim_resumption
    claim_renewal
    printf '%s claims hold\n' "$CLAIMS"
}

main "$@"
