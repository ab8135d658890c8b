#!/usr/bin/env bash
# Makes the Debian package, twice, to see that it comes out the same; then installs, starts and purges it in a fresh
# Debian that knows nothing of Ringway.
#
# Usage: scripts/package.sh [--only-build]
#
# dpkg-deb makes the package, and not cargo-deb: that would be built first, for minutes, and its list of files in Cargo.toml
# would know nothing of manual pages and completions, which only the binary can print. dpkg-shlibdeps finds what it depends on.
#
# The fresh Debian is a folder that debootstrap fills once (target/package/root.tar), with a network of its own. Ringway
# serves in it twice: started by hand, and by systemd from the unit, with the whole sandbox, under systemd-nspawn.
#
# Needs: Debian, root, its archive. Two minutes at first, then 30 s.
# The binary is $RINGWAY, default target/release/ringway, built when it is not there.
# Exit status: 0 all claims hold; the package is target/package/ringway_VERSION_ARCHITECTURE.deb. 1 one does not hold.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

OUT=${CARGO_TARGET_DIR:-target}/package
WORK=$(mktemp -d)
ROOT=$WORK/root
trap 'rm -rf "$WORK"' EXIT

# Reproducible: every date in the package is that of the commit.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

# put MODE FILE PATH: a file of the package.
put() {
    install -D -m "$1" "$2" "$TREE$3"
}

# put_packed TEXT-FILE PATH
put_packed() {
    gzip -9n <"$1" >"$WORK/packed"
    put 644 "$WORK/packed" "$2"
}

put_program() {
    put 755 "$RINGWAY" /usr/bin/ringway
    put 644 configs/systemd/ringway.service /lib/systemd/system/ringway.service
    put 644 configs/systemd/ringway.socket /lib/systemd/system/ringway.socket
    put 644 configs/config.yaml /etc/ringway/config.yaml
    put 644 configs/sysctl.conf /etc/sysctl.d/60-ringway.conf
}

put_documents() {
    local page
    mkdir -p "$WORK/man"
    "$RINGWAY" man --dir "$WORK/man"
    for page in "$WORK/man"/*.1; do put_packed "$page" "/usr/share/man/man1/${page##*/}.gz"; done
    "$RINGWAY" completions bash >"$WORK/bash"
    "$RINGWAY" completions zsh >"$WORK/zsh"
    "$RINGWAY" completions fish >"$WORK/fish"
    put 644 "$WORK/bash" /usr/share/bash-completion/completions/ringway
    put 644 "$WORK/zsh" /usr/share/zsh/vendor-completions/_ringway
    put 644 "$WORK/fish" /usr/share/fish/vendor_completions.d/ringway.fish
    put 644 configs/debian/copyright /usr/share/doc/ringway/copyright
    put_packed CHANGELOG.md /usr/share/doc/ringway/changelog.gz
    printf '%s\n' "ringway ($VERSION) stable; urgency=medium" '' '  * See changelog.gz.' '' \
        " -- $MAINTAINER  $(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")" >"$WORK/changelog"
    put_packed "$WORK/changelog" /usr/share/doc/ringway/changelog.Debian.gz
    put 644 configs/example.yaml /usr/share/doc/ringway/examples/example.yaml
    for page in configs/prometheus/* configs/grafana/*; do
        put 644 "$page" "/usr/share/doc/ringway/examples/${page#configs/}"
    done
}

put_control() {
    local depends script
    # dpkg-shlibdeps reads the name of the package from there.
    mkdir -p "$WORK/debian" "$TREE/DEBIAN"
    printf 'Source: ringway\n\nPackage: ringway\nArchitecture: any\n' >"$WORK/debian/control"
    depends=$(cd "$WORK" && dpkg-shlibdeps -O "$TREE/usr/bin/ringway" 2>/dev/null | sed 's/^shlibs:Depends=//')
    cat >"$TREE/DEBIAN/control" <<CONTROL
Package: ringway
Version: $VERSION
Architecture: $ARCHITECTURE
Maintainer: $MAINTAINER
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$TREE" | cut -f1)
Depends: $depends
Section: net
Priority: optional
Description: Layer-4 (TCP) load balancer on io_uring
 Ringway spreads TCP connections over backends: one pinned thread per core,
 health checks, exact limits, draining, and metrics. It needs Linux 6.1 or
 later with io_uring allowed.
CONTROL
    printf '/etc/ringway/config.yaml\n/etc/sysctl.d/60-ringway.conf\n' >"$TREE/DEBIAN/conffiles"
    for script in postinst prerm postrm; do put 755 "configs/debian/$script" "/DEBIAN/$script"; done
    (cd "$TREE" && find . -type f -not -path './DEBIAN/*' -printf '%P\n' | LC_ALL=C sort | xargs md5sum) >"$WORK/md5sums"
    put 644 "$WORK/md5sums" /DEBIAN/md5sums
}

# build FILE
build() {
    TREE=$WORK/tree
    rm -rf "$TREE"
    (umask 022 && put_program && put_documents && put_control)
    find "$TREE" -type d -exec chmod 755 {} +
    dpkg-deb --root-owner-group -Zxz --build "$TREE" "$1" >/dev/null
}

build_twice() {
    VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | sed -n 1p)-1
    ARCHITECTURE=$(dpkg --print-architecture)
    MAINTAINER='Ringway maintainers <maintainers@ringway.example>'
    PACKAGE=$OUT/ringway_${VERSION}_$ARCHITECTURE.deb
    mkdir -p "$OUT"
    build "$PACKAGE"
    build "$WORK/again.deb"
    cmp "$PACKAGE" "$WORK/again.deb" || die "the package comes out different each time"
    printf 'ok %s, %s KiB, twice the same\n' "$PACKAGE" $(($(stat -c %s "$PACKAGE") / 1024))
    lint
}

lint() {
    # The domain of the maintainer's address is none. Function names stay in the binary: backtraces and `perf` need them. What
    # looks like libyaml is its translation to Rust.
    local known=bogus-mail-host,initial-upload-closes-no-bugs,unstripped-binary-or-object,embedded-library
    lintian --allow-root --fail-on error,warning --suppress-tags "$known" "$PACKAGE" >&2 || die "lintian objects"
    printf 'ok lintian has no objection\n'
}

# Unpacks the fresh Debian, which is made where there is none.
fresh_root() {
    if [[ ! -e $OUT/root.tar ]]; then
        debootstrap --variant=minbase --include=systemd bookworm "$ROOT" >"$WORK/debootstrap.log" 2>&1 ||
            { tail "$WORK/debootstrap.log" >&2 && die "debootstrap failed"; }
        rm -rf "$ROOT"/var/cache/apt/archives/*.deb "$ROOT"/var/lib/apt/lists/*
        tar -C "$ROOT" -cf "$OUT/root.tar.new" .
        mv "$OUT/root.tar.new" "$OUT/root.tar"
    else
        mkdir "$ROOT"
        tar -C "$ROOT" -xf "$OUT/root.tar"
    fi
    : >"$ROOT/etc/machine-id"
    cp "$PACKAGE" "$ROOT/root/ringway.deb"
}

# in_root ARGUMENT...: systemd-nspawn in the fresh Debian, without a network and without a filter of its own, which would forbid
# io_uring.
in_root() {
    SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout 60 systemd-nspawn --quiet --register=no --keep-unit \
        --private-network --console=pipe --directory="$ROOT" "$@" </dev/null
}

# What runs inside: an echo through Ringway, which CONFIG starts (`hand` or `systemd`), and /healthz. There is neither Python
# nor curl in there.
write_probe() {
    cat >"$ROOT/root/probe" <<'PROBE'
set -eu
# http PATH
http() {
    exec 3<>/dev/tcp/127.0.0.1/9900
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
    cat <&3
}
# await WORDS COMMAND...
await() {
    local words=$1 tries=0
    shift
    until grep -q "$words" <<<"$("$@" 2>/dev/null)"; do
        ((tries += 1, tries < 200)) || { echo "waited in vain for $words"; exit 1; }
        sleep 0.05
    done
}
echo_once() {
    exec 4<>"/dev/tcp/127.0.0.1/$port"
    echo "there and back" >&4
    head -n 1 <&4
}
[ "$1" = hand ] && port=8080 || port=80
perl -MIO::Socket::INET -e '
    $listener = IO::Socket::INET->new(Listen => 9, LocalAddr => "127.0.0.1:8081", ReuseAddr => 1) or die;
    while ($c = $listener->accept) { $line = <$c>; print $c $line if defined $line; close $c }' &
if [ "$1" = hand ]; then
    ringway & started=$!
else
    # What the sandbox must allow: a port below 1024, and a group for the admin socket.
    sed -i 's/:8080/:80/' /etc/ringway/config.yaml
    echo 'admin: {socket_mode: "0660", socket_group: adm}' >>/etc/ringway/config.yaml
    mkdir -p /run/systemd/system/ringway.service.d
    printf '[Service]\nSupplementaryGroups=adm\n' >/run/systemd/system/ringway.service.d/group.conf
    systemctl daemon-reload
    systemctl start ringway
    [ "$(stat -c '%G %a' /run/ringway/admin.sock)" = 'adm 660' ] && echo "systemd: group of the socket"
    started=$(systemctl show -P MainPID ringway)
fi
await '^ok' http /healthz
echo "$1: healthz"
await 'there and back' echo_once
echo "$1: echo"
if [ "$1" = hand ]; then
    kill -TERM $started
    wait $started && echo "hand: ended with 0"
    exit
fi
grep -q '^NoNewPrivs:.1' /proc/$started/status
grep -q '^Seccomp:.2' /proc/$started/status
grep -q '^CapEff:.0000000000000400' /proc/$started/status
[ "$(stat -c %u /proc/$started)" != 0 ] && echo "systemd: sandbox"
systemctl -q enable ringway
dpkg --install --force-confold /root/ringway.deb
[ "$(systemctl show -P MainPID ringway)" = $started ] && echo "systemd: an upgrade leaves it running"
# replaced: the main process is another one, and serves.
replaced() {
    ringway ctl upgrade
    [ "$(systemctl show -P MainPID ringway)" != $started ]
    await 'there and back' echo_once
    await gone ended $started
    started=$(systemctl show -P MainPID ringway)
    [ "$(systemctl is-active ringway)" = active ]
    systemctl show -P StatusText ringway
}
ended() { [ -d /proc/$1 ] || echo gone; }
replaced && echo "systemd: an upgrade replaces it"
[ "$(stat -c '%G %a' /run/ringway/admin.sock)" = 'adm 660' ]
systemctl stop ringway
mkdir -p /run/systemd/system/ringway.socket.d
printf '[Socket]\nListenStream=\nListenStream=80\n' >/run/systemd/system/ringway.socket.d/port.conf
systemctl daemon-reload
systemctl start ringway.socket
[ "$(systemctl is-active ringway)" != active ]
# The client waits in the socket until Ringway runs.
[ "$(echo_once)" = 'there and back' ] && [ "$(systemctl is-active ringway)" = active ] && echo "systemd: its socket starts it"
started=$(systemctl show -P MainPID ringway)
replaced && echo "systemd: its socket outlives an upgrade"
dpkg --remove ringway
! [ -d /proc/$started ] && echo "systemd: removal stops it"
[ -e /etc/ringway/config.yaml ] && echo "systemd: configuration stays"
dpkg --purge ringway
PROBE
}

# shown NAME CLAIM...: the probe has shown all of these.
shown() {
    local name=$1 claim
    shift
    for claim in "$@"; do
        grep -qx "$name: $claim" "$WORK/$name.log" || { cat "$WORK/$name.log" >&2 && die "not shown: $name: $claim"; }
        printf 'ok %s: %s\n' "$name" "$claim"
    done
}

serves_by_hand() {
    in_root dpkg --install /root/ringway.deb >"$WORK/install.log" 2>&1 || { cat "$WORK/install.log" >&2 && die "dpkg fails"; }
    in_root bash /root/probe hand >"$WORK/hand.log" 2>&1 || true
    shown hand healthz echo 'ended with 0'
}

# Boots the fresh Debian; a unit of ours runs the probe and ends it.
serves_under_systemd() {
    local unit=$ROOT/etc/systemd/system/probe.service wants=$ROOT/etc/systemd/system/multi-user.target.wants
    cat >"$unit" <<'UNIT'
[Service]
Type=oneshot
StandardOutput=append:/root/probe.log
StandardError=append:/root/probe.log
ExecStart=bash /root/probe systemd
ExecStopPost=bash -c 'journalctl --no-pager --unit=ringway >/root/journal.log; systemctl poweroff'
UNIT
    mkdir -p "$wants"
    ln -s ../probe.service "$wants/probe.service"
    in_root --boot >"$WORK/boot.log" 2>&1 || true
    rm "$unit" "$wants/probe.service"
    cat "$ROOT/root/journal.log" "$ROOT/root/probe.log" >"$WORK/systemd.log" || { cat "$WORK/boot.log" >&2 && die "no boot"; }
    shown systemd 'group of the socket' healthz echo sandbox 'an upgrade leaves it running' 'an upgrade replaces it' \
        'its socket starts it' 'its socket outlives an upgrade' 'removal stops it' 'configuration stays'
}

leaves_nothing() {
    local left
    left=$(find "$ROOT" -xdev -name '*ringway*' -not -path "$ROOT/root/*" -not -path "$ROOT/var/log/journal/*")
    [[ -z $left ]] || die "a purge leaves: $left"
    printf 'ok a purge leaves nothing\n'
}

main() {
    need_packages dpkg-dev lintian
    need_ringway
    build_twice
    [[ ${1:-} != --only-build ]] || return 0
    need_packages debootstrap systemd-container
    fresh_root
    write_probe
    serves_by_hand
    serves_under_systemd
    leaves_nothing
}

main "$@"
