#!/usr/bin/env python3
"""Writes configs/ringway-seccomp.json: what a container with Ringway may ask of the kernel.

It is the default profile of container runtimes, as Debian's package golang-github-containers-common has it, resolved for
a process without capabilities on a 64-bit machine, and io_uring. As in Docker's default profile, what is not allowed fails with
EPERM, and clone3 with ENOSYS, so that the C library falls back to clone. Namespaces and mounts, which that package's profile
allows, are forbidden, as by Docker.

Usage: scripts/seccomp.py            write the file
       scripts/seccomp.py --check    exit with 1 if it would be another
       scripts/seccomp.py --without  print the profile without io_uring, which is the runtimes' default
"""

import json
import sys

SOURCE = "/usr/share/containers/seccomp.json"
TARGET = "configs/ringway-seccomp.json"
IO_URING = ["io_uring_enter", "io_uring_register", "io_uring_setup"]
MACHINES = {"amd64", "arm64"}
# Namespaces, mounts and keys: for CAP_SYS_ADMIN alone, or not at all. personality, socket and the clones have rules of their own.
FORBIDDEN = set(
    "add_key clone clone3 fsconfig fsmount fsopen fspick keyctl mount mount_setattr move_mount open_tree personality"
    " pivot_root request_key setns socket socketcall swapoff swapon umount umount2 unshare userfaultfd".split()
)
EPERM, ENOSYS = 1, 38
# CLONE_NEW..., linux/sched.h: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
# linux/socket.h: the kernel's ciphers, and the host of a virtual machine.
AF_ALG, AF_VSOCK = 38, 40


def allowed_names():
    """The calls that the runtimes' default allows whatever their arguments are."""
    with open(SOURCE, encoding="utf-8") as file:
        rules = json.load(file)["syscalls"]
    names = set()
    for rule in rules:
        includes = rule.get("includes") or {}
        if rule["action"] != "SCMP_ACT_ALLOW" or rule.get("args") or includes.get("caps"):
            continue
        if not includes.get("arches") or MACHINES & set(includes["arches"]):
            names |= set(rule["names"])
    return names - FORBIDDEN


def allow(names, *conditions):
    """A rule: these calls, if all conditions (argument, comparison, value[, second value]) hold."""
    rule = {"names": sorted(names), "action": "SCMP_ACT_ALLOW"}
    if conditions:
        rule["args"] = [
            {"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{comparison}"}
            for index, comparison, value, second in conditions
        ]
    return rule


def profile(extra):
    """The whole profile."""
    # Linux, and the same without randomised addresses or with old limits; the last asks only.
    personas = [0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            allow(allowed_names() - set(IO_URING) | set(extra)),
            *(allow(["personality"], (0, "EQ", persona, 0)) for persona in personas),
            allow(["socket"], (0, "LT", AF_ALG, 0)),
            allow(["socket"], (0, "GT", AF_VSOCK, 0)),
            allow(["clone"], (0, "MASKED_EQ", NAMESPACES, 0)),
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
        ],
    }


def main():
    if sys.argv[1:] == ["--without"]:
        print(json.dumps(profile([]), indent=2))
        return 0
    text = json.dumps(profile(IO_URING), indent=2) + "\n"
    if sys.argv[1:] == ["--check"]:
        with open(TARGET, encoding="utf-8") as file:
            return int(file.read() != text)
    with open(TARGET, "w", encoding="utf-8") as file:
        file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
