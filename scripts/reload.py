#!/usr/bin/env python3
"""Traffic, reloads and claims for scripts/reload.sh.

Usage: reload.py echo PORT...                    backends that send back what comes
       reload.py load PORT RATE LONG             clients; a line on standard input ends them, and they print figures
       reload.py run BINARY FOLDER SECONDS       everything
"""

import collections
import contextlib
import errno
import http.client
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time

RATE = 1000
LONG = 500
RELOAD_PAUSE = 0.6
IDLE = 20
MOVES = 600
IDLE_RELOADS = 1000
MEMORY_MAX = 10 << 20
UNEVEN_MAX = 0.05
# A client that gets no answer for so long has lost its session.
LOST_AFTER = 10
MESSAGE = b"0123456789abcdef"


def echo(ports):
    poll, sockets = select.epoll(), {}
    for port in ports:
        listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        listener.setblocking(False)
        sockets[listener.fileno()] = (listener, True)
        poll.register(listener, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            known, listens = sockets[number]
            if listens:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        client, _ = known.accept()
                        sockets[client.fileno()] = (client, False)
                        poll.register(client, select.EPOLLIN)
                continue
            try:
                data = known.recv(65536)
                if data:
                    known.sendall(data)
                    continue
            except OSError:
                pass
            del sockets[number]
            known.close()


class Load:
    """New sessions at a rate, each with one echo, beside long ones with an echo a second."""

    def __init__(self, port, rate, long):
        self.port, self.rate = port, rate
        self.poll, self.clients = select.epoll(), {}
        self.failures = collections.Counter()
        self.served = self.echoes = self.begun = 0
        self.slowest = self.slowest_connect = 0.0
        self.begin = time.monotonic()
        for _ in range(long):
            self.start(is_long=True)

    def start(self, is_long):
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = client.connect_ex(("127.0.0.1", self.port))
        if error not in (0, errno.EINPROGRESS):
            self.failures[f"connect {errno.errorcode[error]}"] += 1
            client.close()
            return
        # What it waits for: to be connected, to get an echo, or to ask again.
        now = time.monotonic()
        self.clients[client.fileno()] = [client, is_long, "connect", now]
        self.poll.register(client, select.EPOLLOUT)

    def end(self, number, failure=None):
        client, is_long, _, _ = self.clients.pop(number)
        if failure:
            self.failures[("long: " if is_long else "") + failure] += 1
        client.close()

    def turn(self, number):
        client, is_long, waits_for, since = self.clients[number]
        now = time.monotonic()
        try:
            if waits_for == "connect":
                error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    return self.end(number, f"connect {errno.errorcode[error]}")
                self.slowest_connect = max(self.slowest_connect, now - since) if self.begun else 0
                client.send(MESSAGE)
                self.clients[number][2:] = ["echo", now]
                return self.poll.modify(number, select.EPOLLIN)
            data = client.recv(4096)
        except OSError as error:
            return self.end(number, f"{waits_for} {errno.errorcode[error.errno]}")
        if data != MESSAGE or waits_for != "echo":
            return self.end(number, f"{waits_for}: {'end' if not data else 'other bytes'}")
        self.echoes += 1
        self.slowest = max(self.slowest, now - since)
        if not is_long:
            self.served += 1
            return self.end(number)
        self.clients[number][2:] = ["rest", now]

    def look(self, now):
        """Has long sessions ask again, and ends those that have lost their answer."""
        for number, (client, is_long, waits_for, since) in list(self.clients.items()):
            if waits_for == "rest" and now - since > 1:
                try:
                    client.send(MESSAGE)
                    self.clients[number][2:] = ["echo", now]
                except OSError as error:
                    self.end(number, f"send {errno.errorcode[error.errno]}")
            elif waits_for != "rest" and now - since > LOST_AFTER:
                self.end(number, f"{waits_for}: nothing for {LOST_AFTER} s")

    def run(self):
        looked, is_ending = 0.0, False
        self.begin = time.monotonic()
        while True:
            now = time.monotonic()
            if not is_ending:
                while self.begun < (now - self.begin) * self.rate:
                    self.begun += 1
                    self.start(is_long=False)
            elif not any(waits_for != "rest" for _, _, waits_for, _ in self.clients.values()):
                break
            for number, _ in self.poll.poll(0.002):
                if number in self.clients:
                    self.turn(number)
            if now - looked > 0.1:
                looked = now
                if not is_ending and select.select([sys.stdin], [], [], 0)[0]:
                    is_ending, took = True, now - self.begin
                if not is_ending or now - self.begin - took < 2 * LOST_AFTER:
                    self.look(now)
        long = sum(is_long for _, is_long, _, _ in self.clients.values())
        print(json.dumps({
            "begun": self.begun, "served": self.served, "echoes": self.echoes, "rate": self.begun / took,
            "long": long, "failures": self.failures, "slowest": self.slowest, "slowest_connect": self.slowest_connect,
        }))


class Socket(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Ringway:
    """A process, and what it is asked."""

    def __init__(self, folder):
        self.folder = folder
        self.file = os.path.join(folder, "ringway.yaml")
        self.socket = os.path.join(folder, "admin.sock")
        # main; four backends, one that comes and goes, one that is dead; those that `side` and `more` move over, many,
        # because an address that was removed is closed only a second later.
        self.ports = free_ports(7 + 2 * MOVES)
        self.write(0)

    def start(self, binary, folder):
        self.log = open(os.path.join(folder, "log"), "wb")
        self.process = subprocess.Popen([binary, "-f", self.file], stderr=self.log, stdin=subprocess.DEVNULL)
        wait_for("its admin socket", lambda: os.path.exists(self.socket))
        wanted = {"a": "up", "b": "up", "c": "up", "d": "up", "dead": "down"}
        wait_for("the verdicts", lambda: {name: one["health"] for name, one in self.backends().items()} == wanted)

    def write(self, round):
        """A file: in each round something else comes, goes or changes. `main` and the backends a to d always stay."""
        main, *backends = self.ports[:7]
        side, more = self.side(round), self.ports[7 + MOVES + round % MOVES]
        listeners = [f"{{name: main, address: '127.0.0.1:{main}', upstream: rr}}"]
        if round % 2:
            listeners.insert(0, f"{{name: side, address: '127.0.0.1:{side}', upstream: side}}")
        if round % 3 == 1:
            address = f"127.0.0.1:{more}" if round % 2 else f":{more}"
            listeners.append(f"{{name: more, address: '{address}', upstream: {'rr' if round % 2 else 'side'}}}")
        entries = [
            f"{{name: {name}, address: 127.0.0.1, port: {port}}}" for name, port in zip("abcd", backends)
        ]
        entries.append(f"{{name: dead, address: 127.0.0.1, port: {backends[5]}}}")
        if round % 4 > 1:
            weight = 1 + round % 3
            entries.append(f"{{name: e{round % 5}, address: 127.0.0.1, port: {backends[4]}, weight: {weight}}}")
        if round % 5 == 4:
            entries.reverse()
        check = "{interval: 5s, fast_interval: 200ms, timeout: 5s}"
        text = (
            f"admin: {{listen_address: off, socket: '{self.socket}'}}\n"
            f"logging: {{level: warn}}\n"
            f"listeners: [{', '.join(listeners)}]\n"
            f"upstreams:\n"
            f"  - {{name: rr, retries: {1 + round % 7}, healthcheck: {check}, backends: [{', '.join(entries)}]}}\n"
            f"  - {{name: side, healthcheck: off, backends: [{{address: 127.0.0.1, port: {backends[4]}}}]}}\n"
        )
        with open(self.file + ".new", "w") as new:
            new.write(text)
        os.rename(self.file + ".new", self.file)

    def side(self, round):
        return self.ports[7 + round % MOVES]

    def ask(self, method, path):
        connection = Socket(self.socket)
        with contextlib.closing(connection):
            connection.request(method, path)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())

    def reload(self, round):
        """Returns how long it took."""
        self.write(round)
        begin = time.monotonic()
        status, reply = self.ask("POST", "/v1/reload")
        if status != 200:
            sys.exit(f"reload {round} is refused: {reply}")
        return time.monotonic() - begin

    def status(self):
        return self.ask("GET", "/v1/status")[1]

    def backends(self):
        upstream = next(one for one in self.status()["upstreams"] if one["name"] == "rr")
        return {backend["name"]: backend for backend in upstream["backends"]}

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS:"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self):
        """Those of the kernel's for its ring, which come and go with its work, do not count. Others that wait for work
        end after a while."""
        tasks = f"/proc/{self.process.pid}/task"
        names = (open(f"{tasks}/{task}/comm").read() for task in os.listdir(tasks))
        return sum(not name.startswith("iou-") for name in names)


def free_ports(count):
    """Below those from which the kernel takes ports of outgoing connections."""
    held = []
    for port in random.sample(range(12000, 32000), 4000):
        one = socket.socket()
        try:
            one.bind(("127.0.0.1", port))
            held.append(one)
        except OSError:
            one.close()
        if len(held) == count:
            break
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def wait_for(what, condition):
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        if time.monotonic() > deadline:
            sys.exit(f"not within 20 s: {what}")
        time.sleep(0.02)


failed = []


def claim(what, holds):
    print(f"{'ok  ' if holds else 'FAIL'} {what}", flush=True)
    if not holds:
        failed.append(what)


def under_load(ringway, load, seconds):
    """Reloads while clients come, and claims that they have not noticed."""
    wait_for("the long sessions", lambda: ringway.status()["listeners"][-1]["active"] >= LONG)
    time.sleep(3)
    dead = ringway.backends()["dead"]
    first, memory, peak = ringway.backends(), ringway.memory(), 0
    times, begin, count = [], time.monotonic(), round(seconds / RELOAD_PAUSE)
    side = []
    for number in range(1, count + 1):
        time.sleep(max(0, begin + number * RELOAD_PAUSE - time.monotonic()))
        times.append(ringway.reload(number))
        peak = max(peak, ringway.memory())
        if number % 2:
            with contextlib.suppress(OSError):
                side.append(socket.create_connection(("127.0.0.1", ringway.side(number)), timeout=5))
        elif len(side) > 10:
            side.pop(0).close()
    took = time.monotonic() - begin
    ringway.reload(0)
    memory_after, last, after = ringway.memory(), ringway.backends(), ringway.status()
    figures = json.loads(load.communicate(b"\n", timeout=60)[0])
    for one in side:
        one.close()
    claim(f"{count} reloads in {took:.1f} s, the longest took {max(times) * 1000:.0f} ms, the median "
          f"{sorted(times)[count // 2] * 1000:.1f} ms", took < seconds + 5)
    claim(f"{figures['rate']:.0f} new connections a second, {figures['begun']} in all", figures["rate"] > 0.95 * RATE)
    claim(f"none was refused, reset or lost: {figures['failures']}", not figures["failures"])
    claim(f"all were served: {figures['served']}", figures["served"] == figures["begun"])
    claim(f"{figures['long']} long sessions still echo; {figures['echoes']} echoes, the slowest took "
          f"{figures['slowest'] * 1000:.0f} ms, the slowest connect {figures['slowest_connect'] * 1000:.0f} ms", figures["long"] == LONG)
    claim(f"memory: {memory / 2**20:.1f} MiB before, {memory_after / 2**20:.1f} MiB after, at most "
          f"{peak / 2**20:.1f} MiB", memory_after - memory < MEMORY_MAX)
    shares = {name: last[name]["sessions"] - first[name]["sessions"] for name in "abcd"}
    mean = sum(shares.values()) / 4
    uneven = max(abs(share - mean) for share in shares.values()) / mean
    claim(f"shares: {shares}, at most {uneven:.2%} from the mean", uneven < UNEVEN_MAX)
    tries = last["dead"]["sessions"] - dead["sessions"], (
        sum(value for value in connects(last["dead"])) - sum(value for value in connects(dead))
    )
    claim(f"the backend that is down had {tries[0]} sessions and {tries[1]} attempts", tries == (0, 0))
    for listener in after["listeners"]:
        closed = listener["closed"]
        total = sum(closed.values() if isinstance(closed, dict) else closed)
        denied = listener["denied"]
        denied = sum(denied.values() if isinstance(denied, dict) else denied)
        claim(f"listener {listener['name']}: {listener['accepted']} accepted = {denied} denied + {total} closed + "
              f"{listener['active']} active", listener["accepted"] == denied + total + listener["active"])


def connects(backend):
    failures = backend["connect_failures"]
    return failures.values() if isinstance(failures, dict) else failures


def with_idle_sessions(ringway):
    """A thousand reloads with few sessions, and claims that nothing is left of them."""
    idle = [socket.create_connection(("127.0.0.1", ringway.ports[0]), timeout=10) for _ in range(IDLE)]
    for client in idle:
        client.sendall(MESSAGE)
        client.recv(100)
    wait_for("all others have ended", lambda: ringway.status()["listeners"][0]["active"] == IDLE)
    for number in range(60):
        ringway.reload(number)
    ringway.reload(0)
    settle(ringway)
    first = ringway.descriptors(), ringway.threads()
    memory, begin = ringway.memory(), time.monotonic()
    for number in range(1, IDLE_RELOADS):
        ringway.reload(number)
    ringway.reload(0)
    took = time.monotonic() - begin
    settle(ringway)
    last, memory_after = (ringway.descriptors(), ringway.threads()), ringway.memory()
    for client in idle:
        client.sendall(MESSAGE)
    still = sum(client.recv(100) == MESSAGE for client in idle)
    claim(f"{IDLE_RELOADS} reloads with {IDLE} idle sessions in {took:.1f} s", True)
    claim(f"{still} of them still echo", still == IDLE)
    claim(f"descriptors: {first[0]} before, {last[0]} after", first[0] == last[0])
    claim(f"threads: {first[1]} before, {last[1]} after", last[1] <= first[1])
    claim(f"memory: {memory / 2**20:.1f} MiB before, {memory_after / 2**20:.1f} MiB after",
          memory_after - memory < MEMORY_MAX)
    names = [one["name"] for one in ringway.status()["listeners"]]
    claim(f"listeners that are left: {names}", names == ["main"])
    backends = sorted(ringway.backends())
    claim(f"backends that are left: {backends}", backends == ["a", "b", "c", "d", "dead"])


def settle(ringway):
    """Waits until nothing opens or closes any more."""
    looks = []
    while len(looks) < 20 or len(set(looks[-20:])) > 1:
        looks.append(ringway.descriptors())
        time.sleep(0.05)
        if len(looks) > 600:
            sys.exit(f"descriptors do not settle: {looks[-20:]}")


def run(binary, folder, seconds):
    ringway = Ringway(folder)
    own = [sys.executable, __file__]
    ports = [str(port) for port in ringway.ports[1:6]]
    children = [subprocess.Popen([*own, "echo", *ports])]
    try:
        wait_for("the backends", lambda: socket.create_connection(("127.0.0.1", ringway.ports[5])).close() is None)
        ringway.start(binary, folder)
        children.append(ringway.process)
        load = subprocess.Popen([*own, "load", str(ringway.ports[0]), str(RATE), str(LONG)],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        children.append(load)
        under_load(ringway, load, seconds)
        with_idle_sessions(ringway)
        ringway.process.send_signal(signal.SIGTERM)
        claim(f"it ends with {ringway.process.wait(timeout=45)}", ringway.process.returncode == 0)
        with open(os.path.join(folder, "log")) as log:
            lines = log.read().splitlines()
        bad = [line for line in lines if "panic" in line or "ERROR" in line]
        claim(f"{len(lines)} lines of log at level warn, {len(bad)} of errors and panics {bad[:3]}", not bad)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
    sys.exit(1 if failed else 0)


def main():
    match sys.argv[1:]:
        case ["echo", *ports]:
            echo([int(port) for port in ports])
        case ["load", port, rate, long]:
            Load(int(port), int(rate), int(long)).run()
        case ["run", binary, folder, seconds]:
            run(binary, folder, float(seconds))
        case _:
            sys.exit(__doc__)


main()
