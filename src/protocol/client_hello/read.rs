//! From records to the message.

use std::borrow::Cow;

use super::extensions;
use super::hello::Progress;
use super::invalid::{Invalid, MESSAGE_MAX, RECORDS_MAX};

/// Type, version and length of a record.
const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
/// The first byte of every version.
const MAJOR: u8 = 3;
/// The longest fragment in a record that is not encrypted.
const FRAGMENT_MAX: u16 = 1 << 14;

/// Type and length of a message.
const MESSAGE_HEADER: usize = 4;
const CLIENT_HELLO: u8 = 1;
/// The shortest message: version, random, no session, one cipher suite, one compression method.
const MESSAGE_MIN: usize = MESSAGE_HEADER + 2 + 32 + 1 + 4 + 2;

/// Reads a ClientHello at the begin of these bytes, which are all that have come so far.
///
/// The answer depends on the bytes alone, not on how they came: more bytes never change an answer that is not
/// [`Progress::Incomplete`]. At most [`RECORDS_MAX`] bytes are ever asked for. A caller that waits for `least` bytes before
/// it asks again asks a few dozen times, into however many records and segments the message is cut.
#[must_use]
pub fn read(bytes: &[u8]) -> Progress {
    let message = match gather(&bytes[..bytes.len().min(RECORDS_MAX)]) {
        Ok(Gathered::All(message)) => message,
        Ok(Gathered::Lacks { least }) if least <= RECORDS_MAX => return Progress::Incomplete { least },
        Ok(Gathered::Lacks { .. }) => return Progress::Invalid(Invalid::TooManyRecords),
        Err(invalid) => return Progress::Invalid(invalid),
    };
    match extensions::body(&message[MESSAGE_HEADER..]) {
        Ok(hello) => Progress::Complete(hello),
        Err(invalid) => Progress::Invalid(invalid),
    }
}

/// The message without the headers of its records, as far as it has come.
enum Gathered<'a> {
    All(Cow<'a, [u8]>),
    Lacks {
        /// The least number of bytes, records and all, that the message ends within.
        least: usize,
    },
}

fn gather(bytes: &[u8]) -> Result<Gathered<'_>, Invalid> {
    let mut message = Cow::Borrowed(&[][..]);
    let mut rest = bytes;
    loop {
        let is_first = rest.len() == bytes.len();
        let Some((fragment, after)) = record(rest, is_first)? else {
            let lacking = message_length(&message)? - message.len();
            return Ok(Gathered::Lacks { least: bytes.len() - rest.len() + RECORD_HEADER + lacking });
        };
        let (there, behind) = after.split_at_checked(fragment).unwrap_or((after, &[]));
        append(&mut message, there);
        let length = message_length(&message)?;
        if message.len() >= length {
            truncate(&mut message, length);
            return Ok(Gathered::All(message));
        }
        let (lacking, cut) = (length - message.len(), fragment - there.len());
        if cut > 0 {
            let header = if lacking > cut { RECORD_HEADER } else { 0 };
            return Ok(Gathered::Lacks { least: bytes.len() + lacking + header });
        }
        rest = behind;
    }
}

/// Reads the header of a record, and returns the length of its fragment and what follows the header; `None` while the header
/// is incomplete.
fn record(bytes: &[u8], is_first: bool) -> Result<Option<(usize, &[u8])>, Invalid> {
    match bytes {
        [kind, ..] if *kind != HANDSHAKE && !is_first => return Err(Invalid::RecordType(*kind)),
        [] | [HANDSHAKE] | [HANDSHAKE, MAJOR, ..] => {}
        _ => return Err(Invalid::NotTls),
    }
    let Some((&[_, _, _, high, low], after)) = bytes.split_first_chunk::<RECORD_HEADER>() else {
        return Ok(None);
    };
    match u16::from_be_bytes([high, low]) {
        length @ 1..=FRAGMENT_MAX => Ok(Some((length.into(), after))),
        length => Err(Invalid::RecordLength(length)),
    }
}

/// Returns how long a message is that begins like this; the least that it can be while that is not known.
fn message_length(message: &[u8]) -> Result<usize, Invalid> {
    if let Some(kind) = message.first().filter(|kind| **kind != CLIENT_HELLO) {
        return Err(Invalid::MessageType(*kind));
    }
    let Some(&[_, high, middle, low]) = message.first_chunk() else { return Ok(MESSAGE_MIN) };
    let length = MESSAGE_HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
    match length {
        ..MESSAGE_MIN => Err(Invalid::Fields),
        MESSAGE_MIN..=MESSAGE_MAX => Ok(length),
        _ => Err(Invalid::TooLong(length)),
    }
}

/// Copies only what is in more than one record.
fn append<'a>(message: &mut Cow<'a, [u8]>, fragment: &'a [u8]) {
    if message.is_empty() {
        *message = Cow::Borrowed(fragment);
    } else {
        message.to_mut().extend_from_slice(fragment);
    }
}

fn truncate(message: &mut Cow<'_, [u8]>, length: usize) {
    match message {
        Cow::Borrowed(bytes) => *bytes = &bytes[..length],
        Cow::Owned(bytes) => bytes.truncate(length),
    }
}
