#!/usr/bin/env python3
"""Short HTTP sessions against one port, without a pause, one line on stdout for each:

    START ANSWER      START = seconds of the monotonic clock, ANSWER = the body, one word
    START !REASON     the client saw an error

Usage: short-sessions.py PORT SESSIONS_AT_A_TIME     ends on SIGTERM, status 0.
Needs: Python 3 alone.
"""

import socket
import sys
import threading
import time

PORT, CLIENTS = int(sys.argv[1]), int(sys.argv[2])
REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def session():
    """One connection, one request, the whole answer; the body's word or the error's."""
    try:
        with socket.create_connection(("127.0.0.1", PORT), timeout=5) as s:
            s.sendall(REQUEST)
            answer = b""
            while chunk := s.recv(4096):
                answer += chunk
    except OSError as error:
        return "!" + type(error).__name__
    head, _, body = answer.partition(b"\r\n\r\n")
    return body.decode().strip() if b" 200 " in head else "!incomplete"


def client():
    while True:
        start = time.monotonic()
        answer = session()
        sys.stdout.write(f"{start:.6f} {answer}\n")
        # A steady rate says as much about the verdict as a flood, and leaves the ports alone.
        time.sleep(0.005)


sys.stdout.reconfigure(line_buffering=True)
for _ in range(CLIENTS):
    threading.Thread(target=client, daemon=True).start()
while True:
    time.sleep(3600)
