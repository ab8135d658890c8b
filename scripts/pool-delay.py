#!/usr/bin/env python3
"""What a pool saves a client whose backend is far away: the time from connect to the first answer, with and without.

Two network namespaces, one with Ringway and the client, the other with the backend. Between them this
process, a router on two TUN devices that holds each packet back for half of the delay (the kernel needs no netem).

Usage: pool-delay.py [MILLISECONDS [SESSIONS]]    round trip, default 5; sessions of each round, default 200
Needs: root, iproute2, Python 3; the binary is $RINGWAY, default target/release/ringway.
Prints medians and 99th percentiles of 5 rounds, in turn. Nothing is left behind.
Exit status: 0 the pool saves at least half a round trip, 1 it does not, or something failed.
"""

import fcntl
import heapq
import os
import selectors
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

DELAY = float(sys.argv[1]) / 1000 if len(sys.argv) > 1 else 0.005
SESSIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 200
ROUNDS = 5
RINGWAY = os.path.realpath(os.environ.get("RINGWAY", "target/release/ringway"))
NEAR, FAR = f"ringway-near-{os.getpid()}", f"ringway-far-{os.getpid()}"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

BACKEND = """
import socket
listener = socket.create_server(("10.99.0.2", 7000), backlog=1024)
import threading
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(4096):
        connection.sendall(data)
    connection.close()
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"""

CLIENT = """
import socket, sys, time
for _ in range(int(sys.argv[2])):
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        connection.sendall(b"ping")
        answer = connection.recv(4)
        took = time.perf_counter() - begin
        assert answer == b"ping"
    print(took * 1000)
    # The pool is filled again meanwhile.
    time.sleep(0.005)
"""


def run(*command):
    subprocess.run(command, check=True)


def tun(name, namespace, address):
    """A TUN device in a namespace; its packets are read and written here."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    run("ip", "link", "set", name, "netns", namespace)
    for command in (["link", "set", "lo", "up"], ["addr", "add", address, "dev", name], ["link", "set", name, "up"]):
        run("ip", "-n", namespace, *command)
    return device


def route(devices, stop):
    """Passes packets from each device to the other, each after half of the delay."""
    other = {devices[0]: devices[1], devices[1]: devices[0]}
    selector, held, count = selectors.DefaultSelector(), [], 0
    for device in devices:
        selector.register(device, selectors.EVENT_READ)
    while not stop.is_set():
        now = time.monotonic()
        while held and held[0][0] <= now:
            _, _, device, packet = heapq.heappop(held)
            os.write(device, packet)
        pause = min(held[0][0] - time.monotonic(), 0.1) if held else 0.1
        for key, _ in selector.select(max(pause, 0)):
            count += 1
            heapq.heappush(held, (time.monotonic() + DELAY / 2, count, other[key.fd], os.read(key.fd, 65536)))


def inside(namespace, *command, **options):
    return subprocess.Popen(["ip", "netns", "exec", namespace, *command], **options)


def configuration(port, pool):
    return (
        f"runtime: {{cores: 1}}\nlogging: {{level: warn}}\n"
        f"admin: {{listen_address: off, socket: off}}\n"
        f"loadbalancer: {{listen_address: '127.0.0.1:{port}'}}\n"
        f"backends: [{{address: 10.99.0.2, port: 7000}}]\nhealthcheck: off\npool: {{size: {pool}}}\n"
    )


def measure():
    python = sys.executable
    processes, times = [inside(FAR, python, "-c", BACKEND)], {0: [], 8: []}
    time.sleep(0.5)
    with tempfile.TemporaryDirectory() as directory:
        for pool in times:
            path = os.path.join(directory, f"{pool}.yaml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(configuration(8000 + pool, pool))
            processes.append(inside(NEAR, RINGWAY, "-f", path))
        time.sleep(1)
        try:
            for _ in range(ROUNDS):
                for pool, found in times.items():
                    client = inside(
                        NEAR, python, "-c", CLIENT, str(8000 + pool), str(SESSIONS), stdout=subprocess.PIPE, text=True
                    )
                    output, _ = client.communicate(timeout=120)
                    if client.returncode:
                        sys.exit("a session failed")
                    found.append([float(line) for line in output.split()])
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait()
    medians = {}
    for pool, found in times.items():
        median = medians[pool] = statistics.median(statistics.median(times) for times in found)
        tail = statistics.median(sorted(times)[len(times) * 99 // 100] for times in found)
        name = f"pool of {pool}" if pool else "without a pool"
        print(f"{name:15}  median {median:6.2f} ms  99th percentile {tail:6.2f} ms")
    if medians[0] - medians[8] < DELAY * 1000 / 2:
        sys.exit("the pool saves no connect")


def main():
    stop = threading.Event()
    try:
        for namespace in (NEAR, FAR):
            run("ip", "netns", "add", namespace)
        devices = [tun("rw-near", NEAR, "10.99.0.1/24"), tun("rw-far", FAR, "10.99.0.2/24")]
        router = threading.Thread(target=route, args=(devices, stop))
        router.start()
        measure()
    finally:
        stop.set()
        for namespace in (NEAR, FAR):
            subprocess.run(["ip", "netns", "del", namespace], check=False)


main()
