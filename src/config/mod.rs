//! What the operator wrote, and the immutable configuration that runs.
//!
//! One door: [`parse`] turns the text of a file into a [`Config`], or into a [`Report`] of everything that is
//! wrong with it. The text becomes a tree of nodes that know where they stand (`tree`), which is read key by
//! key (`section`, `schema`, `healthcheck`, `pool`, `admin`) into values (`values`, `address`), which are then
//! compared with each other (`relations`, `reach`). A text that does not fit is explained by what it looks
//! like (`hints`). [`Config::to_yaml`] is the way back (`print`, `text`).
//!
//! Two configurations are compared by their keys ([`changes`]). What operators change at run time lies over the
//! file as an [`Overlay`].
//!
//! Invariants: no input panics; `limits::CONFIG_*` bound time and memory; a `Config` holds only values within
//! their bounds; `parse` reads what `to_yaml` writes as the same configuration.
//!
//! Left out: files, which the caller reads ([`Files`]), and whatever depends on the machine, such as its cores.

mod address;
mod admin;
mod admission;
mod changes;
mod files;
mod healthcheck;
mod hints;
mod model;
mod overlay;
mod pem;
mod pool;
mod print;
mod proxy;
mod reach;
mod relations;
mod report;
mod schema;
mod section;
mod sni;
mod text;
mod tls;
mod tree;
mod values;

use std::rc::Rc;

pub use changes::{Change, changes, not_live};
pub use files::Files;
pub use model::*;
pub use overlay::{Edit, Overlay};
pub use reach::Circle;
pub use report::{Problem, Report, Severity};
pub use text::date_text;

use crate::base::limits;
use report::{Location, Problems, Span};
use section::Section;
use tree::{Node, Value};

/// A valid configuration and the warnings about it.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// What runs.
    pub config: Config,
    /// Warnings only.
    pub report: Report,
}

/// Reads the text of a configuration file in short or long form. The report calls the file `file_name`. Files that the text
/// names count as empty.
///
/// # Errors
///
/// Fails with the report of every problem, at least one of which is an error.
pub fn parse(file_name: &str, text: &[u8]) -> Result<Parsed, Report> {
    parse_with(file_name, text, &Files::default())
}

/// As [`parse`], with the content of the files that the text names. What comes back counts only if `files` has all of them
/// ([`Files::take_wanted`]).
///
/// # Errors
///
/// As [`parse`].
pub fn parse_with(file_name: &str, text: &[u8], files: &Files) -> Result<Parsed, Report> {
    let problems = Problems::default();
    let text = match within_size(text).and_then(tree::decode) {
        Ok(text) => text,
        Err((span, message)) => {
            problems.error(Location::of_text(span), message);
            let beginning = &text[..text.len().min(limits::CONFIG_BYTES_MAX as usize)];
            return Err(problems.into_report(file_name, &String::from_utf8_lossy(beginning)));
        }
    };
    let document = tree::parse(text, &problems);
    judged(file_name, text, document, problems, files)
}

/// Reads a text that [`Config::to_yaml`] has written, which is not hostile and may be larger than any file.
fn parse_printed(text: &str) -> Result<Parsed, Report> {
    let problems = Problems::default();
    let document = tree::parse_within(usize::MAX, text, &problems);
    judged("printed", text, document, problems, &Files::default())
}

fn judged(
    file_name: &str,
    text: &str,
    document: Option<Rc<Node>>,
    problems: Problems,
    files: &Files,
) -> Result<Parsed, Report> {
    let config = document.and_then(|document| read(&document, &problems, files));
    let report = problems.into_report(file_name, text);
    match config {
        Some(config) if report.errors() == 0 => Ok(Parsed { config, report }),
        _ => Err(report),
    }
}

fn within_size(text: &[u8]) -> Result<&[u8], (Span, String)> {
    if text.len() as u64 <= limits::CONFIG_BYTES_MAX {
        return Ok(text);
    }
    Err((Span::at(1, 1), format!("larger than {} bytes", limits::CONFIG_BYTES_MAX)))
}

fn read(document: &Node, problems: &Problems, files: &Files) -> Option<Config> {
    match &document.value {
        Value::Map(map) => {
            let mut root = Section::root(map, problems, files);
            let config = schema::config(&mut root);
            root.finish();
            return Some(config);
        }
        Value::Null => problems.error(Location::of_text(Span::at(1, 1)), tree::EMPTY),
        Value::List(_) | Value::Scalar { .. } => {
            let message = "not a configuration; the file is made of sections such as `loadbalancer:`";
            problems.error(Location::of_text(document.span), message);
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
