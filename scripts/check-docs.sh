#!/usr/bin/env bash
# Checks the documents: every configuration in them is valid and without a warning, and every relative link leads to a file
# and a heading.
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

exec python3 - README.md CHANGELOG.md SECURITY.md docs/*.md docs/maintainers/*.md <<'PYTHON'
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
    said = (run.stdout + run.stderr).strip()
    if run.returncode != 0 or said != f"{path}: configuration is valid":
        problems.append(f"{place}: {said}")


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


with tempfile.TemporaryDirectory() as directory:
    for page in sys.argv[1:]:
        read(page, directory)
for file in sorted(os.listdir("configs")):
    if file.endswith(".yaml"):
        check(f"configs/{file}", f"configs/{file}")
for problem in problems:
    print(problem)
print(f"{configurations} configurations and {links} links checked, {len(problems)} problems")
sys.exit(bool(problems))
PYTHON
