#!/usr/bin/env bash
# The page of the admin endpoint in a headless Chromium, before a real Ringway: scripts/page-test.py with what it needs.
#
# Usage: scripts/page.sh [--figure FILE] [BINARY]
#
# Needs: Debian, root (or the packages installed), Python 3 with venv, PyPI once. The binary is BINARY, $RINGWAY,
# target/release/ringway or target/debug/ringway. Under a minute. Pictures of the page go to target/page/.
# Exit status: 0 all claims hold, 1 one does not, 2 wrong usage.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

SELENIUM=4.51.0

packages=(chromium chromium-driver)
[[ ${1:-} != --figure ]] || packages+=(pngquant)
need_packages "${packages[@]}"
venv=${CARGO_TARGET_DIR:-target}/page-venv
if ! "$venv/bin/python" -c "import selenium; assert selenium.__version__ == '$SELENIUM'" 2>/dev/null; then
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "selenium==$SELENIUM"
fi
# Selenium's own helper would look for drivers, and report its use, on the internet.
export SE_OFFLINE=true SE_AVOID_STATS=true
exec "$venv/bin/python" scripts/page-test.py "$@"
