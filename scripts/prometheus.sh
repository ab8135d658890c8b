#!/usr/bin/env bash
# The metrics, the alerts and the dashboard before a real Prometheus that scrapes a real Ringway with traffic.
#
# Usage: scripts/prometheus.sh [BINARY]
#
# Checks: the rules and the example configuration with promtool; what each alert says when it should, and when not; its
# heading in docs/OPERATING.md; `promtool check metrics` on the text format and the end mark of OpenMetrics; that a scrape
# of 1,000 backends takes less than 50 ms; then that every expression of the dashboard finds a number, and so does every one of the
# alerts and of docs/OPERATING.md once its comparison is taken away.
#
# Needs: Debian, root (or the package prometheus), Python 3, curl. The binary is BINARY, $RINGWAY, or the release build of this
# tree. Ports of 127.0.0.1 only; under a minute. KEEP=1 keeps the folder.
# Exit status: 0 all is well, 1 something is wrong, which is printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

ALERTS=configs/prometheus/alerts.yml
DASHBOARD=configs/grafana/ringway.json
SCRAPES=12 # of one second each: as many as the rates of the dashboard look back
BACKENDS=1000
SCRAPE_SECONDS_MAX=0.05

clean_up() {
    stop_all
    [[ -n ${KEEP:-} ]] || rm -rf "$WORK"
}

ok() {
    printf 'ok %s\n' "$*"
}

check_files() {
    promtool check config configs/prometheus/prometheus.yml
    promtool test rules scripts/alerts-test.yml
    local alert
    while read -r alert; do
        grep -qxF "### $alert" docs/OPERATING.md || die "docs/OPERATING.md has no heading $alert"
        grep -qF "docs/OPERATING.md#${alert,,}" "$ALERTS" || die "$ALERTS: $alert has no runbook #${alert,,}"
        grep -qF "alertname=\"$alert\"" scripts/alerts-test.yml || die "scripts/alerts-test.yml has no case for $alert"
    done < <(sed -n 's/.*- alert: //p' "$ALERTS")
}

# One backend does not run, so that there are failures and retries; one has so few places that clients wait for them.
configure_ringway() {
    # It ends within the time that the alert is about.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7 -subj /CN=web.example.com \
        -keyout "$WORK/web-key.pem" -out "$WORK/web.pem" 2>/dev/null
    cat >"$WORK/ringway.yaml" <<YAML
runtime: {shutdown_timeout: 1s}
logging: {level: error}
admin: {listen_address: "127.0.0.1:$ADMIN", socket: off}
listeners:
- {name: web, address: "127.0.0.1:$WEB", upstream: web}
- {name: broken, address: "127.0.0.1:$BROKEN", upstream: broken}
- {name: tls, address: "unix:$WORK/tls.sock", upstream: broken, tls: {certificates: [{certificate: web.pem, key: web-key.pem}]}}
- {name: full, address: "127.0.0.1:$FULL", upstream: full, timeouts: {session: 100ms}}
upstreams:
- name: web
  healthcheck: {interval: 1s, fast_interval: 200ms, timeout: 500ms, fall: 1000}
  pool: {size: 2}
  backends:
  - {name: a, address: 127.0.0.1, port: $ECHO, max_connections: 50}
  - {name: gone, address: 127.0.0.1, port: $GONE}
- name: broken
  healthcheck: {type: off}
  backends: [{name: gone, address: 127.0.0.1, port: $GONE}]
- name: full
  healthcheck: {type: off}
  queue: {max: 10}
  backends: [{name: a, address: 127.0.0.1, port: $ECHO, max_connections: 1}]
YAML
}

# With a thousand backends, which have checks so that they have all the series that a backend can have.
configure_large() {
    local backend
    cat <<YAML
logging: {level: error}
admin: {listen_address: "127.0.0.1:$LARGE_ADMIN", socket: off}
listeners: [{name: large, address: "127.0.0.1:$LARGE", upstream: large}]
upstreams:
- name: large
  healthcheck: {interval: 10m}
  backends:
YAML
    for ((backend = 1; backend <= BACKENDS; backend++)); do
        printf -- '  - {name: b%s, address: 127.0.0.1, port: %s}\n' "$backend" $((32000 + backend))
    done
}

configure_prometheus() {
    cat >"$WORK/prometheus.yml" <<YAML
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ["$PWD/$ALERTS"]
scrape_configs:
- job_name: ringway
  static_configs: [{targets: ["127.0.0.1:$ADMIN"]}]
YAML
}

check_exposition() {
    local url=http://127.0.0.1:$ADMIN/metrics
    curl -fsS "$url" >"$WORK/metrics.txt"
    promtool check metrics <"$WORK/metrics.txt"
    curl -fsS -H 'Accept: application/openmetrics-text; version=1.0.0' "$url" >"$WORK/metrics.openmetrics"
    [[ $(tail -n 1 "$WORK/metrics.openmetrics") == '# EOF' ]] || die "OpenMetrics does not end with # EOF"
}

# The best of ten: the time of a scrape, not that of a machine on which others build.
check_cost() {
    local url=http://127.0.0.1:$LARGE_ADMIN/metrics best size
    read -r best size < <(for _ in {1..10}; do
        curl -fsS -o /dev/null -w '%{time_total} %{size_download}\n' "$url"
    done | sort -n)
    awk -v best="$best" -v most="$SCRAPE_SECONDS_MAX" 'BEGIN { exit !(best < most) }' ||
        die "a scrape of $BACKENDS backends takes $best s, of $SCRAPE_SECONDS_MAX"
    ok "a scrape of $BACKENDS backends takes $best s, for $size bytes"
}

query() {
    curl -fsS --get --data-urlencode "query=$1" "http://127.0.0.1:$PROMETHEUS/api/v1/query"
}

# Whether Prometheus has scraped as often as the expressions look back.
has_data() {
    grep -qF '"metric"' <<<"$(query "count_over_time(ringway_build_info[1m]) >= $SCRAPES")"
}

check_expressions() {
    python3 - "http://127.0.0.1:$PROMETHEUS" "$DASHBOARD" docs/OPERATING.md <<'PYTHON'
import json
import math
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

prometheus, dashboard, page = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
problems = []


def ask(path, **parameters):
    with opener.open(f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
        return json.load(answer)["data"]


def check(place, expression):
    """Notes a problem unless the expression finds at least one number."""
    for name, value in {"$__rate_interval": "10s", "$instance": ".*", "$listener": ".*", "$upstream": ".*"}.items():
        expression = expression.replace(name, value)
    try:
        found = ask("query", query=expression)["result"]
    except urllib.error.HTTPError as error:
        problems.append(f"{place}: {json.load(error)['error']}: {expression}")
        return
    if not found:
        problems.append(f"{place}: no series: {expression}")
    elif all(math.isnan(float(series["value"][1])) for series in found):
        problems.append(f"{place}: not a number: {expression}")


def compared(expression):
    """What an alert compares, each alternative apart: all is well, so that the whole finds nothing."""
    parts = re.split(r"\s+(?:or|unless(?: ignoring \([a-z, ]+\))?)\s+", expression)
    return [re.sub(r" (==|>) [\d.]+$", "", part) for part in parts]


def of_page(text):
    """The expressions in the table of the page."""
    section = text.split("## Which metric answers which question\n")[1].split("\n## ")[0]
    for row in re.findall(r"^\| .* \|$", section, re.M):
        _, question, cell, _ = re.split(r"(?<!\\)\|", row)
        for span in re.findall(r"`([^`]+)`", cell.replace("\\|", "|")):
            if re.search(r"ringway_|process_", span):
                yield question.strip(), span


rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
for rule in rules:
    for part in compared(rule["query"]):
        check(f"alert {rule['name']}", part)
    if rule["health"] != "ok":
        problems.append(f"alert {rule['name']}: {rule['health']} {rule.get('lastError', '')}")
with open(dashboard, encoding="utf-8") as file:
    board = json.load(file)
panels = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", [])]
for title, expression in panels:
    check(f"panel {title}", expression)
for note in board["annotations"]["list"]:
    for part in compared(note.get("expr", "")):
        if part:
            check(f"annotation {note['name']}", part)
for variable in board["templating"]["list"]:
    if variable["type"] == "query":
        selector, label = variable["query"]["query"].removeprefix("label_values(").rstrip(")").rsplit(", ", 1)
        check(f"variable {variable['name']}", f"count by ({label}) ({selector})")
with open(page, encoding="utf-8") as file:
    answers = list(of_page(file.read()))
for question, expression in answers:
    for part in compared(expression):
        check(f"{page}, {question}", part)
for problem in problems:
    print(problem)
print(f"{len(rules)} alerts, {len(panels)} expressions of the dashboard, {len(answers)} of {page} checked, {len(problems)} problems")
sys.exit(bool(problems) or not (rules and panels and answers))
PYTHON
}

need_packages prometheus curl python3 openssl
if [[ -n ${1:-} ]]; then RINGWAY=$1; fi
need_ringway
WORK=$(mktemp -d)
trap clean_up EXIT
check_files
ok "the rules are valid, each alert fires when it should, and docs/OPERATING.md explains it"

read -r ADMIN WEB BROKEN FULL ECHO GONE PROMETHEUS LARGE_ADMIN LARGE <<<"$(free_ports 9)"
configure_ringway
configure_large >"$WORK/large.yaml"
configure_prometheus
start echo python3 scripts/traffic.py echo "$ECHO"
wait_for 10 "the backend" port_open "$ECHO" || die "no backend: $(tail "$WORK/echo.log")"
start ringway "$RINGWAY" -f "$WORK/ringway.yaml"
start large "$RINGWAY" -f "$WORK/large.yaml"
wait_for 10 "Ringway" port_open "$ADMIN" || die "Ringway does not run: $(tail "$WORK/ringway.log")"
wait_for 10 "the large Ringway" port_open "$LARGE_ADMIN" || die "Ringway does not run: $(tail "$WORK/large.log")"
start traffic python3 scripts/traffic.py clients "$WEB" "$BROKEN" "$FULL" "$FULL"
start prometheus prometheus --config.file="$WORK/prometheus.yml" --storage.tsdb.path="$WORK/data" \
    --web.listen-address="127.0.0.1:$PROMETHEUS" --log.level=warn
check_exposition
ok "the metrics are well formed"
check_cost
wait_for 40 "$SCRAPES scrapes" has_data || die "Prometheus has no data: $(tail "$WORK/prometheus.log")"
check_expressions
ok "every expression finds what it asks for"
