//! The `ringway` binary: see `ringway --help`.

fn main() {}
