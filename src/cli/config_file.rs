//! Reads a configuration file, and the files that it names: a bounded read of a regular file, or of what the caller's shell hands over,
//! and of nothing else that could block.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::base::{Plain, limits};
use crate::config::{Files, Parsed, Report, parse_with};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The operating system does not let us read the file.
    #[error("{file}: cannot be read: {}", Plain(error))]
    Unreadable {
        /// The name of the file as given.
        file: String,
        /// The error of the system.
        error: io::Error,
    },
    /// The file exists, and is not a configuration file.
    #[error(
        "{file}: {what}; a configuration is a regular file of at most {} bytes",
        limits::CONFIG_BYTES_MAX
    )]
    Unfit {
        /// The name of the file as given.
        file: String,
        /// What the file is instead.
        what: String,
    },
    /// The content of the file is invalid.
    #[error(transparent)]
    Invalid(#[from] Report),
}

/// Reads and parses a configuration file, `-` for the standard input. Warnings are in the report of the
/// result.
///
/// # Errors
///
/// See [`LoadError`]; its text is complete and names the file.
pub fn load(path: &Path) -> Result<Parsed, LoadError> {
    let (name, text) = read(path)?;
    let folder = if path.as_os_str() == "-" || is_inherited(path) { None } else { path.parent() };
    // A clock from before 1970 says nothing of dates.
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|now| i64::try_from(now.as_secs()).ok());
    let mut files = now.map_or_else(Files::default, Files::read_at);
    loop {
        let parsed = parse_with(&name, &text, &files);
        let wanted = files.take_wanted();
        if wanted.is_empty() {
            return Ok(parsed?);
        }
        for named in wanted {
            // A path without a beginning is one beside the configuration, wherever the process was started.
            let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let content = read_named(&folder.join(&named));
            files.insert(named, content);
        }
    }
}

/// Reads a file that a configuration names.
fn read_named(path: &Path) -> Result<Vec<u8>, String> {
    let most = limits::ACCESS_FILE_BYTES_MAX;
    read_within(path, most).map_err(|error| match error {
        LoadError::Unreadable { file, error } => format!("{file}: cannot be read: {}", Plain(&error)),
        LoadError::Unfit { file, what, .. } => {
            format!("{file}: {what}; write the path of a regular file of at most {most} bytes")
        }
        LoadError::Invalid(report) => report.to_string(),
    })
}

/// Reads a configuration file, `-` for the standard input. Returns its name and its content.
///
/// # Errors
///
/// See [`LoadError`], of which this is never `Invalid`.
pub(super) fn read(path: &Path) -> Result<(String, Vec<u8>), LoadError> {
    let name = if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() };
    read_within(path, limits::CONFIG_BYTES_MAX).map(|text| (name, text))
}

fn read_within(path: &Path, most: u64) -> Result<Vec<u8>, LoadError> {
    let (is_stdin, inherited) = (path.as_os_str() == "-", is_inherited(path));
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let file = name.escape_debug().to_string();
    let unreadable = |error| LoadError::Unreadable { file: file.clone(), error };
    let unfit = |what: String| LoadError::Unfit { file: file.clone(), what };

    let opened = match (is_stdin, inherited) {
        (true, _) => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        (false, true) => File::open(path),
        (false, false) => open(path),
    };
    let opened = opened.map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    let kind_of_file = metadata.file_type();
    // If a pipe is handed over, a process writes to its other end; a terminal is accepted for `-` only.
    let is_stream = (kind_of_file.is_fifo() && (is_stdin || inherited)) || (is_stdin && opened.is_terminal());
    if !metadata.is_file() && !is_stream {
        return Err(unfit(format!("is {}", kind(kind_of_file))));
    }
    if metadata.len() > most {
        return Err(unfit(format!("has {} bytes", metadata.len())));
    }
    // The file may grow in the meantime, and files of /proc have no length: one byte more than allowed
    // reveals both.
    let mut text = Vec::new();
    opened.take(most + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > most {
        return Err(unfit(format!("has more than {most} bytes")));
    }
    Ok(text)
}

/// Returns whether a path names a descriptor that this process was started with, like `/dev/stdin` and the
/// shell's `<(...)`.
fn is_inherited(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

/// Without `O_NONBLOCK` a FIFO would block until another process writes, open(2).
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

fn kind(file_type: FileType) -> &'static str {
    match file_type {
        t if t.is_dir() => "a directory",
        t if t.is_fifo() => "a pipe",
        t if t.is_char_device() || t.is_block_device() => "a device",
        t if t.is_socket() => "a socket",
        _ => "not a regular file",
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    /// Asserts that loading fails, at once, with these words.
    #[track_caller]
    fn refused(path: &Path, words: &str) {
        let start = Instant::now();
        let text = load(path).expect_err("no configuration").to_string();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(text.contains(words) && text.starts_with(&path.display().to_string()), "{text}");
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        refused(&folder.path().join("missing"), "cannot be read: No such file");
        refused(folder.path(), "is a directory");
        refused(Path::new("/dev/zero"), "is a device");

        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        refused(&pipe, "is a pipe");
    }

    #[test]
    fn large_file_is_refused_without_reading_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("large");
        File::create(&path).and_then(|file| file.set_len(100 << 20)).expect("a sparse file");
        refused(&path, "has 104857600 bytes");
    }

    #[test]
    fn valid_and_invalid_files_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f.yaml");
        std::fs::write(&path, "a: 1").expect("a file");
        refused(&path, "f.yaml:1:1: unknown key `a`");

        let valid = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/config.yaml");
        assert_eq!(load(&valid).expect("a configuration").config.listeners.len(), 1);
    }
}
