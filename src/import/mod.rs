//! Translation of the TCP parts of an `haproxy.cfg` or an `nginx.conf` into Ringway's configuration.
//!
//! [`import`] reads the text (`haproxy`, `nginx`) into a plan of listeners and upstreams (`plan`), which is
//! written as YAML with a comment wherever the meaning differs (`write`). What has no counterpart is in the list
//! of [`LeftOut`], never silently dropped: a directive that nobody asked for ends there.
//!
//! Invariants: no input panics; the YAML is one that `config::parse` accepts, because what it refuses is taken
//! out and reported with its words.
//!
//! Left out: files, included ones too, and whatever reads HTTP.

mod haproxy;
mod listen;
mod nginx;
mod plan;
mod report;
#[cfg(test)]
mod tests;
mod units;
mod write;

pub use report::LeftOut;

use plan::Plan;
use report::Findings;

/// Whose configuration a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `haproxy.cfg`.
    Haproxy,
    /// `nginx.conf`.
    Nginx,
}

/// A translated file.
#[derive(Clone, Debug)]
pub struct Import {
    /// The configuration, a valid one; `None` if nothing could be translated.
    pub yaml: Option<String>,
    /// Number of listeners in it.
    pub listeners: usize,
    /// Number of upstreams in it.
    pub upstreams: usize,
    /// What it does not have, in the order of the file.
    pub left_out: Vec<LeftOut>,
}

/// Returns whose configuration this text is, by its lines: sections of HAProxy stand alone, directives of nginx
/// end with a semicolon or a brace.
#[must_use]
pub fn guess(text: &[u8]) -> Option<Format> {
    const SECTIONS: [&str; 5] = ["global", "defaults", "listen", "frontend", "backend"];
    let text = String::from_utf8_lossy(text);
    let (mut haproxy, mut nginx) = (0_usize, 0_usize);
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let first = line.split_whitespace().next().unwrap_or_default();
        if line.ends_with([';', '{', '}']) {
            nginx += 1;
        } else if SECTIONS.contains(&first) {
            // A section has several lines.
            haproxy += 3;
        }
    }
    match haproxy.cmp(&nginx) {
        std::cmp::Ordering::Greater => Some(Format::Haproxy),
        std::cmp::Ordering::Less => Some(Format::Nginx),
        std::cmp::Ordering::Equal => None,
    }
}

/// Translates the text of a file, which comments call `file_name`.
#[must_use]
pub fn import(file_name: &str, text: &[u8], format: Format) -> Import {
    let (mut plan, mut findings) = (Plan::new(), Findings::default());
    let header = match format {
        Format::Haproxy => {
            haproxy::plan(text, &mut plan, &mut findings);
            write::header(file_name, "HAProxy", &haproxy::DIFFERENCES)
        }
        Format::Nginx => {
            nginx::plan(text, &mut plan, &mut findings);
            write::header(file_name, "nginx", &nginx::DIFFERENCES)
        }
    };
    plan.upstreams.sort_by_key(|upstream| upstream.entry.origin.line);
    let yaml = write::valid_yaml(&header, &mut plan, &mut findings);
    let (listeners, upstreams) = match yaml {
        Some(_) => (plan.listeners.len(), plan.upstreams.len()),
        None => (0, 0),
    };
    Import { yaml, listeners, upstreams, left_out: findings.into_list() }
}
