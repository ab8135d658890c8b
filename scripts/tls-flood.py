#!/usr/bin/env python3
"""Handshakes in a crowd, and slow ones, beside plain sessions that are open: their p99 must not notice.

Usage: tls-flood.py CA NAME TLS_PORT PLAIN_PORT ECHO_PORT

The first two ports are listeners of one shard, the third is the echo behind both; the shard has a core to itself (SCHED_RR), and
this runs on another. First 1,000 clients send their ClientHello in one burst, round after round; then 1,000 clients send theirs a byte at a
time. Meanwhile 20 open plain sessions play ping-pong at 1,000 messages a second in all; a latency counts from when its message was
due, whether those before were answered or not, and only while handshakes go on: the ends of the crowd's sessions come later, one
by one. Prints a line for each attempt. The crowd runs where nobody else wants to (SCHED_IDLE), and the pings go before it
(SCHED_RR): what they wait for is then the balancer, and not a core. A machine that is shared holds up everybody at times, which
can only make the pings later; so one good attempt of three is enough.

Needs: Python 3.11 alone, root, 2,100 descriptors. Exit status: 0 p99 stayed below 5 ms, or below twice that of the echo itself where
the machine is slower than that, and every client was served; 1 not.
"""

import collections
import contextlib
import multiprocessing
import os
import resource
import select
import socket
import ssl
import sys
import time

CROWD = 1000
BURSTS = 3
SLOW_SECONDS = 5
END_SECONDS = 0.001
SESSIONS = 20
MESSAGE = 64
PINGS_A_SECOND = 1000
P99_MAX_MS = 5
PATIENCE = 30
ATTEMPTS = 3


class Client:
    """A TLS client without I/O of its own; its ClientHello is ready before it connects."""

    def __init__(self, context, name):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self.hello = self.outgoing.read()
        self.socket = None
        self.is_open, self.served = False, False

    def connect(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def go_on(self):
        """Takes what has come; sends `?` when the handshake is done, and is served when that is back."""
        data = self.socket.recv(65536)
        if not data:
            raise OSError("closed in the handshake")
        self.incoming.write(data)
        try:
            if not self.is_open:
                self.tls.do_handshake()
                self.is_open = True
                self.tls.write(b"?")
            self.served = self.tls.read(1) == b"?"
        except ssl.SSLWantReadError:
            pass
        finally:
            if self.outgoing.pending:
                self.socket.sendall(self.outgoing.read())


def finish(clients, counts):
    """Serves all clients whose hello is sent; returns how many were."""
    epoll, by_fd = select.epoll(), {}
    for client in clients:
        by_fd[client.socket.fileno()] = client
        epoll.register(client.socket, select.EPOLLIN)
    deadline = time.monotonic() + PATIENCE
    while by_fd and time.monotonic() < deadline:
        for fd, _ in epoll.poll(1):
            client = by_fd[fd]
            try:
                client.go_on()
                over = client.served
            except OSError as error:
                print(f"a client of the crowd: {error}", file=sys.stderr)
                over = True
            if over:
                epoll.unregister(fd)
                del by_fd[fd]
    epoll.close()
    counts.clear()
    # Their ends are no handshakes: they come one by one.
    for client in clients:
        client.socket.close()
        time.sleep(END_SECONDS)
    return sum(client.served for client in clients)


def crowd(context, name, port):
    clients = [Client(context, name) for _ in range(CROWD)]
    for client in clients:
        client.connect(port)
    return clients


def bursts(context, name, port, counts):
    served = 0
    for _ in range(BURSTS):
        clients = crowd(context, name, port)
        counts.set()
        for client in clients:
            client.socket.sendall(client.hello)
        served += finish(clients, counts)
    return served, BURSTS * CROWD


def slow_ones(context, name, port, counts):
    clients, sent = crowd(context, name, port), 0
    counts.set()
    until = time.monotonic() + SLOW_SECONDS
    while time.monotonic() < until:
        for client in clients:
            client.socket.sendall(client.hello[sent : sent + 1])
        sent += 1
    for client in clients:
        client.socket.sendall(client.hello[sent:])
    return finish(clients, counts), CROWD


def run_crowd(work, ca, name, port, counts, pipe):
    # It takes what nobody else wants, and yields at once.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    context = ssl.create_default_context(cafile=ca)
    pipe.send(work(context, name, port, counts))


def open_sessions(port):
    sessions = []
    for _ in range(SESSIONS):
        session = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        session.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sessions.append(session)
    return sessions


def ping(sessions, is_over, counts):
    """Sends a message each millisecond, on the sessions in turn, until it is over, whether those before are answered or not;
    returns the latencies in ms of those that count, each from when its message was due."""
    # Pings and crowd have one core: the pings go first.
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    open_ones = {session: (bytearray(), collections.deque()) for session in sessions}
    latencies, number, start = [], 0, time.monotonic()
    # What was asked has to be answered: who plays on these sessions next knows nothing of it.
    while not (over := is_over()) or any(awaited for _, awaited in open_ones.values()):
        due = start + number / PINGS_A_SECOND
        if over:
            if time.monotonic() > due + PATIENCE:
                raise OSError("a plain session does not answer")
            wait = 1
        elif (wait := due - time.monotonic()) <= 0:
            session, message = sessions[number % SESSIONS], b"%064d" % number
            session.sendall(message)
            open_ones[session][1].append((message, due, counts()))
            number += 1
            wait = 0
        # Unlike epoll of Python, it waits for less than a millisecond, too.
        for session in select.select(sessions, (), (), wait)[0]:
            answers, awaited = open_ones[session]
            data = session.recv(65536)
            if not data:
                raise OSError("a plain session was closed")
            answers += data
            while len(answers) >= MESSAGE:
                message, due, does_count = awaited.popleft()
                if answers[:MESSAGE] != message:
                    raise OSError("a plain session echoes other bytes")
                del answers[:MESSAGE]
                if does_count:
                    latencies.append((time.monotonic() - due) * 1000)
    return latencies


def ping_directly(port, is_over, counts, pipe):
    pipe.send(p99(ping(open_sessions(port), is_over.is_set, counts.is_set)))


def p99(latencies):
    return sorted(latencies)[len(latencies) * 99 // 100]


def claim(what, work, ca, name, tls_port, plain_port, echo_port):
    sessions = open_sessions(plain_port)
    calm_until = time.monotonic() + 1
    calm = p99(ping(sessions, lambda: time.monotonic() > calm_until, lambda: True))
    ours, theirs = multiprocessing.Pipe()
    direct, sent = multiprocessing.Pipe()
    is_over, counts = multiprocessing.Event(), multiprocessing.Event()
    control = multiprocessing.Process(target=ping_directly, args=(echo_port, is_over, counts, sent), daemon=True)
    process = multiprocessing.Process(target=run_crowd, args=(work, ca, name, tls_port, counts, theirs), daemon=True)
    control.start()
    process.start()
    latencies = ping(sessions, lambda: ours.poll() or not process.is_alive(), counts.is_set)
    is_over.set()
    process.join()
    floor = direct.recv() if direct.poll(PATIENCE) else float("inf")
    control.join()
    served, wanted = ours.recv() if ours.poll() else (0, CROWD)
    found = p99(latencies)
    print(
        f"{what}: {served} of {wanted} served; plain echo beside them: p99 {found:.2f} ms of {len(latencies)}, "
        f"at most {max(latencies):.1f} ms; {calm:.2f} ms without them, {floor:.2f} ms at the echo itself"
    )
    # Where the machine alone holds up an echo for longer than that, only what the balancer adds can be told.
    return served == wanted and found < max(P99_MAX_MS, 2 * floor)


def holds(*arguments):
    return any(claim(*arguments) for _ in range(ATTEMPTS))


def main():
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    where = *sys.argv[1:3], *map(int, sys.argv[3:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    fast = holds(f"{CROWD} handshakes at once", bursts, *where)
    slow = holds(f"{CROWD} slow handshakes", slow_ones, *where)
    sys.exit(0 if fast and slow else f"not all were served, or p99 is not below {P99_MAX_MS} ms")


main()
