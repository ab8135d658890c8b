//! The keys of a listener on who may have a session, and how many.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::files::Files;
use super::model::{AccessEntry, AccessList, NoBackend, OverLimit, PerSource, Rate, RateLimit};
use super::report::quote;
use super::section::{Read, Section};
use super::tree::Node;
use super::values::{decimal, limit, number, off_or, text};
use crate::base::limits;

/// Words of `over_limit`.
pub(super) const OVER_LIMIT: &[(&str, OverLimit)] =
    &[("refuse", OverLimit::Refuse), ("wait", OverLimit::Wait)];

/// Words of `no_backend`.
pub(super) const NO_BACKEND: &[(&str, NoBackend)] =
    &[("reset", NoBackend::Reset), ("unlisten", NoBackend::Unlisten)];

/// What an entry of a list of clients may be.
const ENTRIES: &str = "prefixes, addresses, `unix:`, `any` or `file:/PATH`";

const ENTRY: &str =
    "a prefix such as `10.0.0.0/8` or `2001:db8::/32`, an address, `unix:`, `any` or `file:/PATH`";

/// Reads a list of clients.
pub(super) fn clients(s: &mut Section<'_>, key: &'static str) -> AccessList {
    let list = AccessList(s.list(key, (ENTRIES, limits::ACCESS_ENTRIES_MAX), entry));
    if key == "allow" && s.is_bare_list(key) {
        s.warn_at(key, "an empty list lets every client in; write `off` if that is meant");
    }
    list
}

fn entry(node: &Node, files: &Files) -> Read<AccessEntry> {
    match text(node)? {
        "any" => Ok(AccessEntry::Any),
        "unix:" => Ok(AccessEntry::Unix),
        text => match text.strip_prefix("file:") {
            Some(path) => file(path, files),
            None => prefix(text, ENTRY).map(AccessEntry::Prefix),
        },
    }
}

fn file(path: &str, files: &Files) -> Read<AccessEntry> {
    if path.is_empty() || path.contains('\0') {
        return Err("`file:` names no file; write `file:/PATH`".to_owned());
    }
    let path = PathBuf::from(path);
    let prefixes = files.prefixes(&path, || prefixes(&path, files))?;
    Ok(AccessEntry::File { path, prefixes })
}

/// Reads a file that has a prefix a line.
fn prefixes(path: &Path, files: &Files) -> Read<Vec<IpNet>> {
    let content = files.get(path).map_err(str::to_owned)?.unwrap_or_default();
    let shown = quote(&path.display().to_string());
    let Ok(content) = str::from_utf8(content) else {
        return Err(format!("{shown} is not text; it has a prefix a line"));
    };
    let mut prefixes = Vec::new();
    // The first line that is wrong, and how many there are: a file of something else has millions.
    let (mut first, mut wrong) = (None, 0_usize);
    for (number, line) in content.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match prefix(line, "a prefix such as `10.0.0.0/8` or `2001:db8::/32`, or an address") {
            Ok(prefix) => prefixes.push(prefix),
            Err(rule) => {
                wrong += 1;
                first.get_or_insert((number + 1, rule));
            }
        }
        if wrong > 1_000 {
            break;
        }
    }
    let Some((number, rule)) = first else { return Ok(prefixes) };
    let rest = match wrong {
        1 => String::new(),
        2 => "; one more line is wrong".to_owned(),
        3..=1_000 => format!("; {} more lines are wrong", wrong - 1),
        _ => "; more than 1000 lines are wrong".to_owned(),
    };
    Err(format!("line {number} of {shown}: {rule}{rest}"))
}

/// Reads a prefix, or an address, which is the longest prefix. What IPv6 says of IPv4 addresses is IPv4.
fn prefix(text: &str, expected: &str) -> Read<IpNet> {
    let shown = quote(text);
    let unknown = || format!("{shown} is not {expected}");
    let (ip, length) = text.split_once('/').map_or((text, None), |(ip, length)| (ip, Some(length)));
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    if let Some(bare) = bare.filter(|bare| bare.parse::<IpAddr>().is_ok()) {
        let length = length.map_or_else(String::new, |length| format!("/{length}"));
        return Err(format!(
            "{shown} has brackets, which belong to an address with a port; write `{bare}{length}`"
        ));
    }
    let ip: IpAddr = ip.parse().map_err(|_| unknown())?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => longest,
        Some(mask) if let Some(length) = mask_length(mask).filter(|_| ip.is_ipv4()) => {
            let meant = IpNet::new(ip, length).map_err(|_| unknown())?.trunc();
            return Err(format!("{shown} has a mask instead of a length; write `{meant}`"));
        }
        Some(length) => {
            let length = decimal(length).and_then(|length| u8::try_from(length).ok());
            length.filter(|length| *length <= longest).ok_or_else(|| {
                format!("{shown} has no length from 0 to {longest}; write `{ip}/{longest}` for one address")
            })?
        }
    };
    let net = IpNet::new(ip, length).map_err(|_| unknown())?;
    if net.trunc() != net {
        let (of, meant) = (net.addr(), net.trunc());
        return Err(format!(
            "{shown} has bits behind its length; write `{meant}`, or `{of}` for one address"
        ));
    }
    Ok(canonical(net))
}

/// Returns the length of the prefix that a mask such as `255.255.0.0` stands for.
fn mask_length(mask: &str) -> Option<u8> {
    let bits = u32::from(mask.parse::<Ipv4Addr>().ok()?);
    let length = bits.leading_ones();
    (bits.count_ones() == length).then_some(length as u8)
}

/// Returns a prefix of IPv4 addresses in IPv6 (`::ffff:0:0/96`) as the IPv4 prefix that it is.
fn canonical(net: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let IpNet::V6(six) = net else { return net };
    let four = six.addr().to_ipv4_mapped().filter(|_| six.prefix_len() >= MAPPED);
    let four = four.and_then(|ip| Ipv4Net::new(ip, six.prefix_len() - MAPPED).ok());
    four.map_or(net, IpNet::V4)
}

/// Reads a rate, such as `1000/s` or `30/m`.
fn rate(node: &Node) -> Read<Rate> {
    let (text, most) = (text(node)?, limits::RATE_MAX);
    let rule = format!("{} is not a rate from 1/h to {most}/s", quote(text));
    let Some((events, unit)) = text.split_once('/') else {
        return Err(format!("{rule}; write a number with `/s`, `/m` or `/h`"));
    };
    let unit = Rate::UNITS.iter().find(|(known, _)| *known == unit);
    let events = decimal(events).and_then(NonZeroU32::new);
    let (Some((_, per)), Some(events)) = (unit, events) else {
        return Err(format!("{rule}; write a number with `/s`, `/m` or `/h`"));
    };
    let rate = Rate { events, per: *per };
    if Duration::from_secs(1).saturating_mul(events.get()) > per.saturating_mul(most) {
        return Err(rule);
    }
    Ok(rate)
}

fn burst(s: &mut Section<'_>) -> Option<NonZeroU32> {
    s.optional("burst", number(1..=limits::RATE_MAX)).and_then(NonZeroU32::new)
}

/// Returns the burst where none is written: what comes in a second.
fn burst_of(rate: Rate) -> NonZeroU32 {
    NonZeroU32::new(rate.per_second()).unwrap_or(NonZeroU32::MIN)
}

/// Reads the rate alone, or a section.
pub(super) fn rate_limit(s: &mut Section<'_>) -> Option<RateLimit> {
    if !s.is_section("rate_limit") {
        let rate = s.value("rate_limit", None, off_or(rate))?;
        return Some(RateLimit { rate, burst: burst_of(rate) });
    }
    s.section("rate_limit", |s| {
        let (rate, burst) = (s.required("rate", rate), burst(s));
        rate.map(|rate| RateLimit { rate, burst: burst.unwrap_or_else(|| burst_of(rate)) })
    })
}

/// Reads `per_source`; `off` and an absent one limit nothing.
pub(super) fn per_source(s: &mut Section<'_>) -> Option<PerSource> {
    let is_off = s.is_off("per_source");
    if is_off || !s.has("per_source") {
        return None;
    }
    s.section("per_source", |s| {
        let (most, written) = (s.optional("max_connections", limit), s.optional("rate", off_or(rate)));
        // Reported, and perhaps meant to limit something.
        let is_unfit = s.has("max_connections") && most.is_none() || s.has("rate") && written.is_none();
        let (max_connections, rate) = (most.flatten(), written.flatten());
        let burst = burst(s);
        let prefix = |most: u32| move |node: &Node| number(1..=most)(node).map(|length| length as u8);
        let rules = PerSource {
            max_connections,
            rate,
            burst: rate.map(|rate| burst.unwrap_or_else(|| burst_of(rate))),
            ipv4_prefix: s.value("ipv4_prefix", 32, prefix(32)),
            ipv6_prefix: s.value("ipv6_prefix", 64, prefix(128)),
        };
        if rate.is_none() && s.has("burst") {
            s.error_at("burst", "`burst` belongs to a rate; add `rate`, such as `50/s`, or remove it");
        }
        if rate.is_none() && max_connections.is_none() && !is_unfit {
            s.error("it limits nothing; add `max_connections`, or `rate` such as `50/s`");
        }
        Some(rules)
    })
}
