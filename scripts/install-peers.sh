#!/usr/bin/env bash
# Installs the load balancers that Ringway is measured against: HAProxy, and nginx with its stream
# module, from Debian's packages. Starts no service. Prints their versions.
#
# Needs: Debian, root, apt. Exit status: 0 both are there, 1 not.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_packages haproxy nginx libnginx-mod-stream
# Neither need be on the PATH of an unprivileged shell.
PATH=$PATH:/usr/sbin
# Not head: it would leave haproxy to a broken pipe, which pipefail makes the end of this script.
haproxy -v | sed -n 1p
nginx -v 2>&1
