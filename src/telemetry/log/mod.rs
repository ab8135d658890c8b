//! Log records on their way out: captured where they arise, written by one thread.
//!
//! The caller formats the message into a bounded string and tries to queue it: no lock but the channel's, no
//! system call, no wait. The thread `log` alone touches the target (`writer`), so a target that is full,
//! broken or blocked costs records and never time of a shard; every lost one is counted.
//!
//! Who decides what is written: a level set at run time ([`LogHandle::set_level`], which `--log-level` uses,
//! too), else `RUST_LOG` in `env_logger`'s syntax, else the configuration; glommio's own records from `error`
//! up, unless `RUST_LOG` names it. Errors of the target [`ALWAYS`] are written whatever anybody decides: why
//! the process ends.

mod format;
mod handle;
mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Sender, TrySendError, bounded};
use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::base::limits;
use crate::config::{LogFormat, Logging};

use format::{Entry, Field};
use handle::{AS_FILTERED, Message, Shared, flush};
use writer::Writer;

pub use super::log_file::LogError;
pub use handle::LogHandle;

/// Behind a record that was longer than `limits::LOG_RECORD_BYTES_MAX`.
const CUT_MARK: &str = " [cut]";
/// Target of the last words of a process.
pub const ALWAYS: &str = "ringway";

/// Starts logging for the whole process. Call it before a thread is pinned: the writer inherits the affinity.
///
/// # Errors
///
/// If the target cannot be opened, the thread not started, or a logger is set already.
pub fn init(logging: &Logging) -> Result<LogHandle, LogError> {
    let spec = std::env::var("RUST_LOG").ok();
    let (logger, handle) = start(logging, spec.as_deref())?;
    let most = logger.filter.filter();
    log::set_boxed_logger(Box::new(logger)).map_err(|_| LogError::Taken)?;
    log::set_max_level(most.max(LevelFilter::Error));
    Ok(handle)
}

/// A logger and its writer thread; `spec` is what `RUST_LOG` says.
fn start(logging: &Logging, spec: Option<&str>) -> Result<(Logger, LogHandle), LogError> {
    let mut builder = env_logger::Builder::new();
    match spec {
        Some(spec) if !spec.trim().is_empty() => builder.parse_filters(spec),
        // It speaks of its own rings, which nothing uses.
        _ => builder.filter_level(logging.level).filter_module("glommio", LevelFilter::Error),
    };
    let has_fields = logging.format == LogFormat::Json;
    let (queue, messages) = bounded(limits::LOG_QUEUE_MAX);
    let shared = Arc::<Shared>::default();
    let writer = Writer::open(logging, messages, Arc::clone(&shared))?;
    // Detached: `flush` waits for what was queued, and nothing ever waits for a thread that is blocked.
    thread::Builder::new().name("log".to_owned()).spawn(move || writer.run()).map_err(LogError::Thread)?;
    let handle = LogHandle::new(queue.clone(), Arc::clone(&shared));
    Ok((Logger { filter: builder.build(), has_fields, queue, shared }, handle))
}

/// Makes a panic a record of level `error` instead of lines on the standard error stream, where a full pipe
/// would block the thread that panicked; with a backtrace where `RUST_BACKTRACE` asks for one. Whoever ends
/// the process because of a panic calls [`LogHandle::flush`] first.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        let backtrace = Backtrace::capture();
        let name = thread.name().unwrap_or("without name");
        // `info` reads: panicked at FILE:LINE:COLUMN, and the message.
        match backtrace.status() {
            BacktraceStatus::Captured => log::error!(target: ALWAYS, "thread {name} {info}\n{backtrace}"),
            _ => log::error!(target: ALWAYS, "thread {name} {info}"),
        }
    }));
}

/// The `log` facade's end of the queue.
struct Logger {
    /// Used as a filter only.
    filter: env_logger::Logger,
    /// Whether the named parts of a record are written.
    has_fields: bool,
    queue: Sender<Message>,
    shared: Arc<Shared>,
}

impl Logger {
    /// Whether a level set at run time admits the record; `None` where none was set.
    fn by_level(&self, metadata: &Metadata<'_>) -> Option<bool> {
        let level = self.shared.level.load(Ordering::Relaxed);
        (level != AS_FILTERED).then(|| metadata.level() as usize <= level)
    }

    fn is_last_word(metadata: &Metadata<'_>) -> bool {
        metadata.level() == Level::Error && metadata.target() == ALWAYS
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        Self::is_last_word(metadata)
            || self.by_level(metadata).unwrap_or_else(|| self.filter.enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        if !Self::is_last_word(record.metadata())
            && !self.by_level(record.metadata()).unwrap_or_else(|| self.filter.matches(record))
        {
            return;
        }
        let entry = Entry {
            time: SystemTime::now(),
            level: record.level(),
            target: match record.module_path_static() {
                Some(path) if path == record.target() => Cow::Borrowed(path),
                _ => Cow::Owned(capture(format_args!("{}", record.target()))),
            },
            message: capture(*record.args()),
            fields: if self.has_fields { fields(record) } else { Vec::new() },
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Message::Record(entry))
        {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits a second at most; for a thread that is about to end the process.
    fn flush(&self) {
        let _ = flush(&self.queue, Duration::from_secs(1));
    }
}

/// The named parts of a record, each in its kind.
fn fields(record: &Record<'_>) -> Vec<(String, Field)> {
    struct Collected(Vec<(String, Field)>);

    impl<'kvs> VisitSource<'kvs> for Collected {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            let number = value.to_u64().map(Field::Unsigned).or_else(|| value.to_i64().map(Field::Signed));
            let number = number.or_else(|| value.to_f64().map(Field::Float));
            let known = value.to_bool().map(Field::Bool).or(number);
            let field = known.unwrap_or_else(|| Field::Text(capture(format_args!("{value}"))));
            self.0.push((key.to_string(), field));
            Ok(())
        }
    }

    let mut collected = Collected(Vec::new());
    // The visitor itself never fails.
    let _ = record.key_values().visit(&mut collected);
    collected.0
}

/// Formats a text of at most `limits::LOG_RECORD_BYTES_MAX`, marked where it was cut.
fn capture(arguments: fmt::Arguments<'_>) -> String {
    if let Some(text) = arguments.as_str()
        && text.len() <= limits::LOG_RECORD_BYTES_MAX
    {
        return text.to_owned();
    }
    let mut capped = Capped(String::with_capacity(128));
    if capped.write_fmt(arguments).is_err() {
        // Too long, or a `Display` that failed: either way this is not all there was.
        capped.0.push_str(CUT_MARK);
    }
    capped.0
}

/// A string that stops growing, and the formatting with it, when only the mark would still fit.
struct Capped(String);

impl fmt::Write for Capped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = limits::LOG_RECORD_BYTES_MAX - CUT_MARK.len() - self.0.len();
        let kept = text.floor_char_boundary(room);
        self.0.push_str(&text[..kept]);
        if kept == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests;
