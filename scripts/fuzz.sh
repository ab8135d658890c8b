#!/usr/bin/env bash
# Fuzzes what reads bytes of strangers, with libFuzzer on stable Rust: each target starts from its small corpus in
# tests/fuzz/corpus and ends at the first finding, which it prints.
#
# Usage: scripts/fuzz.sh [TARGET...]     all targets without one; $RUNS executions of each, 1,000,000 by default, which take
#                                        five minutes for tls, where each is a handshake
#
# Inputs that reach new code are kept in target/fuzz/corpus and tried first by the next run. A finding is written to
# target/fuzz; give it to the target as an argument to see it again.
#
# Needs: a C++ compiler. Exit status: 0 no finding, 1 a finding or no build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

RUNS=${RUNS:-1000000}
declare -A LONGEST=([proxy]=600 [client_hello]=1024 [configuration]=2048 [admin]=4096 [tls]=1024)

target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
mkdir -p "$target"
command -v c++ >/dev/null || need_packages g++

# What `cargo fuzz` asks of the compiler, apart from sanitizers, which stable Rust does not have.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# With a target named, build scripts are built without these flags: they have no libFuzzer to link to.
triple=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="$coverage" CARGO_TARGET_DIR="$target" \
    cargo build --release --locked --manifest-path tests/fuzz/Cargo.toml --target "$triple"

targets=("$@")
((${#targets[@]})) || targets=(proxy client_hello configuration tls admin)
for name in "${targets[@]}"; do
    [[ -n ${LONGEST[$name]:-} ]] || die "there is no target $name; there are: ${!LONGEST[*]}"
    mkdir -p "$target/corpus/$name"
    printf 'fuzz: %s, %s executions\n' "$name" "$RUNS"
    (
        cd "$target"
        "./$triple/release/$name" "corpus/$name" "$OLDPWD/tests/fuzz/corpus/$name" -runs="$RUNS" -max_len="${LONGEST[$name]}" \
            -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 2>&1 | grep -vE '^(#|INFO|	|"|Recommended)' | tail -40
    ) || die "a finding of $name: see $target"
done
