#!/usr/bin/env bash
# Makes the container image, twice, to see that it comes out the same; then runs it as PID 1, as a user without rights, on a
# root that is read-only, with the configuration and the probes of the Kubernetes manifest.
#
# Usage: scripts/image.sh [--only-build]
#
# No daemon: umoci makes the image of the lines of Containerfile, skopeo reads it, crun runs it. Its root is the binary with the
# libraries that it is linked with, taken from this machine.
#
# Needs: Debian, root, its archive. Under a minute.
# The binary is $RINGWAY, default target/release/ringway, built when it is not there.
# Exit status: 0 all claims hold; the image is target/image/oci, tag `latest`. 1 one does not hold.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

OUT=${CARGO_TARGET_DIR:-target}/image
MIB_MAX=40
MANIFEST=configs/kubernetes/ringway.yaml
WORK=$(mktemp -d)
CONTAINER=ringway-$$
finish() {
    container delete --force "$CONTAINER" 2>/dev/null || true
    stop_all
    rm -rf "$WORK"
}
trap finish EXIT

# Every date in the image is that of the commit.
EPOCH=$(git log -1 --format=%ct)
CREATED=$(date --utc --date="@$EPOCH" +%Y-%m-%dT%H:%M:%SZ)

# root_tar FILE: the root of the image as an archive in which nothing depends on when and where it is made.
root_tar() {
    local root=$WORK/root library
    rm -rf "$root"
    mkdir -p "$root"/{etc,run/ringway,tmp,var/log/ringway}
    install -D -m 755 "$RINGWAY" "$root/usr/bin/ringway"
    # The libraries and the loader, at the paths that the binary and the loader look for them.
    ldd "$RINGWAY" | grep -o '/[^ ]*' | while read -r library; do
        install -D -m 755 "$(realpath "$library")" "$root$library"
    done
    install -D -m 644 configs/config.yaml "$root/etc/ringway/config.yaml"
    install -D -m 644 LICENSE-MIT "$root/usr/share/doc/ringway/LICENSE-MIT"
    install -D -m 644 LICENSE-APACHE "$root/usr/share/doc/ringway/LICENSE-APACHE"
    printf 'root:x:0:0:root:/:/sbin/nologin\nringway:x:65532:65532:ringway:/:/sbin/nologin\n' >"$root/etc/passwd"
    printf 'root:x:0:\nringway:x:65532:\n' >"$root/etc/group"
    # Their own licences.
    for library in libc6 libgcc-s1; do
        install -D -m 644 "/usr/share/doc/$library/copyright" "$root/usr/share/doc/$library/copyright"
    done
    # Names as in /etc/hosts, then as the runtime's /etc/resolv.conf says.
    printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
    find "$root" -type d -exec chmod 755 {} +
    chmod 1777 "$root/tmp"
    find "$root" -type f ! -perm -100 -exec chmod 644 {} +
    # Its own folders last, as they belong to the user.
    (
        cd "$root"
        options=(--format=gnu --numeric-owner --mtime="@$EPOCH" --no-recursion --null --files-from=-)
        find . -mindepth 1 -print0 | grep -zvxE './(run|var/log)/ringway' | LC_ALL=C sort -z |
            tar "${options[@]}" --owner=0 --group=0 -cf "$WORK/root.tar"
        printf './run/ringway\0./var/log/ringway\0' |
            tar "${options[@]}" --owner=65532 --group=65532 -rf "$WORK/root.tar"
    )
    mv "$WORK/root.tar" "$1"
}

# said INSTRUCTION: what stands behind it in the Containerfile, one a line.
said() {
    sed -n "s/^$1 //p" Containerfile
}

# image FOLDER: the image of root.tar and of the Containerfile.
image() {
    local options=() line
    while read -r line; do options+=(--config.label "${line//\"/}"); done < <(said LABEL)
    while read -r line; do options+=(--config.entrypoint "$line"); done < <(said ENTRYPOINT | jq -r '.[]')
    while read -r line; do options+=(--config.cmd "$line"); done < <(said CMD | jq -r '.[]')
    rm -rf "$1"
    umoci init --layout "$1"
    umoci new --image "$1:latest"
    umoci raw add-layer --image "$1:latest" --history.created "$CREATED" --history.created_by scripts/image.sh "$OUT/root.tar"
    umoci config --image "$1:latest" --no-history --created "$CREATED" --os linux --architecture "$(dpkg --print-architecture)" \
        --config.user "$(said USER)" --config.exposedports "$(said EXPOSE)/tcp" \
        --config.stopsignal "$(said STOPSIGNAL)" "${options[@]}"
    umoci gc --layout "$1"
}

digest() {
    skopeo inspect --format '{{.Digest}}' "oci:$1:latest"
}

build_twice() {
    local first size
    mkdir -p "$OUT"
    root_tar "$OUT/root.tar"
    image "$OUT/oci"
    first=$(digest "$OUT/oci")
    # A second later, in another folder: neither may show.
    touch -d '@86400' "$WORK/root/etc/passwd"
    root_tar "$OUT/root.tar"
    image "$WORK/again"
    [[ $(digest "$WORK/again") == "$first" ]] || die "the image comes out different each time"
    printf 'ok the image is %s, twice\n' "$first"
    size=$(du -sm --apparent-size "$WORK/root" | cut -f1)
    ((size < MIB_MAX)) || die "the image has $size MiB, $MIB_MAX are too many"
    printf 'ok it has %s MiB, packed %s KiB\n' "$size" "$(du -sk --apparent-size "$OUT/oci" | cut -f1)"
}

# manifest KIND FILTER: what jq finds in an object of the manifest.
manifest() {
    python3 -c 'import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))' <"$MANIFEST" |
        jq -r ".[] | select(.kind == \"$1\") | $2"
}

# probe_path NAME: where a probe of the manifest asks, which is the port of the admin API.
probe_path() {
    [[ $(manifest Deployment ".spec.template.spec.containers[0].$1.httpGet.port") == admin ]] || die "$1: not the port \"admin\""
    [[ $(manifest Deployment '.spec.template.spec.containers[0].ports[] | select(.name == "admin").containerPort') == 9900 ]] ||
        die "the port \"admin\" is not that of the admin API"
    manifest Deployment ".spec.template.spec.containers[0].$1.httpGet.path"
}

# bundle SECCOMP-FILE: unpacks the image for crun, with what an operator's command line or manifest would add to it.
bundle() {
    rm -rf "$WORK/bundle"
    manifest ConfigMap '.data["config.yaml"]' >"$WORK/config.yaml"
    # The name of the manifest's backend; runtimes make this file.
    printf '127.0.0.1 localhost web.default.svc.cluster.local\n' >"$WORK/hosts"
    chmod 644 "$WORK/config.yaml" "$WORK/hosts"
    umoci unpack --image "$OUT/oci:latest" "$WORK/bundle" 2>/dev/null
    jq --slurpfile seccomp "$1" --arg work "$WORK" '
        .root.readonly = true
        | .process.terminal = false
        | .process.noNewPrivileges = true
        | .process.capabilities = {bounding: [], effective: [], permitted: [], inheritable: [], ambient: []}
        | .process.rlimits = [{type: "RLIMIT_NOFILE", soft: 4096, hard: 4096}]
        | .mounts += [("/ringway/config.yaml", "/hosts") | {destination: "/etc\(.)", type: "bind", options: ["bind", "ro"],
            source: "\($work)/\(split("/")[-1])"}]
        | .mounts += [{destination: "/run/ringway", type: "tmpfs", source: "tmpfs",
            options: ["nosuid", "nodev", "noexec", "mode=0700", "uid=65532", "gid=65532"]}]
        | .linux.seccomp = $seccomp[0]' "$WORK/bundle/config.json" >"$WORK/config.json"
    mv "$WORK/config.json" "$WORK/bundle/config.json"
}

# crun. It refuses a machine that mounts both versions of the control groups, so it sees the second alone; it uses neither.
container() {
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount bash -c '
        umount --recursive --lazy /sys/fs/cgroup 2>/dev/null
        mount -t cgroup2 none /sys/fs/cgroup
        exec crun --cgroup-manager=disabled --root "$@"' - "$WORK/state" "$@"
}

container_pid() {
    container state "$CONTAINER" | jq .pid
}

# ask :PORT/PATH: from inside the network of the container; there is no program in it that could.
ask() {
    nsenter --target "$(container_pid)" --net curl --silent --fail --output /dev/null --max-time 5 "http://127.0.0.1$1"
}

answers() {
    wait_for 20 "$1 of the container" ask "$1" || { cat "$WORK/container.log" >&2 && exit 1; }
    printf 'ok %s answers\n' "$1"
}

runs() {
    local pid status=0
    bundle configs/ringway-seccomp.json
    start container container run --bundle "$WORK/bundle" "$CONTAINER"
    answers ":9900$(probe_path livenessProbe)"
    # The backend comes late: first not ready, then ready.
    ! ask ":9900$(probe_path readinessProbe)" || die "it is ready without a backend"
    start backend nsenter --target "$(container_pid)" --net python3 -m http.server 80 --bind 127.0.0.1 --directory "$WORK/root/etc"
    answers ":9900$(probe_path readinessProbe)"
    answers :8080/passwd
    pid=$(container_pid)
    [[ $(awk '/^NSpid:/ { print $NF }' "/proc/$pid/status") == 1 ]] || die "it is not PID 1"
    [[ $(awk '/^(Uid|Seccomp|NoNewPrivs):/ { print $2 }' "/proc/$pid/status" | tr '\n' ' ') == "65532 1 2 " ]] ||
        die "it has another user, or no filter: $(grep -E '^(Uid|Seccomp|NoNewPrivs):' "/proc/$pid/status")"
    printf 'ok it is PID 1 of user 65532, under the filter, on a root that is read-only\n'
    container kill "$CONTAINER" TERM
    wait "$(<"$WORK/container.pid")" || status=$?
    ((status == 0)) || { cat "$WORK/container.log" >&2 && die "after TERM it ended with $status"; }
    grep -q 'stopped: every session has ended' "$WORK/container.log" || die "it did not drain"
    printf 'ok TERM ends it with 0\n'
}

# refused NAME SECCOMP-FILE SENTENCE: under this profile Ringway says so, in one record, and ends with 1.
refused() {
    local status=0 log
    bundle "$2"
    container delete --force "$CONTAINER" 2>/dev/null || true
    start "${2##*/}" container run --bundle "$WORK/bundle" "$CONTAINER"
    log=$WORK/${2##*/}.log
    wait_for 15 "the end under $1" eval "! still_runs $STARTED $(process_started "$STARTED")" || die "$1: it runs"
    wait "$STARTED" || status=$?
    if ((status != 1)) || ! grep -q "ERROR.*$3" "$log" || (($(grep -c ERROR "$log") != 1)); then
        cat "$log" >&2
        die "$1: ended with $status, and not with one sentence: $3"
    fi
    printf 'ok %s: %s\n' "$1" "$(grep -o "$3.*" "$log")"
}

main() {
    need_packages umoci skopeo jq
    need_ringway
    build_twice
    [[ ${1:-} != --only-build ]] || return 0
    need_packages crun curl util-linux golang-github-containers-common python3-yaml
    scripts/seccomp.py --check || die "configs/ringway-seccomp.json is not what scripts/seccomp.py writes"
    printf 'ok the seccomp profile is the default of runtimes and io_uring\n'
    runs
    scripts/seccomp.py --without >"$WORK/default.json"
    refused "Docker's default profile" "$WORK/default.json" 'io_uring is forbidden here'
    jq '.defaultErrnoRet = 38' "$WORK/default.json" >"$WORK/enosys.json"
    refused 'a profile that hides it' "$WORK/enosys.json" 'this kernel has no io_uring, or the sandbox hides it'
}

main "$@"
