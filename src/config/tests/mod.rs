//! The configuration as a whole: which files are accepted, refused (with which words) or warned about, that
//! no file can do harm, and that the reference says what the code does.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

pub(super) use reference::{Asked, record};

const SHORT: &str = include_str!("../../../configs/config.yaml");
const EXAMPLE: &str = include_str!("../../../configs/example.yaml");
const REFERENCE: &str = include_str!("../../../docs/CONFIGURATION.md");

const LONG: &str = "\
listeners:
  - {name: web, address: ':80', upstream: web}
upstreams:
  - name: web
    backends:
      - {address: 10.0.0.1, port: 80}
";

/// Far longer than any file takes in a debug build.
const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
fn valid(text: &str) -> Config {
    match parse("file", text.as_bytes()) {
        Ok(parsed) => {
            assert_eq!(parsed.report.warnings(), 0, "{}\nof\n{text}", parsed.report);
            parsed.config
        }
        Err(report) => panic!("{report}\nof\n{text}"),
    }
}

/// The headlines of the problems, without the name of the file.
#[track_caller]
fn problems(text: impl AsRef<[u8]>) -> Vec<String> {
    let report = match parse("file", text.as_ref()) {
        Ok(parsed) => parsed.report,
        Err(report) => {
            assert!(report.errors() > 0);
            report
        }
    };
    report.problems().iter().map(|problem| problem.headline().replacen("file:", "", 1)).collect()
}

/// A valid short file with one backend and `lines` after it.
fn short(lines: &str) -> String {
    format!("loadbalancer: {{listen_address: ':80'}}\nbackends: [{{address: a, port: 80}}]\n{lines}")
}

/// A valid long file whose upstream has `lines`, from line 5 on.
fn upstream(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("listeners: [{{name: w, address: ':80', upstream: w}}]\n\nupstreams:\n  - name: w\n{lines}")
}

mod accepted;
mod addresses;
mod changed;
mod hostile;
mod overlaid;
mod properties;
mod reference;
mod refused;
mod tls;
mod warned;
