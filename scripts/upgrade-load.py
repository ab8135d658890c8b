#!/usr/bin/env python3
"""A backend that echoes, and clients of a balancer in front of it: short sessions at a steady rate whatever becomes of them, half
of them on a port and half on a Unix socket, and long ones that say something all the time.

Usage: upgrade-load.py BACKEND_PORT PORT SOCKET SESSIONS_A_SECOND LONG_SESSIONS

It says `ready` once a session has got through. On TERM it waits for what is open and prints one line, SESSIONS FAILED LONG_FAILED SLOWEST_MS, and before it a line for each kind
of failure. Needs: Python 3 alone.
"""

import asyncio
import collections
import signal
import sys
import time

BACKEND_PORT, PORT, RATE, LONG = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4]), int(sys.argv[5])
PATH = sys.argv[3]
TICK = 0.02
failures = collections.Counter()
over = asyncio.Event()
long_failed, slowest = 0, 0.0


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (OSError, asyncio.CancelledError):
        pass
    writer.close()


def connect(number):
    if number % 2:
        return asyncio.open_unix_connection(PATH)
    return asyncio.open_connection("127.0.0.1", PORT)


async def talk(reader, writer, text):
    writer.write(text)
    answer = await reader.readexactly(len(text))
    if answer != text:
        raise OSError("other bytes")


async def short(number):
    global slowest
    begin = time.monotonic()
    try:
        async with asyncio.timeout(20):
            reader, writer = await connect(number)
            await talk(reader, writer, b"hello")
            writer.write_eof()
            if await reader.read() != b"":
                raise OSError("more bytes")
            writer.close()
    except (OSError, EOFError, TimeoutError) as error:
        failures[f"{'unix' if number % 2 else 'tcp'} {type(error).__name__}: {error}"] += 1
    slowest = max(slowest, time.monotonic() - begin)


async def long(number):
    global long_failed
    try:
        reader, writer = await connect(number)
        while not over.is_set():
            await talk(reader, writer, b"still here")
            await asyncio.sleep(0.05)
        writer.close()
    except (OSError, EOFError) as error:
        failures[f"long {type(error).__name__}: {error}"] += 1
        long_failed += 1


async def served():
    """Waits until a session gets through."""
    while True:
        try:
            reader, writer = await connect(0)
            await talk(reader, writer, b"served?")
            writer.close()
            return
        except (OSError, EOFError):
            await asyncio.sleep(0.05)


async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    server = await asyncio.start_server(echo, "127.0.0.1", BACKEND_PORT, backlog=4096)
    await served()
    open_sessions = {asyncio.create_task(long(number)) for number in range(LONG)}
    print("ready", flush=True)
    begin, started = time.monotonic(), 0
    while not over.is_set():
        due = int((time.monotonic() - begin) * RATE)
        for number in range(started, due):
            task = asyncio.create_task(short(number))
            open_sessions.add(task)
            task.add_done_callback(open_sessions.discard)
        started = due
        await asyncio.sleep(TICK)
    await asyncio.gather(*open_sessions)
    for failure, count in failures.most_common():
        print(f"{count} {failure}")
    print(started, sum(failures.values()) - long_failed, long_failed, int(slowest * 1000), flush=True)
    server.close()


asyncio.run(main())
