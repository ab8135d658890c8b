#!/usr/bin/env bash
# Routes by name before real clients and servers of TLS: openssl and curl in front, two openssl servers behind.
#
# Usage: scripts/sni.sh
#
# Each server has a certificate of its own name, so a handshake that a client verifies has come to the right one. Prints a line
# for each way, and at the end the number of them. 5 seconds.
#
# Needs: openssl, curl; installs the missing packages itself on Debian.
# The binary is $RINGWAY, default target/release/ringway, built when it is not there.
# Exit status: 0 all came where they belong, 1 not.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

command -v openssl >/dev/null || need_packages openssl
command -v curl >/dev/null || need_packages curl
need_ringway
WORK=$(mktemp -d)
trap 'stop_all; rm -rf "$WORK"' EXIT
WAYS=0
read -r IN SHOP DOCS < <(free_ports 3)

# site NAME PORT: a server whose certificate is of this name.
site() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1" -addext "subjectAltName=DNS:$1" \
        -keyout "$WORK/$1.key" -out "$WORK/$1.crt" 2>"$WORK/req.log"
    start "$1" openssl s_server -accept "127.0.0.1:$2" -cert "$WORK/$1.crt" -key "$WORK/$1.key" -www -alpn h2,http/1.1
    wait_for 5 "$1" port_open "$2"
}

# right WHAT COMMAND...: the command has to succeed.
right() {
    local what=$1
    shift
    "$@" >"$WORK/client.log" 2>&1 || die "$what: $(tail -5 "$WORK/client.log")"
    printf 'right: %s\n' "$what"
    WAYS=$((WAYS + 1))
}

# client SITE NAME OPTION...: openssl asks for NAME and verifies that SITE answers.
client() {
    local site=$1 name=$2
    shift 2
    openssl s_client -connect "127.0.0.1:$IN" -servername "$name" -verify_hostname "$site" -CAfile "$WORK/$site.crt" \
        -verify_return_error "$@" </dev/null
}

refused() {
    ! openssl s_client -connect "127.0.0.1:$IN" "$@" </dev/null
}

site shop.example.com "$SHOP"
site en.docs.example.com "$DOCS"
cat >"$WORK/ringway.yaml" <<YAML
admin: {listen_address: off, socket: "$WORK/admin.sock"}
listeners:
  - name: tls
    address: "127.0.0.1:$IN"
    upstream: close
    sni:
      routes:
        - {match: shop.example.com, upstream: shop}
        - {match: shop.example.com, alpn: acme-tls/1, upstream: docs}
        - {match: "*.docs.example.com", upstream: docs}
upstreams:
  - {name: shop, backends: ["127.0.0.1:$SHOP"], healthcheck: {type: tls}}
  - {name: docs, backends: ["127.0.0.1:$DOCS"], healthcheck: {type: tls}}
YAML
start ringway "$RINGWAY" -f "$WORK/ringway.yaml"
wait_for 10 "Ringway" port_open "$IN"

for version in tls1_2 tls1_3; do
    right "openssl $version, shop" client shop.example.com shop.example.com "-$version"
    right "openssl $version, docs by a wildcard" client en.docs.example.com EN.Docs.example.com "-$version"
done
right "openssl, shop with h2" client shop.example.com shop.example.com -alpn h2,http/1.1
right "openssl, small records" client shop.example.com shop.example.com -max_send_frag 512
right "openssl without a name is refused" refused -noservername
right "openssl with another name is refused" refused -servername other.example.com
for name in shop.example.com en.docs.example.com; do
    right "curl, $name" curl -sSf --max-time 10 --http1.1 --cacert "$WORK/$name.crt" --resolve "$name:$IN:127.0.0.1" -o /dev/null "https://$name:$IN/"
done
right "ctl explain" bash -c "'$RINGWAY' ctl --socket '$WORK/admin.sock' explain 192.0.2.1 --sni en.docs.example.com | grep -F docs/"
printf '%s ways are right\n' "$WAYS"
