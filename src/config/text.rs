//! Values in the syntax of the file: the units of durations and sizes, and how the fields of the model are
//! written.
//!
//! Left out: reading, which knows bounds and remedies (`values`). The words of an enum stand at the enum.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

pub(super) const OFF: &str = "off";
pub(super) const AUTO: &str = "auto";
pub(super) const SAME: &str = "same";
pub(super) const SYSTEM: &str = "system";

/// Units of durations with their milliseconds, largest first.
pub(super) const MILLIS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of sizes with their bytes, largest first.
pub(super) const BYTES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Writes a duration in the largest unit that holds it as a whole number.
pub(super) fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let fits = MILLIS.iter().find(|(_, factor)| millis.is_multiple_of(u128::from(*factor)));
    let (unit, factor) = fits.copied().unwrap_or(("ms", 1));
    format!("{}{unit}", millis / u128::from(factor))
}

/// Writes a limit on a time; `None` is `off`.
pub(super) fn limit_text(limit: Option<Duration>) -> String {
    limit.map_or_else(|| OFF.to_owned(), duration_text)
}

/// Writes a size in the largest unit that holds it as a whole number.
pub(super) fn size_text(bytes: impl Into<u64>) -> String {
    let bytes = bytes.into();
    let fits = BYTES.iter().find(|(_, factor)| bytes.is_multiple_of(*factor));
    let (unit, factor) = fits.copied().unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// Writes the day of a moment, in seconds since 1970, as everybody reads it (UTC).
#[must_use]
pub fn date_text(seconds: i64) -> String {
    let day = jiff::Timestamp::from_second(seconds).map(|moment| moment.strftime("%Y-%m-%d").to_string());
    // Beyond the year 9999.
    day.unwrap_or_else(|_| "the end of days".to_owned())
}

pub(super) type Done<S> = Result<<S as Serializer>::Ok, <S as Serializer>::Error>;

pub(super) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Done<S> {
    serializer.collect_str(value)
}

/// Writes a value that has a text; `None` is `off`.
pub(super) fn text_or_off<S: Serializer>(value: &Option<impl Display>, serializer: S) -> Done<S> {
    match value {
        Some(value) => text(value, serializer),
        None => serializer.serialize_str(OFF),
    }
}

/// Writes permissions in octal.
pub(super) fn mode<S: Serializer>(mode: &u32, serializer: S) -> Done<S> {
    serializer.collect_str(&format_args!("{mode:04o}"))
}

pub(super) fn lowercase<S: Serializer>(value: &impl Display, serializer: S) -> Done<S> {
    serializer.serialize_str(&value.to_string().to_lowercase())
}

pub(super) fn duration<S: Serializer>(value: &Duration, serializer: S) -> Done<S> {
    serializer.serialize_str(&duration_text(*value))
}

pub(super) fn duration_or_off<S: Serializer>(value: &Option<Duration>, serializer: S) -> Done<S> {
    serializer.serialize_str(&limit_text(*value))
}

/// Writes a value that writes itself; `None` is `off`.
pub(super) fn or_off<T: Serialize, S: Serializer>(value: &Option<T>, serializer: S) -> Done<S> {
    match value {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_str(OFF),
    }
}

/// Writes a shared value that writes itself, which serde cannot without its feature `rc`; `None` is `off`.
pub(super) fn shared_or_off<T: Serialize, S: Serializer>(value: &Option<Arc<T>>, serializer: S) -> Done<S> {
    or_off(&value.as_deref(), serializer)
}

pub(super) fn number_or_auto<S: Serializer>(value: &Option<NonZeroU32>, serializer: S) -> Done<S> {
    match value {
        Some(number) => serializer.serialize_u32(number.get()),
        None => serializer.serialize_str(AUTO),
    }
}

/// Writes a number; `None` is 0.
pub(super) fn limit<S: Serializer>(value: &Option<NonZeroU32>, serializer: S) -> Done<S> {
    serializer.serialize_u32(value.map_or(0, NonZeroU32::get))
}

pub(super) fn size<S: Serializer>(bytes: &u32, serializer: S) -> Done<S> {
    serializer.serialize_str(&size_text(*bytes))
}

pub(super) fn auto_or_off<S: Serializer>(on: &bool, serializer: S) -> Done<S> {
    serializer.serialize_str(if *on { AUTO } else { OFF })
}

pub(super) fn switch<S: Serializer>(on: &bool, serializer: S) -> Done<S> {
    if *on { serializer.serialize_bool(true) } else { serializer.serialize_str(OFF) }
}

pub(super) fn percent<S: Serializer>(percent: &u32, serializer: S) -> Done<S> {
    serializer.collect_str(&format_args!("{percent}%"))
}

pub(super) fn percent_or_off<S: Serializer>(value: &Option<u32>, serializer: S) -> Done<S> {
    value.as_ref().map_or_else(|| OFF.to_owned(), |percent| format!("{percent}%")).serialize(serializer)
}

pub(super) fn fraction<S: Serializer>(fraction: &f64, serializer: S) -> Done<S> {
    let percent = (fraction * 100.0).round() as u32;
    percent_or_off(&Some(percent).filter(|percent| *percent > 0), serializer)
}

/// Writes a list that serde cannot write without its feature `rc`.
pub(super) fn list<T: Serialize, S: Serializer>(values: &[T], serializer: S) -> Done<S> {
    serializer.collect_seq(values)
}

pub(super) fn bytes<S: Serializer>(value: &[u8], serializer: S) -> Done<S> {
    serializer.collect_str(&value.escape_ascii())
}

/// Writes bytes that are there; serde leaves out the others before it comes here.
pub(super) fn bytes_if_any<S: Serializer>(value: &Option<Vec<u8>>, serializer: S) -> Done<S> {
    bytes(value.as_deref().unwrap_or_default(), serializer)
}
