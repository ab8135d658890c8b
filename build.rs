//! Puts the commit into `ringway --version`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs");
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    // Built from a tarball there is no commit to name.
    let commit = output.ok().filter(|output| output.status.success());
    let commit = commit.and_then(|output| String::from_utf8(output.stdout).ok());
    let commit = commit.map_or_else(|| "unknown commit".into(), |commit| commit.trim().to_owned());
    println!("cargo::rustc-env=RINGWAY_COMMIT={commit}");
    println!("cargo::rustc-env=RINGWAY_VERSION={} ({commit})", env!("CARGO_PKG_VERSION"));
}
