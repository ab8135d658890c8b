#!/usr/bin/env bash
# The PROXY protocol between Ringway and real peers: HAProxy and nginx in front of it and behind it, and Postfix behind it.
#
# Usage: scripts/proxy-protocol.sh
#
# Each peer behind tells what it knows of the client; that has to be the client's own address, whoever is in between.
# Prints a line for each way, and at the end the number of them. 15 seconds.
#
# Needs: Debian, root (Postfix runs as its own user); installs the missing packages itself.
# The binary is $RINGWAY, default target/release/ringway, built when it is not there.
# Exit status: 0 all were told right, 1 not.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Clients come from an address that no peer has.
CLIENT=127.0.0.9
WAYS=0

declare -A PORT
assign_ports() {
    local names=(nginx haproxy postfix_v1 postfix_v2 front_v1 front_v2 front_v2_more front_nginx
        in_nginx in_haproxy out_nginx out_haproxy mail_v1 mail_v2) ports name
    read -r -a ports < <(free_ports "${#names[@]}")
    ((${#ports[@]} == ${#names[@]})) || die "too few free ports"
    for name in "${names[@]}"; do
        PORT[$name]=${ports[0]}
        ports=("${ports[@]:1}")
    done
}

# ---- peers ----------------------------------------------------------------------------------------

start_nginx() {
    mkdir "$WORK/nginx"
    cat >"$WORK/nginx.conf" <<NGINX
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
daemon off;
master_process off;
pid $WORK/nginx/pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path $WORK/nginx/body; proxy_temp_path $WORK/nginx/proxy; fastcgi_temp_path $WORK/nginx/fastcgi;
    uwsgi_temp_path $WORK/nginx/uwsgi; scgi_temp_path $WORK/nginx/scgi;
    server {
        listen 127.0.0.1:${PORT[nginx]} proxy_protocol;
        default_type text/plain;
        location / {
            return 200 "\$proxy_protocol_addr:\$proxy_protocol_port \$proxy_protocol_server_addr:\$proxy_protocol_server_port";
        }
    }
}
stream {
    server { listen 127.0.0.1:${PORT[front_nginx]}; proxy_pass 127.0.0.1:${PORT[in_haproxy]}; proxy_protocol on; }
}
NGINX
    start nginx nginx -e stderr -c "$WORK/nginx.conf"
}

start_haproxy() {
    cat >"$WORK/haproxy.cfg" <<HAPROXY
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend told
    mode http
    bind 127.0.0.1:${PORT[haproxy]} accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port] %[dst]:%[dst_port]"
listen front_v1
    bind 127.0.0.1:${PORT[front_v1]}
    server ringway 127.0.0.1:${PORT[in_nginx]} send-proxy check inter 200ms
listen front_v2
    bind 127.0.0.1:${PORT[front_v2]}
    server ringway 127.0.0.1:${PORT[in_haproxy]} send-proxy-v2 check inter 200ms
frontend front_v2_more
    bind 127.0.0.1:${PORT[front_v2_more]}
    unique-id-format %ci:%cp_%Ts
    default_backend more
backend more
    server ringway 127.0.0.1:${PORT[in_nginx]} send-proxy-v2 proxy-v2-options unique-id,crc32c check inter 200ms
HAPROXY
    start haproxy haproxy -db -f "$WORK/haproxy.cfg"
}

# One instance of its own, whose log is its output.
start_postfix() {
    local folder=$WORK/postfix
    mkdir -p "$folder/etc" "$folder/queue"
    install -d -o postfix "$folder/data"
    cat >"$folder/etc/main.cf" <<POSTFIX
compatibility_level = 3.6
queue_directory = $folder/queue
data_directory = $folder/data
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
maillog_file = /dev/stdout
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.example
mydestination =
mynetworks = 127.0.0.0/8
smtpd_peername_lookup = no
alias_maps =
POSTFIX
    cat >"$folder/etc/master.cf" <<POSTFIX
127.0.0.1:${PORT[postfix_v1]} inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy
127.0.0.1:${PORT[postfix_v2]} inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
POSTFIX
    start postfix postfix -c "$folder/etc" start-fg
}

# ---- Ringway --------------------------------------------------------------------------------------

# listener NAME UPSTREAM [KEYS]
listener() {
    printf '  - {name: %s, address: "127.0.0.1:%s", upstream: %s%s}\n' "$1" "${PORT[$1]}" "$2" "${3:-}"
}

# upstream NAME BACKEND VERSION CHECK
upstream() {
    printf '  - name: %s\n    backends: [{address: 127.0.0.1, port: %s}]\n    send_proxy: %s\n' "$1" "${PORT[$2]}" "$3"
    printf '    healthcheck: {interval: 2s, fast_interval: 100ms, timeout: 2s, %s}\n' "$4"
}

start_ringway() {
    local accept=', proxy_protocol: {accept: required, trusted: [127.0.0.0/8]}'
    local mail='type: send_expect, steps: [{expect: "220 "}, {send: "QUIT\r\n", expect: "221 "}]'
    {
        printf 'admin: {listen_address: off, socket: %s}\nlisteners:\n' "$WORK/admin.sock"
        listener in_nginx nginx_v1 "$accept"
        listener in_haproxy haproxy_v2 "$accept"
        listener out_nginx nginx_v2
        listener out_haproxy haproxy_v1
        listener mail_v1 mail_v1
        listener mail_v2 mail_v2
        printf 'upstreams:\n'
        upstream nginx_v1 nginx v1 'type: http'
        upstream nginx_v2 nginx v2 'type: http'
        upstream haproxy_v1 haproxy v1 'type: http'
        upstream haproxy_v2 haproxy v2 'type: http'
        upstream mail_v1 postfix_v1 v1 "$mail"
        upstream mail_v2 postfix_v2 v2 "$mail"
    } >"$WORK/ringway.yaml"
    start ringway "$RINGWAY" -f "$WORK/ringway.yaml"
    # The checks have to get through to all of them, with headers of their own.
    wait_for 20 "all backends to be up" all_are_up || { cat "$WORK/ringway.log" >&2; die "some backends stay down"; }
}

all_are_up() {
    local listener
    for listener in in_nginx in_haproxy out_nginx out_haproxy mail_v1 mail_v2; do
        "$RINGWAY" ctl --socket "$WORK/admin.sock" ready "$listener" || return 1
    done
}

# ---- ways -----------------------------------------------------------------------------------------

# told WAY PORT [CURL-ARGUMENT...]: the backend knows the client's address and port, and where the client has connected to.
told() {
    local way=$1 port=$2 answer
    shift 2
    answer=$(curl -sS --fail --max-time 10 --interface "$CLIENT" -w '\n%{local_ip}:%{local_port} %{remote_ip}:%{remote_port}' \
        "$@" "http://127.0.0.1:$port/")
    [[ ${answer%%$'\n'*} == "${answer##*$'\n'}" ]] ||
        die "$way: the backend was told '${answer%%$'\n'*}', and it is '${answer##*$'\n'}'"
    printf 'ok %s: %s\n' "$way" "${answer##*$'\n'}"
    WAYS=$((WAYS + 1))
}

answers() {
    curl -sS --fail --max-time 2 "http://127.0.0.1:$1/"
}

# greeted NAME: Postfix speaks first, and logs whom it has greeted.
greeted() {
    local port=${PORT[$1]}
    python3 - "$CLIENT" "$port" <<'PYTHON'
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=10, source_address=(sys.argv[1], 0)) as client:
    lines = client.makefile("rwb")
    assert lines.readline().startswith(b"220 mail.example"), "no greeting"
    lines.write(b"QUIT\r\n")
    lines.flush()
    assert lines.readline().startswith(b"221 "), "no farewell"
PYTHON
    wait_for 10 "Postfix to log it" logged "$1" || { tail "$WORK/postfix.log" >&2; die "$1: Postfix knows no $CLIENT"; }
    printf 'ok %s: Postfix greeted %s\n' "$1" "$CLIENT"
    WAYS=$((WAYS + 1))
}

logged() {
    (($(grep -c " connect from unknown\[$CLIENT\]" "$WORK/postfix.log") > WAYS_OF_MAIL))
}

no_proxy_errors() {
    ! grep -E "bad (haproxy|proxy)|haproxy.*(error|bad|invalid)|broken header" "$WORK/nginx.log" "$WORK/postfix.log" "$WORK/haproxy.log"
}

run_ways() {
    wait_for 10 "HAProxy in front" answers "${PORT[front_v1]}"
    wait_for 10 "HAProxy in front" answers "${PORT[front_v2]}"
    wait_for 10 "HAProxy in front" answers "${PORT[front_v2_more]}"
    told "Ringway v2 nginx" "${PORT[out_nginx]}"
    told "Ringway v1 HAProxy" "${PORT[out_haproxy]}"
    told "HAProxy v1 Ringway v1 nginx" "${PORT[front_v1]}"
    told "HAProxy v2 Ringway v2 HAProxy" "${PORT[front_v2]}"
    told "HAProxy v2 with checksum Ringway v1 nginx" "${PORT[front_v2_more]}"
    told "nginx v1 Ringway v2 HAProxy" "${PORT[front_nginx]}"
    told "curl v1 Ringway v2 HAProxy" "${PORT[in_haproxy]}" --haproxy-protocol
    told "curl v1 Ringway v1 nginx" "${PORT[in_nginx]}" --haproxy-protocol
    WAYS_OF_MAIL=0 greeted mail_v1
    WAYS_OF_MAIL=1 greeted mail_v2
    if answers "${PORT[in_nginx]}" >/dev/null 2>&1; then die "a client without a header was served"; fi
    no_proxy_errors || die "a peer was sent a bad header"
}

clean_up() {
    # Its master is a child of what was started, and would outlive that.
    [[ ! -d $WORK/postfix/etc ]] || postfix -c "$WORK/postfix/etc" stop >/dev/null 2>&1 || true
    stop_all
    [[ -n ${KEEP:-} ]] || rm -rf "$WORK"
}

main() {
    need_packages haproxy nginx libnginx-mod-stream postfix curl python3
    need_ringway
    RINGWAY=$(realpath "$RINGWAY")
    PATH=$PATH:/usr/sbin
    WORK=$(mktemp -d)
    chmod 711 "$WORK"
    trap clean_up EXIT
    trap 'exit 1' INT TERM HUP
    local name
    assign_ports
    start_nginx
    start_haproxy
    start_postfix
    for name in nginx haproxy postfix_v1 postfix_v2; do
        wait_for 15 "$name" port_open "${PORT[$name]}"
    done
    start_ringway
    run_ways
    printf '%s ways, all told right\n' "$WAYS"
}

main "$@"
