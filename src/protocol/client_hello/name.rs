//! Host names as clients and the configuration write them.

use std::net::Ipv4Addr;

/// The longest name without its final dot, bytes (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// Returns a host name in lower case and without its final dot; `None` for what is none: an address, an empty name or
/// label, more than 63 bytes in a label or 253 in all, and any byte but letters, digits, `-`, `_` and dots. A name in
/// another alphabet has to come in its ASCII form (`xn--...`).
#[must_use]
pub fn host_name(bytes: &[u8]) -> Option<Box<str>> {
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    let is_label = |label: &[u8]| {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=LABEL_MAX).contains(&label.len()) && label.iter().all(is_part)
    };
    if bytes.len() > NAME_MAX || !bytes.split(|byte| *byte == b'.').all(is_label) {
        return None;
    }
    let name = str::from_utf8(bytes).ok()?;
    let is_address = name.parse::<Ipv4Addr>().is_ok();
    (!is_address).then(|| name.to_ascii_lowercase().into())
}
