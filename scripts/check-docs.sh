#!/usr/bin/env bash
# Checks the documents: every configuration in them is valid and without a warning, every relative link leads to a file
# and a heading, and docs/LOGS.md has every log record of the source and every reason for a session's end with its letters.
#
# Usage: scripts/check-docs.sh
#
# A fenced block that is marked `yaml` is a complete configuration. One that is marked `yaml part` holds top-level keys
# of a short form; where `loadbalancer` or `backends` is missing, the script adds one. The files in configs/ are checked too.
#
# Needs: Python 3. The binary is $RINGWAY, default target/release/ringway, built when it is not there.
# Exit status: 0 all is well, 1 something is wrong, which is printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

need_ringway
export RINGWAY

exec python3 - README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs/*.md docs/maintainers/*.md <<'PYTHON'
import os
import re
import subprocess
import sys
import tempfile

problems = []
configurations = links = 0


def check(place, path):
    """Runs `ringway check` on the file and notes what it says beyond that the file is valid."""
    global configurations
    configurations += 1
    run = subprocess.run([os.environ["RINGWAY"], "check", "-f", path], capture_output=True, text=True)
    said = (run.stdout + run.stderr).strip().splitlines()
    # What the machine lacks is no fault of the file, and what `check` cannot know is none either.
    said = [line for line in said if " on this machine: " not in line and not line.startswith("(")]
    if run.returncode != 0 or len(said) != 1 or not said[0].startswith(f"{path}: configuration is valid"):
        problems.append(f"{place}: " + "\n".join(said))


def completed(part):
    """A part of a short form, made whole."""
    for key, line in (
        ("loadbalancer", 'loadbalancer: {listen_address: ":8080"}\n'),
        ("backends", "backends: [{address: 10.0.0.1, port: 80}, {address: 10.0.0.2, port: 80}]\n"),
    ):
        if not re.search(rf"^{key}:", part, re.M):
            part += line
    return part


def anchors(path):
    """The anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", open(path, encoding="utf-8").read(), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def follow(page, number, target):
    """Notes a link that leads nowhere."""
    global links
    links += 1
    path, _, anchor = target.partition("#")
    path = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
    if not os.path.exists(path):
        problems.append(f"{page}:{number}: no file {path}")
    elif anchor and anchor not in anchors(path):
        problems.append(f"{page}:{number}: no heading #{anchor} in {path}")


def read(page, directory):
    """Checks one page, line by line."""
    block, marked, begin = None, "", 0
    for number, line in enumerate(open(page, encoding="utf-8"), 1):
        if line.startswith("```"):
            if block is None:
                block, marked, begin = [], line[3:].strip(), number
                continue
            if marked in ("yaml", "yaml part"):
                text = "".join(block)
                path = os.path.join(directory, f"{os.path.basename(page)}-{begin}.yaml")
                with open(path, "w", encoding="utf-8") as file:
                    file.write(completed(text) if marked == "yaml part" else text)
                check(f"{page}:{begin}", path)
            block = None
        elif block is not None:
            block.append(line)
        elif not line.startswith("    "):
            for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", line)):
                if not re.match(r"[a-z]+:", target):
                    follow(page, number, target)
    if block is not None:
        problems.append(f"{page}:{begin}: the block does not end")


def sources():
    """Every source file with its text, without its tests."""
    for directory, _, files in sorted(os.walk("src")):
        for file in sorted(files):
            if file.endswith(".rs") and "test" not in os.path.join(directory, file):
                path = os.path.join(directory, file)
                yield path, open(path, encoding="utf-8").read().split("#[cfg(test)]\nmod tests")[0]


def check_records(reference):
    """Notes the log records that the reference does not know: by the first piece of their text that has no placeholder,
    and one of the longer ones."""
    global records
    for path, text in sources():
        for begin in re.finditer(r"log::\w+!\(", text):
            # The text comes first, or after fields and a semicolon.
            literal = re.match(r'\s*(?:[^;]*?;)?\s*"((?:[^"\\]|\\.)*)"', text[begin.end() : begin.end() + 900])
            if literal is None:
                continue
            literal = literal[1]
            literal = re.sub(r"\\\n\s*", "", literal)
            pieces = [piece.strip(" :;,()/`") for piece in re.split(r"\{[^}]*\}", literal)]
            pieces = [piece for piece in pieces if len(piece) >= 5]
            if not pieces:
                continue
            records += 1
            longer = [piece for piece in pieces[1:] if len(piece) >= 12]
            if pieces[0] not in reference or longer and not any(piece in reference for piece in longer):
                problems.append(f"{LOGS}: no record `{literal}` ({path})")


def check_reasons(reference):
    """Notes the reasons for the end of a session that the reference does not know by both name and letters."""
    global reasons
    path, text = next((path, text) for path, text in sources() if os.path.basename(path) == "reasons.rs")
    for name, letters in re.findall(r'^    \w+ = "(\w+)", "(..)";$', text, re.M):
        reasons += 1
        row = next((line for line in reference.splitlines() if line.startswith(f"| `{name}` |")), "")
        if f"`{letters}`" not in row:
            problems.append(f"{LOGS}: no row with `{name}` and `{letters}` ({path})")


LOGS = "docs/LOGS.md"
records = reasons = 0
with tempfile.TemporaryDirectory() as directory:
    for page in sys.argv[1:]:
        read(page, directory)
with open(LOGS, encoding="utf-8") as file:
    reference = file.read()
check_records(reference)
check_reasons(reference)
for file in sorted(os.listdir("configs")):
    if file.endswith(".yaml"):
        check(f"configs/{file}", f"configs/{file}")
for problem in problems:
    print(problem)
print(
    f"{configurations} configurations, {links} links, {records} log records and {reasons} reasons checked, "
    f"{len(problems)} problems"
)
sys.exit(bool(problems))
PYTHON
