#!/usr/bin/env python3
"""Clients and servers of TLS that do what openssl and curl do not: they leave without saying so, or stay for long.

Usage: tls.py cut CERTIFICATE KEY PORT      a TLS server that answers and ends without close_notify
       tls.py count PORT                    a plain server that reads to the end and prints a line: `end BYTES` or `reset BYTES`
       tls.py leave CA NAME PORT            a TLS client that says hello and ends its side without close_notify
       tls.py hold CA NAME PORT             a TLS client that echoes until its stdin ends, and prints how often it did
       tls.py end PORT                      a plain client: prints `reset`, `end` or `silence`, how the other side ended
       tls.py odd KIND PORT                 a client that speaks no TLS: garbage, http or nothing; prints `alert`, `reset` or `end`

Needs: Python 3.11 alone.
"""

import select
import socket
import ssl
import sys

PATIENCE = 20


def listen(port):
    return socket.create_server(("127.0.0.1", int(port)), backlog=64)


def connect(port):
    return socket.create_connection(("127.0.0.1", int(port)), timeout=PATIENCE)


def client(ca, name, port):
    context = ssl.create_default_context(cafile=ca)
    return context.wrap_socket(connect(port), server_hostname=name, suppress_ragged_eofs=False)


def cut(certificate, key, port):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = listen(port)
    while True:
        plain = listener.accept()[0]
        try:
            plain.settimeout(PATIENCE)
            secure = context.wrap_socket(plain, server_side=True)
            # What is left unread would turn the end into a reset.
            secure.recv(65536)
            secure.sendall(b"half of the ans")
            # The end of the connection, and none of TLS.
            socket.socket.shutdown(secure, socket.SHUT_WR)
            secure.close()
        except OSError as error:
            print(f"a client left: {error}", flush=True)


def count(port):
    listener = listen(port)
    while True:
        stream, received, how = listener.accept()[0], 0, "end"
        stream.settimeout(PATIENCE)
        try:
            while data := stream.recv(65536):
                received += len(data)
        except OSError:
            how = "reset"
        print(how, received, flush=True)
        stream.close()


def leave(ca, name, port):
    secure = client(ca, name, port)
    secure.sendall(b"hello")
    socket.socket.shutdown(secure, socket.SHUT_WR)
    # Until the other side has seen it.
    plain = socket.socket(fileno=secure.detach())
    try:
        while plain.recv(65536):
            pass
    except OSError:
        pass


def hold(ca, name, port):
    secure, rounds = client(ca, name, port), 0
    secure.sendall(b"ready")
    assert secure.recv(5) == b"ready", "no echo"
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        text = b"%08d" % rounds
        secure.sendall(text)
        answer = b""
        while len(answer) < len(text):
            more = secure.recv(len(text) - len(answer))
            assert more, "the session ended"
            answer += more
        assert answer == text, "other bytes"
        rounds += 1
    print(rounds, flush=True)


def how_it_ends(stream):
    """Returns what came, and how the other side ended."""
    got = b""
    try:
        while data := stream.recv(65536):
            got += data
    except ConnectionError:
        return got, "reset"
    except TimeoutError:
        return got, "silence"
    return got, "end"


def end(port):
    stream = connect(port)
    try:
        stream.sendall(b"?")
    except ConnectionError:
        print("reset")
        return
    print(how_it_ends(stream)[1])


def odd(kind, port):
    said = {"garbage": bytes(range(255, 0, -1)), "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "nothing": b""}[kind]
    stream = connect(port)
    stream.sendall(said)
    got, how = how_it_ends(stream)
    # The type of a record that is an alert.
    print("alert" if got[:1] == b"\x15" else how)


if len(sys.argv) < 3 or sys.argv[1] not in ("cut", "count", "leave", "hold", "end", "odd"):
    sys.exit(__doc__)
globals()[sys.argv[1]](*sys.argv[2:])
