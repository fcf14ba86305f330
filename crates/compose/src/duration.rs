//! Durations as Compose writes them (`1m30s`), which is Go's form.

use std::time::Duration;

/// Nanoseconds in each unit; the longer name first where one begins with the other.
const UNITS: [(&str, u128); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

/// Reads `90s`, `1m30s`, `1.5h`, `0`; `None` if the text is no such duration or does not fit.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let name_length = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (name, tail) = tail.split_at(name_length);
        let unit = UNITS.iter().find(|(unit, _)| *unit == name)?.1;
        nanoseconds = nanoseconds.checked_add(scale(number, unit)?)?;
        rest = tail;
    }
    let nanoseconds = u64::try_from(nanoseconds).ok()?;
    (!text.is_empty()).then(|| Duration::from_nanos(nanoseconds))
}

/// `number` (with or without a fraction) times `unit`.
fn scale(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > 18 || fraction.len() > 18 {
        return None;
    }
    let mut total = match whole {
        "" => 0,
        digits => digits.parse::<u128>().ok()? * unit,
    };
    if !fraction.is_empty() {
        let power = 10u128.pow(fraction.len() as u32);
        total += fraction.parse::<u128>().ok()? * unit / power;
    }
    Some(total)
}

/// Writes what [`parse`] reads.
pub(crate) fn format(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for name in ["h", "m", "s", "ms", "us", "ns"] {
        let unit = UNITS
            .iter()
            .find(|(unit, _)| *unit == name)
            .map_or(1, |(_, nanoseconds)| *nanoseconds);
        if rest >= unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(parse("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(parse(".5s"), Some(Duration::from_millis(500)));
        assert_eq!(parse("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(parse("0"), Some(Duration::ZERO));
        for wrong in [
            "",
            "10",
            "s",
            "-1s",
            "1x",
            "1.2.3s",
            "10 s",
            "99999999999999999w",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["1m30s", "100ms", "2h", "1s500ms", "0s", "3us", "7ns"] {
            assert_eq!(format(parse(text).expect(text)), text);
        }
    }
}
