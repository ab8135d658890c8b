//! How a log record looks: one line, whatever is in it.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::time::SystemTime;

use env_logger::fmt::style::AnsiColor;
use jiff::Timestamp;
use log::Level;
use serde::Serialize;

use crate::base::Escaped;

/// A record as its caller left it.
pub(super) struct Entry {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) target: Cow<'static, str>,
    pub(super) message: String,
    /// What of the message has a name; for [`Style::Json`] alone.
    pub(super) fields: Vec<(String, Field)>,
}

/// The value of a named part of a record.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Field {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
}

/// How records are written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    /// In the manner of `env_logger`.
    Text {
        /// Whether the level is coloured, for a terminal.
        color: bool,
    },
    /// One object a line.
    Json,
}

#[derive(Serialize)]
struct JsonRecord<'a> {
    time: String,
    level: &'a str,
    target: &'a str,
    message: &'a str,
    #[serde(flatten, serialize_with = "as_map")]
    fields: &'a [(String, Field)],
}

fn as_map<S: serde::Serializer>(fields: &[(String, Field)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(key, value)| (key, value)))
}

impl Style {
    /// Appends the record and its line feed, the only one in it.
    pub(super) fn render(self, entry: &Entry, out: &mut Vec<u8>) {
        // A clock outside of the years -9999 to 9999 must not cost the record.
        let time = Timestamp::try_from(entry.time).unwrap_or(Timestamp::UNIX_EPOCH);
        // Writing to memory does not fail.
        let _ = match self {
            Self::Text { color } => {
                let (level, target, message) = (Coloured(entry.level, color), &entry.target, &entry.message);
                writeln!(out, "[{time:.3} {level} {}] {}", Escaped(target), Escaped(message))
            }
            Self::Json => {
                let record = JsonRecord {
                    time: format!("{time:.6}"),
                    level: lower_case(entry.level),
                    target: &entry.target,
                    message: &entry.message,
                    fields: &entry.fields,
                };
                serde_json::to_writer(&mut *out, &record).map_err(Into::into).and_then(|()| writeln!(out))
            }
        };
    }
}

fn lower_case(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// A level, in `env_logger`'s colours if wanted.
struct Coloured(Level, bool);

impl fmt::Display for Coloured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(level, color) = *self;
        if !color {
            return write!(formatter, "{level:<5}");
        }
        let style = match level {
            Level::Error => AnsiColor::Red.on_default().bold(),
            Level::Warn => AnsiColor::Yellow.on_default(),
            Level::Info => AnsiColor::Green.on_default(),
            Level::Debug => AnsiColor::Blue.on_default(),
            Level::Trace => AnsiColor::Cyan.on_default(),
        };
        write!(formatter, "{style}{level:<5}{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rendered(style: Style, message: &str) -> String {
        let entry = Entry {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            level: Level::Info,
            target: Cow::Borrowed("ringway::health"),
            message: message.to_owned(),
            fields: vec![
                ("backend".to_owned(), Field::Text("a\n\"".to_owned())),
                ("up".to_owned(), Field::Unsigned(2)),
                ("seconds".to_owned(), Field::Float(0.5)),
            ],
        };
        let mut out = Vec::new();
        style.render(&entry, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_looks_like_env_loggers() {
        assert_eq!(
            rendered(Style::Text { color: false }, "up"),
            "[2023-11-14T22:13:20.123Z INFO  ringway::health] up\n"
        );
    }

    #[test]
    fn text_from_a_peer_stays_on_its_line_and_moves_no_cursor() {
        let hostile = "a\nb\r\tc\u{1b}[2J\u{9b}d\u{0}\u{202e}e\u{2028}ß";
        assert!(
            rendered(Style::Text { color: false }, hostile)
                .ends_with("] a\\nb\\r\\tc\\u{1b}[2J\\u{9b}d\\u{0}\\u{202e}e\\u{2028}ß\n")
        );
    }

    #[test]
    fn json_is_one_object_a_line_and_keeps_the_text() {
        let hostile = "a\nb\"\u{1b}\u{0}ß";
        let line = rendered(Style::Json, hostile);
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["time"], "2023-11-14T22:13:20.123000Z");
        assert_eq!(value["level"], "info");
        assert_eq!(value["target"], "ringway::health");
        assert_eq!(value["message"], hostile);
        assert_eq!(
            (&value["backend"], &value["up"], &value["seconds"]),
            (&"a\n\"".into(), &2.into(), &0.5.into())
        );
    }
}
