"""Counts the instructions of scripts/instructions.sh, which starts it: instructions.py BINARY FOLDER PORT BACKEND_PORT.

Three processes of Ringway, each under callgrind, serve a number of messages and sessions. What the second and the third
execute beyond the first is that of their messages and sessions; what start and end take is in all of them.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time

RINGWAY, FOLDER = sys.argv[1:3]
PORT, BACKEND_PORT = (int(port) for port in sys.argv[3:])
# In instructions, a tenth above what was measured: docs/maintainers/PERFORMANCE.md.
BOUNDS = {"message": 8_300, "session": 31_500}

MESSAGE = bytes(range(64))
MESSAGES, SESSIONS = 5_000, 1_000
# Seconds. Ringway needs three to start under valgrind.
PATIENCE = 30

CONFIGURATION = """\
runtime: {{cores: "{core}-{core}"}}
logging: {{level: warn}}
admin: {{listen_address: off, socket: off}}
listeners:
  - {{name: echo, address: "127.0.0.1:{port}", upstream: echo}}
upstreams:
  - {{name: echo, healthcheck: off, backends: [{{address: 127.0.0.1, port: {backend}}}]}}
"""


def read(connection):
    """Reads one whole message."""
    received = b""
    while len(received) < len(MESSAGE) and (chunk := connection.recv(len(MESSAGE) - len(received))):
        received += chunk
    if received != MESSAGE:
        raise RuntimeError(f"{received!r} instead of the message")


def wait_for_end(connection):
    if rest := connection.recv(1):
        raise RuntimeError(f"{rest!r} after the last message")


class Peers:
    """Client and backend. They are one thread, so that nothing depends on which of them runs first."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", BACKEND_PORT))
        self.listener.settimeout(PATIENCE)

    @staticmethod
    def connect():
        """Returns a connection to Ringway, as soon as it listens."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE)
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def session(self, messages):
        """Connect, so many messages there and back, close: the client first."""
        client = self.connect()
        backend, _ = self.listener.accept()
        with client, backend:
            for side in (client, backend):
                side.settimeout(PATIENCE)
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(messages):
                client.sendall(MESSAGE)
                read(backend)
                backend.sendall(MESSAGE)
                read(client)
            client.shutdown(socket.SHUT_WR)
            wait_for_end(backend)
            backend.shutdown(socket.SHUT_WR)
            wait_for_end(client)


def count(name, peers, messages, sessions):
    """Returns how many instructions a process executes that serves one session with so many messages, then so many sessions."""
    base, configuration = os.path.join(FOLDER, name), os.path.join(FOLDER, "ringway.yaml")
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={base}.callgrind", RINGWAY, "-f", configuration]
    preloaded = {**os.environ, "LD_PRELOAD": os.path.join(FOLDER, "instructions.so")}
    with open(base + ".log", "w") as log:
        ringway = subprocess.Popen(command, env=preloaded, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        peers.session(messages)
        for _ in range(sessions):
            peers.session(1)
        ringway.send_signal(signal.SIGTERM)
        if (status := ringway.wait(PATIENCE)) != 0:
            raise RuntimeError(f"Ringway ended with status {status}")
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        with open(base + ".log") as log:
            sys.exit(f"instructions.py: {error!r}\n{log.read()}")
    finally:
        ringway.kill()
        ringway.wait()
    with open(base + ".callgrind") as file:
        return int(re.search(r"^totals: (\d+)$", file.read(), re.MULTILINE)[1])


def main():
    # All on one core: while one runs, the others wait, so that each run has the same turns.
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    with open(os.path.join(FOLDER, "ringway.yaml"), "w") as file:
        file.write(CONFIGURATION.format(core=core, port=PORT, backend=BACKEND_PORT))
    peers = Peers()
    base = count("base", peers, 1, 0)
    counted = {
        "message": (count("messages", peers, 1 + MESSAGES, 0) - base) / MESSAGES,
        "session": (count("sessions", peers, 1, SESSIONS) - base) / SESSIONS,
    }
    for what, instructions in counted.items():
        verdict = "ok" if instructions <= BOUNDS[what] else "FAILED"
        print(f"{verdict} a {what} of 64 B: {instructions:.0f} instructions in user space, bound {BOUNDS[what]}")
    return any(instructions > BOUNDS[what] for what, instructions in counted.items())


sys.exit(main())
