#!/usr/bin/env python3
"""Traffic for scripts that need some.

Usage: traffic.py echo PORT          a backend that sends back what comes
       traffic.py clients PORT...    sessions to these ports of 127.0.0.1, one after the other on each; some stay open
Both run until they are ended.
"""

import contextlib
import random
import socket
import sys
import threading
import time

OPEN_MAX = 12


def echo(connection):
    with contextlib.suppress(OSError), connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def visit(port):
    kept = []
    while True:
        with contextlib.suppress(OSError):
            client = socket.create_connection(("127.0.0.1", port), timeout=5)
            client.sendall(bytes(random.randrange(100, 20000)))
            client.recv(65536)
            kept.append(client)
        if len(kept) > OPEN_MAX:
            kept.pop(random.randrange(OPEN_MAX)).close()
        time.sleep(random.uniform(0.002, 0.03))


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("echo", "clients"):
        sys.exit(__doc__)
    ports = [int(port) for port in sys.argv[2:]]
    if sys.argv[1] == "echo":
        serve(socket.create_server(("127.0.0.1", ports[0]), backlog=256))
    for port in ports[1:]:
        threading.Thread(target=visit, args=(port,), daemon=True).start()
    visit(ports[0])


main()
