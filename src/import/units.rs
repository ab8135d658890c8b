//! Times and numbers of the other programs, and durations of ours.

/// A number of milliseconds; 0 is often "no limit".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Millis(pub(super) u64);

impl Millis {
    /// Returns the time as the configuration writes it.
    pub(super) fn text(self) -> String {
        let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let fits = units.iter().find(|(_, factor)| self.0.is_multiple_of(*factor) && self.0 > 0);
        let (unit, factor) = fits.copied().unwrap_or(("ms", 1));
        format!("{}{unit}", self.0 / factor)
    }

    /// Returns the time as the configuration writes it, where 0 is no limit.
    pub(super) fn text_or_off(self) -> String {
        if self.0 == 0 { "off".to_owned() } else { self.text() }
    }

    pub(super) fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Reads a time of HAProxy: a number with us, ms, s, m, h, d or, for milliseconds, without a unit.
pub(super) fn haproxy_time(text: &str) -> Option<Millis> {
    let (number, unit) = number_and_unit(text)?;
    let millis = match unit {
        "" | "ms" => number,
        "us" => number.div_ceil(1_000),
        "s" => number.saturating_mul(1_000),
        "m" => number.saturating_mul(60_000),
        "h" => number.saturating_mul(3_600_000),
        "d" => number.saturating_mul(86_400_000),
        _ => return None,
    };
    Some(Millis(millis))
}

/// Reads a time of nginx: numbers with y, M, w, d, h, m, s, ms or, for seconds, without a unit.
pub(super) fn nginx_time(text: &str) -> Option<Millis> {
    let mut total = 0_u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        let behind = &rest[digits..];
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let factor = match &behind[..letters] {
            "ms" => 1,
            "" | "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "M" => 30 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return None,
        };
        total = total.saturating_add(number.saturating_mul(factor));
        rest = behind[letters..].trim_start();
    }
    Some(Millis(total))
}

/// Reads a size of nginx as bytes.
pub(super) fn nginx_size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    match unit {
        "" => Some(number),
        "k" | "K" => number.checked_mul(1 << 10),
        "m" | "M" => number.checked_mul(1 << 20),
        _ => None,
    }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

/// Returns the time for all attempts together that the other program would take at most, if it is more than
/// the default of `timeouts.establish`, which would cut it short.
pub(super) fn establish(
    connect: Option<Millis>,
    retries: Option<u64>,
    queue: Option<Millis>,
) -> Option<Millis> {
    const DEFAULT: Millis = Millis(15_000);
    let connect = connect.unwrap_or(Millis(5_000)).times(retries.unwrap_or(2).saturating_add(1));
    let all = connect.plus(queue.unwrap_or(Millis(0)));
    (all > DEFAULT).then_some(all)
}
