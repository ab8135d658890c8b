#!/usr/bin/env bash
# `ringway top`, `ringway demo` and the tables of `ringway ctl` on a real terminal: tmux presses the keys, and the claims
# are about what it shows.
#
# Usage: scripts/top.sh [--figure FILE] [BINARY]
#
# --figure FILE draws docs/figures/top.svg anew instead: two minutes of traffic.
# Needs: Debian, root (or the packages tmux, procps, python3 and groff-base). The binary is BINARY, $RINGWAY, or the release
# build of this tree. Ports of 127.0.0.1 only; under a minute. KEEP=1 keeps the folder.
# Exit status: 0 all claims hold, 1 one does not, 2 wrong usage.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

PROMPT='shell>'
FIGURE_SECONDS=120
failures=0

clean_up() {
    terminal kill-server 2>/dev/null || true
    stop_all
    [[ -n ${KEEP:-} ]] || rm -rf "$WORK"
}

# A tmux of our own.
terminal() {
    tmux -S "$WORK/tmux" -f /dev/null "$@"
}

# A shell on a terminal of COLUMNS and LINES, named `it`.
open_terminal() {
    env -u NO_COLOR -u TMUX tmux -S "$WORK/tmux" -f /dev/null new-session -d -s it -x "$1" -y "$2" \
        env PS1="$PROMPT " bash --norc --noprofile
    terminal set-option -g window-size manual >/dev/null
    wait_for 10 "the shell" shows "^$PROMPT" || die "tmux shows no shell"
    run "stty -g >'$WORK/stty.before'"
    wait_for 10 "the settings of the terminal" test -s "$WORK/stty.before"
}

screen() {
    terminal capture-pane -p -t it
}

# Whether a line of the screen matches.
shows() {
    grep -qE -- "$1" <<<"$(screen)"
}

shows_not() {
    ! shows "$1"
}

# Whether the last line of the screen matches. tmux leaves empty lines at the end out.
ends_with() {
    grep -qE -- "$1" <<<"$(screen | tail -n 1)"
}

press() {
    terminal send-keys -t it "$@"
}

# Runs a command line in the shell of the terminal, on an empty screen.
run() {
    press "clear; $1" Enter
}

resize() {
    terminal resize-window -t it -x "$1" -y "$2"
}

property() {
    terminal display-message -p -t it "#{$1}"
}

# The process that the shell of the terminal has started.
job() {
    pgrep -P "$(property pane_pid)"
}

# claim WHAT COMMAND...: says whether COMMAND succeeds before long.
claim() {
    local what=$1
    shift
    if wait_for 10 "$what" "$@"; then
        printf 'ok %s\n' "$what"
    else
        printf 'FAILED %s; the terminal shows:\n' "$what"
        screen
        failures=$((failures + 1))
    fi
}

# Whether the terminal is as it was before anything ran on it: its screen, its cursor, its settings.
is_as_before() {
    shows "$PROMPT" && [[ $(property alternate_on) == 0 && $(property cursor_flag) == 1 ]] || return 1
    rm -f "$WORK/stty.after"
    press "stty -g >'$WORK/stty.after'" Enter
    wait_for 5 "the settings of the terminal" test -s "$WORK/stty.after" &&
        cmp -s "$WORK/stty.before" "$WORK/stty.after"
}

# Two upstreams: one with a backend that does not run, one with a limit, so that a session waits.
configure() {
    cat >"$WORK/ringway.yaml" <<YAML
runtime: {shutdown_timeout: 10s}
logging: {level: error}
admin: {listen_address: off, socket: "$WORK/admin.sock"}
listeners:
- {name: web, address: "127.0.0.1:$WEB", upstream: web}
- {name: db, address: "127.0.0.1:$DB", upstream: db}
upstreams:
- name: web
  healthcheck: {interval: 1s, fast_interval: 200ms, timeout: 500ms}
  backends:
  - {name: web-1, address: 127.0.0.1, port: ${ECHO[0]}}
  - {name: web-2, address: 127.0.0.1, port: ${ECHO[1]}}
  - {name: web-3, address: 127.0.0.1, port: $GONE}
- name: db
  algorithm: least_connections
  healthcheck: {interval: 1s, fast_interval: 200ms, timeout: 500ms}
  queue: {max: 10, timeout: 1m}
  backends:
  - {name: db-1, address: 127.0.0.1, port: ${ECHO[2]}, max_connections: 1}
  - {name: db-2, address: 127.0.0.1, port: $GONE}
YAML
}

start_ringway() {
    start ringway "$RINGWAY" -f "$WORK/ringway.yaml"
    wait_for 10 "Ringway" "$RINGWAY" ctl ready --socket "$WORK/admin.sock" ||
        die "Ringway does not run: $(tail "$WORK/ringway.log")"
}

# Opens a session and leaves its descriptor in HELD.
hold() {
    exec {HELD}<>"/dev/tcp/127.0.0.1/$1"
}

# Whether a held session has ended; `read` that runs out of time says more than 128.
has_ended() {
    local status=0
    read -r -t 1 -u "$1" 2>/dev/null || status=$?
    ((status > 0 && status <= 128))
}

top() {
    run "'$RINGWAY' top --socket '$WORK/admin.sock'; echo status \$?"
    wait_for 10 "top" shows 'running' || die "top does not show anything: $(screen)"
}

claims_about_the_picture() {
    top
    claim "overview: process, listeners, upstreams, backends" eval \
        'shows "^ringway .* pid [0-9]+ .* running" && shows "^web +yes" && shows "^db +1 of 2" && shows "^web/web-3 +down"'
    claim "80 columns by 24 lines: the keys are in the last one" ends_with '^q quit'
    resize 40 10
    claim "40 by 10: process first, keys last" eval 'shows "^ringway " && ends_with "help$" && shows "^Listeners"'
    resize 200 60
    claim "200 by 60: last check of each backend, and the cores" eval \
        'shows "^web/web-3 .*Connection refused, .* ago" && shows "^core +busy"'
    claim "rates come with the second reading" shows '^listener .* accepts/s'
    resize 100 30
    press '?'
    claim "? explains the keys" shows 'kill the chosen session'
    press '?'
    press 2
    claim "2 shows backends" shows '^Backends'
    press /
    press 'web-3'
    press Enter
    claim "/ filters" eval 'shows "^web/web-3" && shows_not "^web/web-1"'
    press Escape
    claim "Esc ends the filter" shows '^web/web-1'
    press s s
    claim "s sorts" shows '^Backends, sorted by state'
    press 3
    claim "3 shows cores" shows '^[0-9]+ +[0-9]+ %'
}

claims_about_orders() {
    hold "$DB"
    local first=$HELD
    press 4
    claim "4 shows sessions" shows ' 127.0.0.1:[0-9]+ .* db/db-1 .* relaying'
    hold "$DB"
    claim "a session that waits" shows ' 127.0.0.1:[0-9]+ .* db/- .* queued'
    press /
    press relaying
    press Enter
    press k
    claim "k asks" ends_with '^Kill session [0-9]+ of 127.0.0.1:[0-9]+\? y/n'
    press n
    claim "n does not kill" ends_with '^session [0-9]+ is not killed'
    claim "the session goes on" eval "! has_ended $first"
    press k y
    claim "y kills" ends_with '^session [0-9]+ is killed'
    claim "the session has ended" has_ended "$first"
    press Escape
    claim "the one that waited is served" shows 'db/db-1 .* relaying'
    press 1
}

claims_about_the_shell() {
    press C-z
    claim "Ctrl-Z gives the terminal back" is_as_before
    run fg
    claim "fg goes on" shows '^ringway .* running'
    kill -TSTP "$(job)"
    claim "SIGTSTP gives the terminal back" is_as_before
    run 'fg; echo status $?'
    claim "fg goes on again" shows '^ringway .* running'
    press q
    claim "q ends with status 0" shows '^status 0'
    claim "the terminal is as before" is_as_before
    local signal
    for signal in TERM INT HUP QUIT; do
        top
        kill -s "$signal" "$(job)"
        claim "SIG$signal ends with status 0" shows '^status 0'
        claim "the terminal is as before" is_as_before
    done
}

claims_about_the_process() {
    top
    local before=$STARTED
    kill -KILL "$before"
    claim "a process that has gone is missed" shows '^No answer, trying again: .*admin.sock'
    start_ringway
    claim "and found again" shows "pid $STARTED .* running"
    press d
    claim "d asks" ends_with "^Drain process $STARTED, .* y/n"
    press x
    claim "any other key is a no" ends_with '^the process does not drain'
    hold "$WEB"
    press d y
    claim "y drains" shows 'draining'
    exec {HELD}>&-
    claim "the process ends with its last session" eval "! kill -0 $STARTED"
    press C-c
    claim "Ctrl-C ends top" shows '^status 0'
    start_ringway
}

claims_about_the_demo() {
    run "'$RINGWAY' demo --seconds 5; echo status \$?"
    claim "the demo draws" eval 'shows "  0 errors" && shows "^Sessions a second: "'
    claim "it says what it does" shows '  0 errors; backend 3 stopped'
    claim "one of its backends goes down" shows '^default/.* down|^default/.* ejected'
    claim "it ends with a summary and status 0" eval 'shows "^backend 3 " && shows "^status 0"'
    claim "the terminal is as before" is_as_before
    run "'$RINGWAY' demo; echo status \$?"
    claim "without --seconds it goes on" shows '  0 errors'
    press q
    claim "until q" shows '^status 0'
}

claims_about_colours_and_tables() {
    terminal resize-window -t it -x 70 -y 30
    top
    claim "states have colours" has_colour
    press q
    wait_for 10 "the end of top" shows '^status 0'
    run "export NO_COLOR=1"
    top
    claim "NO_COLOR takes them away" eval "! has_colour"
    press q
    wait_for 10 "the end of top" shows '^status 0'
    run "unset NO_COLOR; '$RINGWAY' ctl backends --socket '$WORK/admin.sock'"
    claim "ctl says what has no room" shows '^\(no room for: .*last check'
    run "'$RINGWAY' ctl status --watch 1 --socket '$WORK/admin.sock'"
    claim "ctl status --watch has rates" shows '^LISTENER .* ACCEPTS/S'
    press C-c
    claim "and ends with Ctrl-C" shows "$PROMPT"
}

# Whether there is any green, yellow or red: tmux writes 38;5;N.
has_colour() {
    grep -qF '[38;5;' <<<"$(terminal capture-pane -e -p -t it)"
}

# Whether groff has nothing to say about the manual pages.
is_well_formed() {
    "$RINGWAY" man --dir "$WORK/man" 2>/dev/null || return 1
    [[ -z $(groff -man -ww -z "$WORK"/man/*.1 2>&1) ]]
}

# Draws what the terminal shows as a small SVG: text is text, and bars are rectangles.
draw() {
    terminal capture-pane -e -p -t it | python3 -c '
import html, re, sys

WIDTH, HEIGHT, PLAIN, GROUND = 7.2, 16, "#d6deeb", "#0f1620"
COLOURS = {1: "#ff6b6b", 2: "#6fd08c", 3: "#e6c35c", 6: "#5fc9d8", 8: "#7a8699"}
lines = sys.stdin.read().rstrip("\n").split("\n")
out, columns = [], 0
style = {}
for row, line in enumerate(lines):
    column = 0
    for codes, text in re.findall(r"\x1b\[([0-9;]*)m|([^\x1b]+)", line):
        if not text:
            if codes.startswith("38;5;"):
                style["fill"] = COLOURS[int(codes[5:])]
                continue
            for code in (int(code or 0) for code in codes.split(";")):
                if code == 0: style = {}
                elif code == 39: style.pop("fill", None)
                elif code in (1, 2, 4, 7): style[code] = True
            continue
        fill = style.get("fill", PLAIN)
        for run in re.finditer(r"([\u2581-\u2588])\1*|\S+(?: \S+)*", text):
            at, length = (column + run.start()) * WIDTH, len(run[0])
            if run[1]:
                eighths = ord(run[1]) - 0x2580
                top = (row + 1 - eighths / 8) * HEIGHT + 8
                out.append(f"<rect x=\"{at + 8:.1f}\" y=\"{top:g}\" width=\"{length * WIDTH:.1f}\" height=\"{eighths * 2}\" fill=\"{fill}\"/>")
                continue
            if style.get(7):
                out.append(f"<rect x=\"{at + 8:.1f}\" y=\"{row * HEIGHT + 8}\" width=\"{length * WIDTH:.1f}\" height=\"{HEIGHT}\" fill=\"{fill}\"/>")
            ink = GROUND if style.get(7) else fill
            extra = "" if ink == PLAIN else f" fill=\"{ink}\""
            extra += " font-weight=\"bold\"" if style.get(1) else ""
            extra += " text-decoration=\"underline\"" if style.get(4) else ""
            extra += " opacity=\"0.7\"" if style.get(2) else ""
            out.append(f"<text x=\"{at + 8:.1f}\" y=\"{row * HEIGHT + 20}\" textLength=\"{length * WIDTH:.1f}\"{extra}>{html.escape(run[0])}</text>")
        column += len(text)
    columns = max(columns, column)
width, height = columns * WIDTH + 16, len(lines) * HEIGHT + 16
print(f"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0f} {height}\" width=\"{width:.0f}\" height=\"{height}\" role=\"img\" aria-label=\"ringway top on a terminal\">")
print(f"<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{GROUND}\"/>")
print(f"<g font-family=\"ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"12\" fill=\"{PLAIN}\" xml:space=\"preserve\" shape-rendering=\"crispEdges\">")
print("\n".join(out))
print("</g></svg>")
'
}

figure() {
    start traffic python3 scripts/traffic.py clients "$WEB" "$WEB" "$DB"
    top
    resize 118 32
    wait_for $((FIGURE_SECONDS + 30)) "two minutes of traffic" shows " up $((FIGURE_SECONDS / 60)) min " || die "no traffic"
    mkdir -p "$(dirname "$1")"
    draw >"$1"
    printf 'wrote %s, %s bytes\n' "$1" "$(stat -c %s "$1")"
}

FIGURE=
if [[ ${1:-} == --figure ]]; then
    FIGURE=${2:-}
    [[ -n $FIGURE ]] || { printf 'usage: scripts/top.sh [--figure FILE] [BINARY]\n' >&2; exit 2; }
    shift 2
fi
if [[ -n ${1:-} ]]; then RINGWAY=$1; fi
need_packages tmux procps python3 groff-base
need_ringway
RINGWAY=$(realpath "$RINGWAY")
# A short path: it is on the screen.
WORK=$(mktemp -d /tmp/top.XXXX)
trap clean_up EXIT

read -r WEB DB GONE ECHO <<<"$(free_ports 6)"
read -r -a ECHO <<<"$ECHO"
configure
for port in "${ECHO[@]}"; do
    start echo python3 scripts/traffic.py echo "$port"
    wait_for 10 "a backend" port_open "$port" || die "no backend: $(tail "$WORK/echo.log")"
done
start_ringway
open_terminal 80 24
if [[ -n $FIGURE ]]; then
    figure "$FIGURE"
    exit
fi
claims_about_the_picture
claims_about_orders
claims_about_the_shell
claims_about_the_process
claims_about_the_demo
claims_about_colours_and_tables
mkdir "$WORK/man"
claim "manual pages are well formed" is_well_formed
((failures == 0)) || die "$failures claims do not hold"
