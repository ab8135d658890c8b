#!/usr/bin/env bash
# The metrics, the alerts and the dashboard before a real Prometheus that scrapes a real Ringway with traffic.
#
# Usage: scripts/prometheus.sh [BINARY]
#
# Checks: the rules and the example configuration with promtool; what each alert says when it should, and when not; its
# heading in docs/OPERATING.md; `promtool check metrics` on the text format and the end mark of OpenMetrics; then that every
# expression of configs/prometheus/alerts.yml and configs/grafana/ringway.json works, and that each one of the dashboard
# finds a series.
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

clean_up() {
    stop_all
    [[ -n ${KEEP:-} ]] || rm -rf "$WORK"
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

# Two listeners and upstreams; one backend does not run, so that there are failures and retries, and one has a limit.
configure_ringway() {
    cat >"$WORK/ringway.yaml" <<YAML
runtime: {shutdown_timeout: 1s}
logging: {level: error}
admin: {listen_address: "127.0.0.1:$ADMIN", socket: off}
listeners:
- {name: web, address: "127.0.0.1:$WEB", upstream: web}
- {name: broken, address: "127.0.0.1:$BROKEN", upstream: broken}
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
YAML
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

query() {
    curl -fsS --get --data-urlencode "query=$1" "http://127.0.0.1:$PROMETHEUS/api/v1/query"
}

# Whether Prometheus has scraped as often as the expressions look back.
has_data() {
    query "count_over_time(ringway_build_info[1m]) >= $SCRAPES" | grep -qF '"metric"'
}

check_expressions() {
    python3 - "http://127.0.0.1:$PROMETHEUS" "$DASHBOARD" <<'PYTHON'
import json
import sys
import urllib.error
import urllib.parse
import urllib.request

prometheus, dashboard = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
problems = []


def ask(path, **parameters):
    with opener.open(f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
        return json.load(answer)["data"]


def series(place, expression):
    """How many series an expression finds; an expression that fails is a problem."""
    try:
        return len(ask("query", query=expression)["result"])
    except urllib.error.HTTPError as error:
        problems.append(f"{place}: {json.load(error)['error']}: {expression}")
        return None


def substituted(expression):
    for name, value in {"$__rate_interval": "10s", "$instance": ".*", "$listener": ".*", "$upstream": ".*"}.items():
        expression = expression.replace(name, value)
    return expression


rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
for rule in rules:
    series(f"alert {rule['name']}", rule["query"])
    if rule["health"] == "err":
        problems.append(f"alert {rule['name']}: {rule['lastError']}")
with open(dashboard, encoding="utf-8") as file:
    board = json.load(file)
expressions = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", [])]
for title, expression in expressions:
    if series(f"panel {title}", substituted(expression)) == 0:
        problems.append(f"panel {title}: no series: {substituted(expression)}")
for note in board["annotations"]["list"]:
    if "expr" in note:
        series(f"annotation {note['name']}", substituted(note["expr"]))
for variable in board["templating"]["list"]:
    if variable["type"] == "query":
        selector, label = variable["query"]["query"].removeprefix("label_values(").rstrip(")").rsplit(", ", 1)
        found = series(f"variable {variable['name']}", f"count by ({label}) ({substituted(selector)})")
        if found == 0:
            problems.append(f"variable {variable['name']}: no values: {variable['query']['query']}")
for problem in problems:
    print(problem)
print(f"{len(rules)} alerts and {len(expressions)} expressions of the dashboard checked, {len(problems)} problems")
sys.exit(bool(problems))
PYTHON
}

need_packages prometheus curl python3
if [[ -n ${1:-} ]]; then RINGWAY=$1; fi
need_ringway
WORK=$(mktemp -d)
trap clean_up EXIT
check_files

read -r ADMIN WEB BROKEN ECHO GONE PROMETHEUS <<<"$(free_ports 6)"
configure_ringway
configure_prometheus
start echo python3 scripts/traffic.py echo "$ECHO"
wait_for 10 "the backend" port_open "$ECHO" || die "no backend: $(tail "$WORK/echo.log")"
start ringway "$RINGWAY" -f "$WORK/ringway.yaml"
wait_for 10 "Ringway" port_open "$ADMIN" || die "Ringway does not run: $(tail "$WORK/ringway.log")"
start traffic python3 scripts/traffic.py clients "$WEB" "$BROKEN"
start prometheus prometheus --config.file="$WORK/prometheus.yml" --storage.tsdb.path="$WORK/data" \
    --web.listen-address="127.0.0.1:$PROMETHEUS" --log.level=warn
check_exposition
wait_for 40 "$SCRAPES scrapes" has_data || die "Prometheus has no data: $(tail "$WORK/prometheus.log")"
check_expressions
