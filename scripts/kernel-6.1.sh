#!/usr/bin/env bash
# Runs the runtime-assumption tests on Debian 12's own kernel 6.1, the oldest that Ringway supports.
#
# Usage: scripts/kernel-6.1.sh [--binary FILE] [TEST-ARGUMENT...]
#   --binary FILE     run this program instead of the crate's tests
#   TEST-ARGUMENT     for the test binary; default: the filter `runtime_assumptions`
#
# Downloads the kernel (never installed on the host), builds an initramfs that holds busybox, the test
# binary and its libraries, boots it under qemu, with KVM where that works, and shows what the tests print.
#
# Needs: Debian 12 on x86-64 and its archive, root for missing packages (qemu, busybox-static, cpio).
# TEST names the test target that holds them, if it is not found; TIMEOUT bounds the machine (seconds,
# default 240), ACCELERATOR=kvm|tcg forces one. The kernel is kept in target/kernel-6.1.
# Exit status: the tests' own; 124 when the machine did not end in time, 125 when it could not be started or
# ended without a status, or no test ran.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
source "$root/scripts/lib.sh"

TIMEOUT=${TIMEOUT:-240}
CACHE=${CARGO_TARGET_DIR:-$root/target}/kernel-6.1
# What the init prints in front of the status; nothing of a test's own looks like it.
STATUS_MARK='@@ringway-test-status'

parse_arguments() {
    BINARY=
    if [[ ${1:-} == --binary ]]; then
        [[ -n ${2:-} ]] || die "--binary needs a file"
        BINARY=$2
        shift 2
    fi
    ARGUMENTS=("$@")
}

# The test binary: the target `runtime_assumptions`, or the one integration binary with tests of that name.
build_tests() {
    local target=${TEST:-}
    cd "$root"
    if [[ -z $target ]]; then
        # tests/runtime_assumptions.rs, or tests/TARGET/runtime_assumptions.rs, or what declares such a module.
        target=$({ find tests -name 'runtime_assumptions*' && grep -lrs 'mod runtime_assumptions' tests; } |
            sed -E 's|^tests/([^/.]+).*|\1|' | sed -n 1p) || true
    fi
    [[ -n $target ]] || die "no test target holds runtime_assumptions"
    BINARY=$(cargo test --release --locked --no-run --test "$target" --message-format=json |
        python3 -c '
import json, sys
found = [m["executable"] for m in map(json.loads, sys.stdin) if m.get("profile", {}).get("test") and m.get("executable")]
print(found[-1] if found else "")')
    [[ $target == runtime_assumptions ]] || ((${#ARGUMENTS[@]})) || ARGUMENTS=(runtime_assumptions)
}

# Sets KERNEL to the image of the newest 6.1 kernel of the archive, downloaded once.
get_kernel() {
    local package
    if ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then apt-get -qq update; fi
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-6\.1\.[^ ]*\)/\1/p' | sed -n 1p)
    [[ -n $package ]] || die "the archive has no kernel 6.1 (this script needs Debian 12)"
    KERNEL=$CACHE/boot/vmlinuz-${package#linux-image-}
    [[ -e $KERNEL ]] && return 0
    mkdir -p "$CACHE"
    # As root apt downloads as the user _apt, who may not reach this directory.
    (cd "$CACHE" && apt-get -qq -o APT::Sandbox::User=root download "$package")
    # Only the image: the modules are not needed, everything used here is built in.
    dpkg-deb --fsys-tarfile "$CACHE/$package"_*.deb | tar -C "$CACHE" -x "./boot/vmlinuz-${package#linux-image-}"
    rm -f "$CACHE/$package"_*.deb
}

# Copies a program's dynamic libraries and loader to the same paths below $1.
copy_libraries() {
    local tree=$1 library
    ldd "$2" 2>/dev/null | grep -o '/[^ )]*' | sort -u | while read -r library; do
        install -D "$library" "$tree$library"
    done
}

# The quoted arguments of the test, for a shell.
quoted_arguments() {
    ((${#ARGUMENTS[@]})) || return 0
    printf '%q ' "${ARGUMENTS[@]}"
}

write_init() {
    cat <<INIT
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /bin /sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
ip link set lo up
ulimit -n 65536
export PATH=/bin HOME=/root TMPDIR=/tmp RUST_BACKTRACE=1
cd /tmp
echo "kernel \$(uname -r), \$(nproc) CPUs"
grep -q ringway.probe /proc/cmdline && poweroff -f
/test $(quoted_arguments)
echo "$STATUS_MARK \$?"
poweroff -f
INIT
}

build_initramfs() {
    local tree=$WORK/tree
    mkdir -p "$tree/bin"
    install "$(command -v busybox)" "$tree/bin/busybox"
    install "$BINARY" "$tree/test"
    copy_libraries "$tree" "$BINARY"
    # Line numbers of a panic come with the message; the rest of the debug information only costs memory.
    strip --strip-debug "$tree/test" 2>/dev/null || true
    write_init >"$tree/init"
    chmod 755 "$tree/init"
    (cd "$tree" && find . | cpio --quiet -o -H newc) >"$WORK/initramfs"
}

# boot SECONDS ACCELERATOR [PARAMETER]: boots with a parameter for the kernel's command line; the console goes
# to $WORK/console and, without the status, to stdout; leaves qemu's status in $WORK/qemu.
boot() {
    local accelerator=(-accel tcg -cpu max)
    # The capabilities MSR cannot be set where KVM is itself nested.
    if [[ $2 == kvm ]]; then accelerator=(-accel kvm -cpu 'max,arch-capabilities=off'); fi
    {
        local status=0
        timeout --foreground --kill-after=5 "$1" qemu-system-x86_64 -nodefaults -no-user-config -display none \
            -no-reboot "${accelerator[@]}" -smp 2 -m 2048 -serial stdio -monitor none -kernel "$KERNEL" \
            -initrd "$WORK/initramfs" -append "console=ttyS0 quiet panic=-1 ${3:-}" </dev/null || status=$?
        printf '%s\n' "$status" >"$WORK/qemu"
    } | sed -u 's/\r//g' | tee "$WORK/console" | sed -u "/^$STATUS_MARK/d"
}

# kvm if a machine comes up under it, which takes it a second, else tcg: KVM's device may be there and not work.
choose_accelerator() {
    if [[ -n ${ACCELERATOR:-} ]]; then
        echo "$ACCELERATOR"
    elif [[ -w /dev/kvm ]] && boot 5 kvm ringway.probe >"$WORK/probe" 2>&1 && grep -q '^kernel ' "$WORK/probe"; then
        echo kvm
    else
        echo tcg
    fi
}

main() {
    local status seen accelerator
    parse_arguments "$@"
    [[ $(uname -m) == x86_64 ]] || die "x86-64 only"
    need_packages qemu-system-x86 busybox-static cpio binutils python3
    [[ -n $BINARY ]] || build_tests
    [[ -x $BINARY ]] || die "no executable '$BINARY'"
    get_kernel
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
    build_initramfs
    accelerator=$(choose_accelerator)
    printf 'booting under %s\n' "$accelerator"
    boot "$TIMEOUT" "$accelerator"
    status=$(<"$WORK/qemu")
    seen=$(sed -n "s/^$STATUS_MARK \([0-9]*\)$/\1/p" "$WORK/console" | tail -n 1)
    if [[ $seen == 0 ]] && grep -q '^test result: ok\. 0 passed' "$WORK/console"; then
        printf 'no test ran\n' >&2
        exit 125
    fi
    if [[ -n $seen ]]; then
        printf 'status on kernel 6.1: %s\n' "$seen"
        exit "$seen"
    fi
    printf 'the machine ended without a status (qemu: %s)\n' "$status" >&2
    ((status == 124 || status == 137)) && exit 124
    exit 125
}

main "$@"
