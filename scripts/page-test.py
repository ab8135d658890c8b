#!/usr/bin/env python3
"""The page at `/` of the admin endpoint, in a headless Chromium, before a Ringway with traffic whose backend goes down and comes back.

Usage: page-test.py [--figure FILE] [BINARY]
  BINARY          default: $RINGWAY, else target/release/ringway, else target/debug/ringway
  --figure FILE   also writes the picture of docs/, after a minute and a half, so that the curve has something to show

Needs: chromium, chromium-driver, pngquant for the figure, the Python package selenium; scripts/page.sh brings them. Ports of 127.0.0.1 only. Under a minute without a figure.
Prints `ok WHAT` for each claim. Pictures go to target/page/. Every wait is for something to be seen on the page, with a deadline.
Exit status: 0 all claims hold, 1 one does not, which is printed.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

PATIENCE_SECONDS = 15
BACKENDS_MANY = 1000
UPDATE_MAX_MS = 200
QUIET_MS = 2500  # longer than two polls
CHROMIUM = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
            "disable-component-update", "disable-sync", "window-size=1720,1100"]

# What the tests ask of the page. `cell` finds a cell as a reader does: by table, row and head of the column.
HELPERS = """
window.row = (table, name) => [...document.querySelectorAll(`[aria-label="${table}"] tbody tr`)]
  .find(row => row.cells[0].firstChild.data === name);
window.cell = (table, name, head, nth = 0) => {
  const heads = [...document.querySelectorAll(`[aria-label="${table}"] thead tr:last-child th`)];
  const at = heads.map((th, i) => th.textContent === head ? i : -1).filter(i => i >= 0)[nth];
  return row(table, name).cells[at].innerText.trim();
};
window.number = text => Number(text.replaceAll(",", ""));
window.shown = () => [...document.querySelectorAll("#upstreams tbody tr:not(.sum)")].filter(row => row.checkVisibility())
  .map(row => row.cells[0].firstChild.data);
window.requests = () => performance.getEntriesByType("resource").length;
window.hide = hidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
};
"""

# How long an update takes in which every number of every backend changes, layout included.
MEASURE = """
const took = [], base = JSON.stringify({ ...readings.at(-1), index: undefined });
for (let round = 1; round <= 9; round++) {
  const status = JSON.parse(base);
  status.uptime_seconds += round;
  for (const upstream of status.upstreams) for (const backend of upstream.backends) {
    for (const key of ["in_flight", "sessions", "broken", "connects", "bytes_to_backend", "bytes_to_client"]) backend[key] += round * 12345;
    backend.connect_micros += round * 999999;
    backend.connect_failures.refused += round;
  }
  const begin = performance.now();
  take(status);
  document.body.getBoundingClientRect();
  took.push(performance.now() - begin);
}
return took.sort((a, b) => a - b);
"""


def ok(claim):
    print(f"ok {claim}", flush=True)


def wait_for(what, condition, patience=PATIENCE_SECONDS):
    """Polls until the condition holds; fails after the time that patience lasts, seconds."""
    deadline = time.monotonic() + patience
    while True:
        seen = condition()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience} s in vain for: {what}")
        time.sleep(0.05)


def free_ports(count):
    """Free ports below the range that the kernel takes those of outgoing connections from."""
    held = []
    for port in random.sample(range(12000, 32000), 2000):
        with contextlib.suppress(OSError):
            held.append(socket.create_server(("127.0.0.1", port)))
        if len(held) == count:
            break
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Echo:
    """A backend that sends back what comes; it can go down and come back."""

    def __init__(self, port):
        self.port, self.listener = port, None
        self.up()

    def up(self):
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        threading.Thread(target=self.serve, args=(self.listener,), daemon=True).start()

    def down(self):
        # close() alone would leave the socket open for as long as accept() waits on it.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    @staticmethod
    def serve(listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=Echo.answer, args=(connection,), daemon=True).start()

    @staticmethod
    def answer(connection):
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                connection.sendall(data)


class Traffic:
    """Clients one after the other, and some that stay."""

    def __init__(self, ports):
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(port,), daemon=True) for port in ports]
        for thread in self.threads:
            thread.start()

    def run(self, port):
        kept = []
        while not self.stopped.wait(random.uniform(0.002, 0.03)):
            with contextlib.suppress(OSError):
                client = socket.create_connection(("127.0.0.1", port), timeout=5)
                client.sendall(bytes(random.randrange(100, 20000)))
                client.recv(65536)
                kept.append(client)
                if len(kept) > 12:
                    kept.pop(random.randrange(12)).close()
        for client in kept:
            client.close()

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


class Ringway:
    """A process under test, with its configuration in a folder of its own."""

    def __init__(self, binary, folder, name, admin, text):
        self.command = [binary, "-f", str(folder / f"{name}.yaml")]
        self.url = f"http://127.0.0.1:{admin}/"
        self.log = folder / f"{name}.log"
        (folder / f"{name}.yaml").write_text(
            f"runtime: {{shutdown_timeout: 1s}}\nlogging: {{level: warn}}\nadmin: {{listen_address: '127.0.0.1:{admin}', socket: off}}\n{text}")
        self.process = None
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(f"an answer of {self.url}", self.answers)

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.command} ended:\n{self.log.read_text()}")
        host = self.url.split("/")[2].split(":")
        with contextlib.suppress(OSError):
            socket.create_connection((host[0], int(host[1])), timeout=1).close()
            return True
        return False

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def configuration(listeners, backends):
    """Two upstreams: web with three backends and a backup, db with two."""
    [web, db], place = listeners, "{{name: {}, address: 127.0.0.1, port: {}{}}}".format
    of_web = [place("web-1", backends[0].port, ", weight: 2"), place("web-2", backends[1].port, ", max_connections: 200"),
              place("web-3", backends[2].port, ""), place("standby", backends[3].port, ", backup: true")]
    of_db = [place("db-1", backends[4].port, ""), place("db-2", backends[5].port, "")]
    check = "healthcheck: {interval: 300ms, fast_interval: 100ms, timeout: 200ms, rise: 2, fall: 2}"
    return (
        f"listeners:\n- {{name: web, address: '127.0.0.1:{web}', upstream: web}}\n- {{name: db, address: '127.0.0.1:{db}', upstream: db}}\n"
        f"upstreams:\n- name: web\n  {check}\n  backends: [{', '.join(of_web)}]\n"
        f"- name: db\n  algorithm: least_connections\n  {check}\n  backends: [{', '.join(of_db)}]\n")


def many(listener):
    backends = ", ".join(f"{{name: m-{at}, address: 127.0.0.1, port: {20000 + at}}}" for at in range(BACKENDS_MANY))
    return (f"listeners:\n- {{name: many, address: '127.0.0.1:{listener}', upstream: many}}\n"
            f"upstreams:\n- name: many\n  healthcheck: {{type: off}}\n  backends: [{backends}]\n")


class Page:
    """A browser with the page open."""

    def __init__(self, profile):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for option in [*CHROMIUM, f"user-data-dir={profile}"]:
            options.add_argument(f"--{option}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        self.asked, self.said = [], []

    def open(self, url):
        self.driver.get(url)
        self.look()

    def reload(self):
        self.driver.refresh()
        self.look()

    def look(self):
        self.driver.execute_script(HELPERS)
        self.wait("the first reading", "document.getElementById('connection').textContent === 'Live'")

    def js(self, expression):
        return self.driver.execute_script(f"return {expression}")

    def wait(self, what, expression):
        try:
            return wait_for(what, lambda: self.js(expression))
        except AssertionError as error:
            raise AssertionError(f"{error}; the page shows:\n{self.js('document.body.innerText')}") from None

    def type(self, keys):
        self.driver.switch_to.active_element.send_keys(keys)

    def cdp(self, command, **parameters):
        return self.driver.execute_cdp_cmd(command, parameters)

    def hosts(self):
        """Every address that the browser has asked since the start."""
        for entry in self.driver.get_log("performance"):
            if '"Network.requestWillBeSent"' in entry["message"]:
                message = json.loads(entry["message"])["message"]["params"]
                self.asked.append(message["request"]["url"])
        return self.asked

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]


def check_tables(page):
    """The numbers move, and the tables are what a screen reader needs."""
    before = page.js("number(cell('web', 'web-1', 'Total'))")
    page.wait("sessions move", f"number(cell('web', 'web-1', 'Total')) > {before}")
    page.wait("a rate", "number(cell('web', 'all backends', '/s')) > 0 && number(cell('Listeners', 'web', '/s')) > 0")
    page.wait("quantiles", "/[µm]?s$/.test(cell('Listeners', 'web', 'p50')) && /[µm]?s$/.test(cell('web', 'web-1', 'RTT p50'))")
    page.wait("a turn", "number(cell('Cores', row('Cores', document.querySelector('#cores tbody th').firstChild.data).cells[0].firstChild.data, 'Turns/s')) > 0")
    ok("sessions, rates and quantiles move")
    assert "backup" in page.js("cell('web', 'standby', 'State')")
    assert page.js("[...document.querySelectorAll('table')].every(table => table.caption && [...table.tHead.rows[1].cells].every(th => th.scope === 'col'))")
    assert page.js("[...document.querySelectorAll('tbody tr')].every(row => row.cells[0].scope === 'row')")
    assert page.js("document.getElementById('connection').getAttribute('aria-live') === 'polite'")
    ok("every table has a caption and heads with a scope")


def check_states(page, backend, picture):
    """A backend goes down and comes back."""
    page.wait("all up", "['web-1', 'web-2', 'web-3'].every(name => cell('web', name, 'State') === 'up')")
    backend.down()
    page.wait("down", "cell('web', 'web-3', 'State') === 'down'")
    page.wait("the message of the check", "/^failed .*[Cc]onnection refused/.test(cell('web', 'web-3', 'Last'))")
    assert page.js("cell('web', 'all backends', 'State')") == "3 of 4 up"
    assert page.js("row('web', 'web-3').className === 'bad' && document.title.startsWith('●')")
    ok(f"up, then down: {page.js('''cell('web', 'web-3', 'Last')''')!r}")
    picture()
    check_filter(page)
    backend.up()
    page.wait("up again", "cell('web', 'web-3', 'State') === 'up' && cell('web', 'web-3', 'Last') === 'ok'")
    assert page.js("number(cell('web', 'web-3', 'Down')) >= 1 && number(cell('web', 'web-3', 'Up')) >= 2")
    ok("up again")


def check_filter(page):
    """By state, by name, by address; with keys and with the mouse."""
    page.type("/")
    page.type("down")
    page.wait("only what is down", "shown().join() === 'web-3'")
    assert page.js("document.getElementById('found').textContent === '1 of 6 backends shown' && location.hash === '#down'")
    page.type(Keys.ESCAPE)
    page.wait("all again", "shown().length === 6 && location.hash === ''")
    for text, names in [("web up", "web-1,web-2,standby"), ("DB-2", "db-2"), ("backup", "standby"), ("nobody", "")]:
        page.type("/")
        page.type(text)
        page.wait(f"{text!r} finds {names!r}", f"shown().join() === '{names}'")
        page.type(Keys.ESCAPE)
    page.driver.find_element("xpath", "//*[@id='chips']/button[contains(., 'down')]").click()
    page.wait("the button of a state filters, too", "shown().join() === 'web-3'")
    page.type(Keys.ESCAPE)
    page.js("document.activeElement.blur()")
    ok("filter by state, name and address, with keys and mouse")


def check_theme(page, ground="getComputedStyle(document.body).backgroundColor"):
    """The system's, and the other one on demand, which is kept."""
    def system(theme):
        page.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    system("light")
    light = page.js(ground)
    system("dark")
    page.wait("dark as the system", f"{ground} !== '{light}'")
    page.type("t")
    page.wait("light by key", f"{ground} === '{light}' && document.getElementById('theme').getAttribute('aria-pressed') === 'false'")
    page.reload()
    assert page.js(ground) == light, "the choice does not outlast a reload"
    page.driver.find_element("id", "theme").click()
    page.wait("dark by button", f"{ground} !== '{light}' && document.getElementById('theme').getAttribute('aria-pressed') === 'true'")
    system("light")
    page.wait("light as the system again", f"{ground} === '{light}'")
    page.js("document.activeElement.blur()")
    ok("dark and light: by system, key and button, kept over a reload")


def check_phone(page):
    """No sideways scrolling of the page itself, only of the tables."""
    page.cdp("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    page.wait("the width of a phone", "innerWidth === 390 && document.documentElement.scrollWidth <= 390")
    page.wait("a curve", "trend.length > 3")
    page.driver.save_screenshot(str(PICTURES / "phone.png"))
    page.cdp("Emulation.clearDeviceMetricsOverride")
    ok("readable on a phone")


def check_hostile_text(page):
    """A text is text, whatever is in it."""
    page.driver.execute_script("""
        const status = JSON.parse(JSON.stringify({ ...readings.at(-1), index: undefined }));
        status.upstreams[0].backends[0].checks.last.message = "<img src=/x onerror=alert(1)>";
        status.upstreams[0].name = "<script>alert(1)</" + "script>";
        take(status);""")
    assert page.js("document.querySelector('main img, main script') === null && document.body.innerText.includes('<img src=/x')")
    page.wait("the real names again, in their order", "[...document.querySelectorAll('#upstreams caption b')].map(b => b.innerText).join() === 'web,db'")
    ok("text from elsewhere is never markup")


def check_pause(page):
    """Nothing is asked while the tab is hidden."""
    page.driver.execute_script("hide(true)")
    page.wait("paused", "document.getElementById('connection').textContent.startsWith('Paused')")
    # That nothing comes can only be seen by waiting; the page's own clock says how long.
    asked = page.driver.execute_async_script(
        f"const done = arguments[0], before = requests(); setTimeout(() => done(requests() - before), {QUIET_MS})")
    assert asked == 0, f"{asked} requests while hidden"
    page.driver.execute_script("window.before = requests(); hide(false)")
    page.wait("live again", "requests() > before && document.getElementById('connection').textContent === 'Live'")
    ok("paused while hidden")


def check_unreachable(page, ringway):
    """The page says so, greys the old values, and finds the next process."""
    ringway.stop()
    page.wait("the message", "document.getElementById('connection').textContent.startsWith('Ringway does not answer')")
    assert page.js("document.body.classList.contains('stale') && cell('web', 'web-1', 'State') === 'up'")
    page.driver.save_screenshot(str(PICTURES / "unreachable.png"))
    ok(page.js("document.getElementById('connection').textContent"))
    ringway.start()
    page.wait("the next process", "document.getElementById('connection').textContent === 'Live' && !document.body.classList.contains('stale')")
    page.wait("counts from 0", f"document.getElementById('process').textContent.includes('pid {ringway.process.pid} ')")
    ok("finds the next process")


def check_many(page, binary, folder):
    """A thousand backends."""
    listener, admin = free_ports(2)
    ringway = Ringway(binary, folder, "many", admin, many(listener))
    try:
        page.open(ringway.url)
        page.wait("all rows", f"shown().length === {BACKENDS_MANY}")
        took = page.driver.execute_script(MEASURE)
        page.driver.save_screenshot(str(PICTURES / "many.png"))
        # The quickest: others may use this machine, too.
        assert took[0] < UPDATE_MAX_MS, f"an update takes {took[0]:.0f} ms, of {UPDATE_MAX_MS}"
        page.type("/")
        page.type("m-99")
        page.wait("the filter", "shown().length === 11")
        ok(f"{BACKENDS_MANY} backends: an update takes {took[0]:.0f} ms")
    finally:
        ringway.stop()


def check_hosts(page, urls):
    # chrome: and data: ask nobody; the browser's first tab consists of the former.
    asked = [url for url in page.hosts() if not url.startswith(("chrome:", "data:"))]
    foreign = [url for url in asked if not url.startswith(tuple(urls))]
    assert asked and not foreign, f"asked elsewhere: {foreign}"
    ok(f"{len(asked)} requests, none to anybody else")


def pictures(page, figure):
    """Light and dark, while a backend is down."""
    for name in ["light", "dark"]:
        page.js("document.activeElement.blur()")
        page.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])
        page.driver.save_screenshot(str(PICTURES / f"{name}.png"))
    page.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    if figure:
        wait_for("a curve", lambda: page.js("trend.length") >= 90, patience=120)
        height = page.js("document.documentElement.scrollHeight")
        page.cdp("Emulation.setDeviceMetricsOverride", width=1960, height=height, deviceScaleFactor=1, mobile=False)
        page.wait("the whole page", "innerWidth === 1960")
        pathlib.Path(figure).parent.mkdir(parents=True, exist_ok=True)
        page.driver.save_screenshot(figure)
        subprocess.run(["pngquant", "--force", "--strip", "--ext", ".png", "64", figure], check=True)
        page.cdp("Emulation.clearDeviceMetricsOverride")


def run(binary, figure, folder):
    *listeners, admin = free_ports(3)
    backends = [Echo(port) for port in free_ports(6)]
    ringway = Ringway(binary, folder, "ringway", admin, configuration(listeners, backends))
    page = traffic = None
    try:
        traffic = Traffic([*listeners * 2])
        page = Page(folder / "profile")
        page.open(ringway.url)
        check_tables(page)
        check_states(page, backends[2], lambda: pictures(page, figure))
        check_theme(page)
        check_phone(page)
        check_hostile_text(page)
        check_pause(page)
        complaints = page.complaints()
        assert not complaints, f"the browser complains: {complaints}"
        ok("nothing on the browser's console")
        check_unreachable(page, ringway)
        traffic.stop()
        page.complaints()
        url = ringway.url
        check_many(page, binary, folder)
        complaints = [text for text in page.complaints() if "ERR_CONNECTION_REFUSED" not in text]
        assert not complaints, f"the browser complains: {complaints}"
        check_hosts(page, [url, page.js("location.origin")])
    finally:
        if traffic:
            traffic.stop()
        if page:
            page.driver.quit()
        ringway.stop()


def main():
    parser = argparse.ArgumentParser(usage="%(prog)s [--figure FILE] [BINARY]")
    parser.add_argument("--figure")
    parser.add_argument("binary", nargs="?", default=os.environ.get("RINGWAY"))
    arguments = parser.parse_args()
    builds = [TARGET / "release/ringway", TARGET / "debug/ringway"]
    binary = arguments.binary or next((str(path) for path in builds if path.exists()), None)
    if binary is None or not os.access(binary, os.X_OK):
        sys.exit(f"no executable at {binary or builds[0]}: build it first, or give its path")
    PICTURES.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ringway-page-") as folder:
        try:
            run(os.path.realpath(binary), arguments.figure, pathlib.Path(folder))
        except AssertionError as error:
            sys.exit(f"FAILED: {error}")
    ok(f"all in {time.monotonic() - begin:.0f} s")


TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path(__file__).resolve().parent.parent / "target"))
PICTURES = TARGET / "page"

if __name__ == "__main__":
    main()
