//! The logger with its thread, on targets that work, break and block.

use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::{fs, io};

use log::Level;

use crate::config::LogTarget;

use super::*;

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

fn logging(target: impl Into<PathBuf>) -> Logging {
    let yaml = b"loadbalancer: {listen_address: ':1'}\nbackends: [{address: 127.0.0.1, port: 2}]";
    let logging = crate::config::parse("test.yaml", yaml).unwrap().config.logging;
    Logging { level: LevelFilter::Info, target: LogTarget::File(target.into()), ..logging }
}

fn say(logger: &Logger, level: Level, text: &str) {
    logger.log(&Record::builder().level(level).target("test").args(format_args!("{text}")).build());
}

/// The messages of a text log, without time and level.
fn messages(log: &str) -> Vec<&str> {
    log.lines().map(|line| line.split_once("] ").expect("a record's head").1).collect()
}

#[test]
fn records_reach_the_file_in_order_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, "[before] before\n").unwrap();
    let (logger, handle) = start(&logging(&path), None).unwrap();
    for number in 0..100 {
        say(&logger, Level::Info, &number.to_string());
    }
    assert!(handle.flush(PATIENCE));
    let log = fs::read_to_string(&path).unwrap();
    let expected = std::iter::once("before".to_owned()).chain((0..100).map(|number| number.to_string()));
    assert!(messages(&log).into_iter().eq(expected), "{log}");
    assert_eq!(handle.dropped(), 0);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing/log");
    let error = start(&logging(&missing), None).err().expect("no such folder").to_string();
    assert!(error.contains(&*missing.to_string_lossy()), "{error}");
    assert!(start(&logging(folder.path()), None).is_err());
}

#[test]
fn a_long_record_is_cut_and_marked() {
    let text = capture(format_args!("x{}", "ß".repeat(limits::LOG_RECORD_BYTES_MAX)));
    assert!(text.len() <= limits::LOG_RECORD_BYTES_MAX && text.len() > limits::LOG_RECORD_BYTES_MAX - 3);
    assert!(text.ends_with("ß [cut]"));
    assert_eq!(capture(format_args!("short {}", 1)), "short 1");
}

#[test]
fn level_can_change_at_run_time_and_rust_log_wins_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (logger, handle) = start(&logging(&path), Some("warn,test=error")).unwrap();
    say(&logger, Level::Warn, "filtered by RUST_LOG");
    say(&logger, Level::Error, "error");
    handle.set_level(LevelFilter::Debug);
    say(&logger, Level::Debug, "debug");
    say(&logger, Level::Trace, "filtered by level");
    assert!(handle.flush(PATIENCE));
    assert_eq!(messages(&fs::read_to_string(&path).unwrap()), ["error", "debug"]);
}

#[test]
fn reopen_follows_a_rename_and_survives_a_lost_folder() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("place");
    fs::create_dir(&place).unwrap();
    let (path, rotated) = (place.join("log"), folder.path().join("rotated"));
    let (logger, handle) = start(&logging(&path), None).unwrap();
    say(&logger, Level::Info, "old");
    assert!(handle.flush(PATIENCE));
    fs::rename(&path, &rotated).unwrap();
    handle.reopen();
    say(&logger, Level::Info, "new");
    assert!(handle.flush(PATIENCE));
    assert_eq!(messages(&fs::read_to_string(&rotated).unwrap()), ["old"]);
    assert_eq!(messages(&fs::read_to_string(&path).unwrap()), ["new"]);

    fs::rename(&path, &rotated).unwrap();
    fs::remove_dir(&place).unwrap();
    handle.reopen();
    say(&logger, Level::Info, "still here");
    assert!(handle.flush(PATIENCE));
    let log = fs::read_to_string(&rotated).unwrap();
    assert!(log.contains("cannot open") && log.ends_with("still here\n"), "{log}");
}

#[test]
fn a_full_target_drops_and_counts_and_blocks_nobody() {
    let (logger, handle) = start(&logging("/dev/full"), None).unwrap();
    for _ in 0..100 {
        say(&logger, Level::Info, "lost");
    }
    assert!(handle.flush(PATIENCE));
    assert_eq!(handle.dropped(), 100);
}

#[test]
fn a_blocked_target_blocks_nobody_and_reports_what_was_dropped() {
    let (reader, pipe) = io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let (logger, handle) = start(&logging(path), None).unwrap();
    drop(pipe);
    // More than the pipe, the batch and the queue hold together, and nobody reads.
    let long = "x".repeat(1_000);
    let said = limits::LOG_QUEUE_MAX as u64 + 2_000;
    for _ in 0..said {
        say(&logger, Level::Info, &long);
    }
    let dropped = handle.dropped();
    assert!(dropped > 0);
    assert!(!handle.flush(Duration::from_millis(20)), "the flush is bounded");

    // Once somebody reads, the rest arrives whole, and the log says what is missing.
    let report = format!("{dropped} log records dropped");
    let mut seen = 0;
    for line in BufReader::new(reader).lines() {
        let line = line.unwrap();
        if line.contains("dropped") {
            assert!(line.ends_with(&report), "{line}");
            break;
        }
        assert!(line.ends_with(&long));
        seen += 1;
    }
    // The report follows the batch that was being written; nothing more was dropped since.
    assert_eq!(handle.dropped(), dropped);
    assert!(seen > 0 && seen <= said - dropped);
}
