#!/usr/bin/env python3
"""What MariaDB thinks of Ringway's checks: it blocks an address after `max_connect_errors` connections that end before their
login. A standby that allows ten of them gets 10,000 checks of `type: mysql`, and then a login. So do three more:

    unnamed   10,000 checks without a `user`, which the server denies each time
    named     10,000 checks of a `user` that exists
    switched  checks of a `user` who has a password, by another plugin than the server greets with: they are denied
    tcp       checks of `type: tcp`, until the address is blocked: the trap is set

Usage: scripts/mariadb-checks.py [CHECKS]    default 10,000; about 30 s

Needs: Debian, root, mariadb-server, iproute2, unshare. The binary is $RINGWAY, default target/release/ringway.
Exit status: 0 all is as it should be, 1 not.
"""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

RINGWAY = os.environ.get("RINGWAY", "target/release/ringway")
CHECKS = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
ALLOWED = 10
NEAR, FAR, PORT = "10.9.0.1", "10.9.0.2", 3306
# Upstreams that check the same server, each every 10 ms.
UPSTREAMS = 16
SECONDS = 120

# The server does not count loopback, so it has a network of its own; mounts and networks end with this process.
if "INSIDE" not in os.environ:
    os.execvpe("unshare", ["unshare", "--mount", "--net", sys.executable, *sys.argv], {**os.environ, "INSIDE": "1"})


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def write(name, text):
    with open(os.path.join(HERE, name), "w") as file:
        file.write(text)
    return file.name


def networks():
    # The server counts only addresses that have a name.
    hosts = write("hosts", f"127.0.0.1 localhost {socket.gethostname()}\n{NEAR} near.test\n{FAR} far.test\n")
    for line in (
        "mount -t tmpfs none /run",
        f"mount --bind {hosts} /etc/hosts",
        "ip link set lo up",
        "ip netns add far",
        "ip link add near type veth peer name far netns far",
        f"ip addr add {NEAR}/24 dev near",
        "ip link set near up",
        f"ip -n far addr add {FAR}/24 dev far",
        "ip -n far link set far up",
    ):
        run(*line.split())


def start_server():
    run("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={HERE}/data", "--skip-test-db",
        "--auth-root-authentication-method=normal")
    users = write("users.sql", "CREATE USER app@'%';\nCREATE USER ringway_check@'%';\nINSTALL SONAME 'auth_ed25519';\n"
                  "CREATE USER switched@'%' IDENTIFIED VIA ed25519 USING PASSWORD('secret');\n")
    log = open(os.path.join(HERE, "log"), "w")
    server = subprocess.Popen(
        ["ip", "netns", "exec", "far", "setpriv", "--pdeathsig", "KILL", "/usr/sbin/mariadbd", "--no-defaults", "--user=mysql",
         f"--datadir={HERE}/data", f"--bind-address={FAR}", f"--port={PORT}", f"--socket={HERE}/data/socket",
         f"--pid-file={HERE}/data/pid", f"--max-connect-errors={ALLOWED}", f"--init-file={users}", "--performance-schema=on"],
        stdout=log, stderr=log)
    wait_for("MariaDB", lambda: sql("SELECT 1") == "1" or server.poll() is not None)
    if server.poll() is not None:
        sys.exit(f"MariaDB does not start:\n{open(log.name).read()}")
    return server


def sql(query):
    command = ["mariadb", "--no-defaults", f"--socket={HERE}/data/socket", "-uroot", "-N", "-B", "-e", query]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout.strip()


def status(name):
    return int(sql(f"SHOW GLOBAL STATUS LIKE '{name}'").split("\t")[1])


def wait_for(what, is_there):
    end = time.monotonic() + SECONDS
    while not is_there():
        if time.monotonic() > end:
            sys.exit(f"waited {SECONDS} s in vain for {what}")
        time.sleep(0.05)


def login():
    """What the server says to a client from this address."""
    command = ["mariadb", "--no-defaults", f"--host={FAR}", f"--port={PORT}", "-uapp", "-N", "-B", "-e", "SELECT 'welcome'"]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout.strip()


def resets():
    """How many connections a process of this network has ended with a reset, having left bytes unread, or having got some after
    its close. Not all resets: a FIN that the server sends again, because this machine was late to acknowledge it, is answered by one if the
    connection is over meanwhile, and the server notices nothing of that."""
    with open("/proc/net/netstat") as file:
        names, values = [line.split() for line in file if line.startswith("TcpExt:")]
    return sum(int(values[names.index(name)]) for name in ("TCPAbortOnClose", "TCPAbortOnData"))


def log_lines():
    with open(os.path.join(HERE, "log")) as log:
        return sum("[Warning]" in line for line in log)


def checked(name, check, is_enough):
    """Checks the server until that is enough. Returns the number of connections that it has seen, and what it says then."""
    # The hosts' errors are forgotten, the numbers begin at 0.
    sql("FLUSH HOSTS; FLUSH STATUS")
    before, lines, reset = status("Connections"), log_lines(), resets()
    upstreams = "".join(
        f"  - {{name: u{at}, backends: [{{address: {FAR}, port: {PORT}}}], healthcheck: {{{check}, interval: 10ms, timeout: 2s}}}}\n"
        for at in range(UPSTREAMS))
    listeners = "".join(f"  - {{name: l{at}, address: '127.0.0.1:{12_000 + at}', upstream: u{at}}}\n" for at in range(UPSTREAMS))
    file = write("ringway.yaml", f"runtime: {{cores: 1}}\nadmin: {{listen_address: off, socket: off}}\n"
                 f"listeners:\n{listeners}upstreams:\n{upstreams}")
    said = open(os.path.join(HERE, f"{name}.log"), "w")
    begin = time.monotonic()
    ringway = subprocess.Popen([RINGWAY, "-f", file], stdout=said, stderr=said)
    wait_for(f"the checks of {name}", lambda: is_enough(before) or ringway.poll() is not None)
    result = {
        "seconds": round(time.monotonic() - begin, 1),
        "connections": status("Connections") - before,
        # In this order: a login that is taken sets them back.
        "connect errors": int(sql("SELECT IFNULL(SUM(SUM_CONNECT_ERRORS), 0) FROM performance_schema.host_cache")),
        "login": login(),
        "Aborted_connects": status("Aborted_connects"),
        "Aborted_clients": status("Aborted_clients"),
        "warnings": log_lines() - lines,
        "resets": resets() - reset,
    }
    if ringway.poll() is not None:
        sys.exit(f"Ringway has ended:\n{open(said.name).read()}")
    # Not before: the server counts the checks that are under way, as it counts all that end before their login.
    ringway.kill()
    ringway.wait()
    with open(said.name) as said:
        result["down"] = [line.split("down: ", 1)[1].split(";")[0] for line in said if " is down: " in line][:1]
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    return result


def main():
    networks()
    server = start_server()
    many = lambda count: lambda before: status("Connections") - before >= count
    faults = []
    for name, check, count, is_denied in (
        ("unnamed", "type: mysql", CHECKS, True),
        ("named", "type: mysql, user: ringway_check", CHECKS, False),
        ("switched", "type: mysql, user: switched, fast_interval: 10ms", CHECKS // 10, True),
    ):
        found = checked(name, check, many(count))
        if found["login"] != "welcome" or found["connect errors"]:
            faults.append(name)
        if bool(found["down"]) != (name == "switched"):
            faults.append(f"verdict of {name}")
        # The server writes down each login that it denies, and counts it here.
        if not is_denied and (found["warnings"] or found["Aborted_connects"]) or found["Aborted_clients"] or found["resets"]:
            faults.append(f"traces of {name}")
    if "blocked" not in checked("tcp", "type: tcp", many(UPSTREAMS * ALLOWED))["login"]:
        faults.append("tcp")
    server.terminate()
    server.wait()
    print("FAIL " + ", ".join(faults) if faults else f"ok: a login after {CHECKS} checks")
    return bool(faults)


HERE = tempfile.mkdtemp()
os.chmod(HERE, 0o755)
RINGWAY = os.path.realpath(RINGWAY)
try:
    sys.exit(main())
finally:
    shutil.rmtree(HERE, ignore_errors=True)
