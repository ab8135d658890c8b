//! Messages between a check and a backend, for the protocols that are spoken here: whole ones, however their
//! bytes come, and all of them together bounded.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::base::limits;

use super::connection::Connection;
use super::error::ExchangeError;

/// Bytes of what came that a cause shows.
pub(super) const SHOWN_BYTES: usize = 64;
/// Longest text of a backend in a cause, characters.
const TEXT_CHARS: usize = 200;
/// Room for one read.
const READ_BYTES: usize = 2 << 10;

/// What the bytes that came so far make: nothing yet, a message and its length, or why they are none.
pub(super) type Parsed<T> = Result<Option<(T, usize)>, String>;

/// The connection, and how far the conversation is.
pub(super) struct Talk {
    connection: Connection,
    /// What came and was not taken yet.
    received: Vec<u8>,
    /// How much may still come.
    room: usize,
    /// What is waited for.
    awaited: &'static str,
}

impl Talk {
    pub(super) fn new(connection: Connection) -> Self {
        let room = limits::CHECK_RECEIVED_BYTES_MAX;
        Self { connection, received: Vec::new(), room, awaited: "end of what is sent" }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), ExchangeError> {
        self.awaited = "end of what is sent";
        let sent = self.connection.write_all(bytes).await;
        sent.map_err(|error| ExchangeError::of_socket("sending", &error))
    }

    /// Says goodbye. That it cannot be said changes no verdict, and the answer is left to the end of the
    /// connection, which reads it.
    pub(super) async fn leave(&mut self, bytes: &[u8]) {
        let _ = self.connection.write_all(bytes).await;
    }

    /// Returns the next message, which is this one in causes.
    pub(super) async fn receive<T>(
        &mut self,
        awaited: &'static str,
        parse: impl Fn(&[u8]) -> Parsed<T>,
    ) -> Result<T, ExchangeError> {
        self.awaited = awaited;
        loop {
            match parse(&self.received) {
                Ok(Some((message, length))) => {
                    self.received.drain(..length);
                    return Ok(message);
                }
                Ok(None) => self.read().await?,
                Err(why) => {
                    return Err(ExchangeError::of_backend(format!("{why}: {}", shown(&self.received))));
                }
            }
        }
    }

    async fn read(&mut self) -> Result<(), ExchangeError> {
        if self.room == 0 {
            let cause = format!("{} in {} bytes", self.missing(), limits::CHECK_RECEIVED_BYTES_MAX);
            return Err(ExchangeError::of_backend(cause));
        }
        self.received.reserve(READ_BYTES.min(self.room));
        let mut bounded = (&mut self.connection).take(self.room as u64);
        let read = bounded.read_buf(&mut self.received).await;
        match read.map_err(|error| ExchangeError::of_socket(&self.missing(), &error))? {
            0 => Err(ExchangeError::of_backend(format!("{}; the connection ended", self.missing()))),
            count => {
                self.room -= count;
                Ok(())
            }
        }
    }

    /// What is waited for in vain, and what came of it.
    pub(super) fn missing(&self) -> String {
        match &self.received[..] {
            [] => format!("no {}", self.awaited),
            some => format!("no {}, only {}", self.awaited, shown(some)),
        }
    }
}

/// Bytes in a message: escaped and cut.
pub(super) fn shown(bytes: &[u8]) -> String {
    let (begin, rest) = bytes.split_at(bytes.len().min(SHOWN_BYTES));
    format!("`{}`{}", begin.escape_ascii(), if rest.is_empty() { "" } else { "…" })
}

/// A text of a backend in a message: on one line, escaped and cut. Letters of any language stay as they are,
/// since servers speak that of their users.
pub(super) fn quoted(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end();
    let mut quoted = String::new();
    for character in text.chars().take(TEXT_CHARS) {
        match character {
            '\r' | '\n' | '\t' => quoted.push(' '),
            _ if character.is_alphanumeric() || character.is_ascii_graphic() || character == ' ' => {
                quoted.push(character);
            }
            _ => quoted.extend(character.escape_default()),
        }
    }
    let is_cut = text.chars().nth(TEXT_CHARS).is_some();
    format!("`{quoted}`{}", if is_cut { "…" } else { "" })
}

/// Returns the next line without its end, CRLF or LF, of at most `most` bytes.
pub(super) fn line(bytes: &[u8], most: usize) -> Parsed<&[u8]> {
    match bytes.iter().take(most).position(|&byte| byte == b'\n') {
        Some(end) => {
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            Ok(Some((line, end + 1)))
        }
        None if bytes.len() >= most => Err(format!("no end of a line in {most} bytes")),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn lines_end_with_a_line_feed_and_are_bounded() {
        assert_eq!(
            parsed_at_every_cut(|bytes| Ok(line(bytes, 9)?.map(|(l, n)| (l.to_vec(), n))), b"ab\r\ncd\n", 4),
            b"ab"
        );
        assert_eq!(line(b"\nb", 9), Ok(Some((&b""[..], 1))));
        assert_eq!(line(b"12345678\n", 9), Ok(Some((&b"12345678"[..], 9))));
        assert_eq!(line(b"123456789\n", 9), Err("no end of a line in 9 bytes".to_owned()));
        assert_eq!(line(b"123456789", 9), Err("no end of a line in 9 bytes".to_owned()));
    }

    #[test]
    fn texts_of_backends_stand_on_one_line_without_control_characters() {
        assert_eq!(
            quoted("Zu viele\r\nClients: schlie\u{df}en!\r\n".as_bytes()),
            "`Zu viele  Clients: schlie\u{df}en!`"
        );
        assert_eq!(quoted(b"a\x1b[2J\xff\0"), "`a\\u{1b}[2J\\u{fffd}\\u{0}`");
        let long = "x".repeat(TEXT_CHARS + 1);
        assert_eq!(quoted(long.as_bytes()), format!("`{}`…", &long[1..]));
        assert_eq!(quoted(&long.as_bytes()[1..]), format!("`{}`", &long[1..]));
    }
}
