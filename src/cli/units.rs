//! Numbers as people read them: three figures and a unit.

use std::time::Duration;

const SECOND: f64 = 1.0;
const MINUTE: f64 = 60.0;
const HOUR: f64 = 3_600.0;

/// Formats a count, with a comma between thousands: `12,345`.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats how often something happens a second: `0`, `0.4`, `12`, `12,345`.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate <= 0.0 => "0".to_owned(),
        rate if rate < 0.1 => "<0.1".to_owned(),
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate => count(rate.round() as u64),
    }
}

/// Formats bytes, or bytes a second: `512 B`, `1.5 KiB`, `12.3 MiB`.
pub(super) fn bytes(bytes: f64) -> String {
    let mut value = bytes.max(0.0);
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would be rounded to 1,024 already is one of the next unit.
    for next in units {
        if value < 1_023.5 {
            break;
        }
        (value, unit) = (value / 1_024.0, next);
    }
    format!("{} {unit}", three_figures(value, unit != "B"))
}

/// Formats a measured duration: `85 us`, `1.2 ms`, `850 ms`, `2.5 s`, `12 min`, `3.5 h`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match seconds {
        s if s < 0.000_999_5 => (s * 1e6, "us"),
        s if s < 0.999_5 => (s * 1e3, "ms"),
        s if s < 99.95 => (s / SECOND, "s"),
        s if s < 99.95 * MINUTE => (s / MINUTE, "min"),
        s => (s / HOUR, "h"),
    };
    format!("{} {unit}", three_figures(value, unit != "us"))
}

/// Formats how long something exists already: `3.2 s`, `12 min 3 s`, `4 h 12 min`, `3 d 4 h`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{:.1} s", span.as_secs_f64()),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Formats with a decimal below 100, if `decimals` allows; a zero behind the point is left out.
fn three_figures(value: f64, decimals: bool) -> String {
    if !decimals || value >= 99.95 {
        return format!("{value:.0}");
    }
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_a_comma_between_thousands() {
        let texts = [0, 999, 1_000, 12_345, 1_234_567].map(count);
        assert_eq!(texts, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }

    #[test]
    fn rates_show_that_little_is_not_nothing() {
        let texts = [-1.0, 0.0, 0.01, 0.44, 9.94, 9.96, 12_345.4].map(rate);
        assert_eq!(texts, ["0", "0", "<0.1", "0.4", "9.9", "10", "12,345"]);
    }

    #[test]
    fn bytes_have_three_figures_and_a_unit() {
        let texts = [0.0, 512.0, 1_023.9, 1_536.0, 12.34 * 1_048_576.0, 1e18].map(bytes);
        assert_eq!(texts, ["0 B", "512 B", "1 KiB", "1.5 KiB", "12.3 MiB", "888 PiB"]);
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        let texts = [0, 85, 999, 1_000, 1_250, 850_000, 2_500_000, 720_000_000, 12_600_000_000];
        let texts = texts.map(|micros| duration(Duration::from_micros(micros)));
        assert_eq!(
            texts,
            ["0 us", "85 us", "999 us", "1 ms", "1.2 ms", "850 ms", "2.5 s", "12 min", "3.5 h"]
        );
    }

    #[test]
    fn spans_have_two_units() {
        let texts = [3, 723, 15_120, 273_600].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(texts, ["3.0 s", "12 min 3 s", "4 h 12 min", "3 d 4 h"]);
    }
}
