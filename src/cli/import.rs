//! `ringway import`: the file of another program as a configuration of ours.

use std::io::{self, Write};
use std::path::Path;

use super::complain;
use super::config_file::read;
use crate::base::Plain;
use crate::import::{Format, guess, import as translate};

/// Prints the configuration to standard output, and what it does not have to standard error, line by line.
/// Returns the exit status: 0 if something was translated, 1 if nothing was or the file cannot be read.
#[must_use]
pub fn import(path: &Path, from: Option<Format>) -> u8 {
    let (name, text) = match read(path) {
        Ok(read) => read,
        Err(error) => {
            complain(error);
            return 1;
        }
    };
    let file = name.escape_debug().to_string();
    let Some(format) = from.or_else(|| guess(&text)) else {
        complain(format!(
            "{file}: looks like neither an haproxy.cfg nor an nginx.conf; write `--from haproxy` or \
             `--from nginx`"
        ));
        return 1;
    };
    let import = translate(&name, &text, format);
    for left_out in &import.left_out {
        complain(format!("{file}:{left_out}"));
    }
    let left_out = import.left_out.len();
    let Some(yaml) = import.yaml else {
        complain(format!("{file}: nothing to translate: no listener of TCP is left; {left_out} notes above"));
        return 1;
    };
    let (listeners, upstreams) = (import.listeners, import.upstreams);
    complain(format!("{file}: listeners: {listeners}, upstreams: {upstreams}, not taken over: {left_out}"));
    match io::stdout().lock().write_all(yaml.as_bytes()) {
        Ok(()) => 0,
        Err(error) => {
            complain(format!("standard output cannot be written: {}", Plain(&error)));
            1
        }
    }
}
