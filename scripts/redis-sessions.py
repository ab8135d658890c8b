#!/usr/bin/env python3
"""Short Redis sessions against one port, every answer checked. Each session finds nothing of the one before it: no
name, its own database, no transaction begun. Prints how many there were.

Usage: redis-sessions.py PORT SESSIONS CLIENTS_AT_A_TIME     status 1 and a line on stderr at the first wrong answer.
Needs: Python 3 alone.
"""

import socket
import sys
import threading

PORT, SESSIONS, CLIENTS = (int(argument) for argument in sys.argv[1:4])


def ask(connection, command, expected):
    """Sends a command and checks the whole answer."""
    connection.sendall(command.encode() + b"\r\n")
    wanted, answer = expected.encode(), b""
    while len(answer) < len(wanted):
        chunk = connection.recv(4096)
        if not chunk:
            break
        answer += chunk
    if answer != wanted:
        raise ValueError(f"{command}: {answer!r} instead of {wanted!r}")


def session(number):
    value = f"value-{number}"
    with socket.create_connection(("127.0.0.1", PORT), timeout=10) as connection:
        ask(connection, "CLIENT GETNAME", "$-1\r\n")
        # Database 0 has no such key; the session before has left it in database 3.
        ask(connection, f"GET mine-{number - 1}", "$-1\r\n")
        ask(connection, f"CLIENT SETNAME name-{number}", "+OK\r\n")
        ask(connection, "SELECT 3", "+OK\r\n")
        ask(connection, f"SET mine-{number} {value}", "+OK\r\n")
        ask(connection, f"GET mine-{number}", f"${len(value)}\r\n{value}\r\n")
        if number % 3 == 0:
            ask(connection, "MULTI", "+OK\r\n")
            ask(connection, "SET never x", "+QUEUED\r\n")


def client(first):
    for number in range(first, SESSIONS, CLIENTS):
        try:
            session(number)
        except (OSError, ValueError) as error:
            failures.append(f"session {number}: {error}")
        if failures:
            return


failures = []
threads = [threading.Thread(target=client, args=(first,)) for first in range(CLIENTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if failures:
    sys.exit(failures[0])
print(f"{SESSIONS} sessions")
