//! Times and durations as Docker's flags and tables write them. Without a zone, a time is UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::failure::{Failure, Result};

/// A point in time with the precision of Docker's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Since 1970.
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Timestamp {
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            seconds: since.as_secs() as i64,
            nanoseconds: since.subsec_nanos(),
        }
    }

    /// As the API's `since` and `until` take it.
    pub fn to_parameter(self) -> String {
        format!("{}.{:09}", self.seconds, self.nanoseconds)
    }

    fn minus(self, duration: Duration) -> Self {
        let seconds = self.seconds - duration.as_secs() as i64;
        match self.nanoseconds.checked_sub(duration.subsec_nanos()) {
            Some(nanoseconds) => Self {
                seconds,
                nanoseconds,
            },
            None => Self {
                seconds: seconds - 1,
                nanoseconds: self.nanoseconds + 1_000_000_000 - duration.subsec_nanos(),
            },
        }
    }

    /// Reads RFC 3339, also without its zone, its time of day's parts or its fraction.
    pub fn parse(text: &str) -> Option<Self> {
        let (date, rest) = match text.find(['T', 't', ' ']) {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let mut parts = date.splitn(3, '-').map(digits);
        let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year > 9999 {
            return None;
        }
        let mut seconds = days_since_1970(year, month, day) * 86_400;
        let mut nanoseconds = 0;
        if let Some(rest) = rest {
            let zone_at = rest.find(['Z', 'z', '+', '-']);
            let (time, zone) = rest.split_at(zone_at.unwrap_or(rest.len()));
            let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
            let mut parts = time.splitn(3, ':').map(digits);
            let hour = parts.next()??;
            let minute = parts.next().unwrap_or(Some(0))?;
            let second = parts.next().unwrap_or(Some(0))?;
            if hour > 23 || minute > 59 || second > 60 {
                return None;
            }
            seconds += hour * 3600 + minute * 60 + second - zone_offset(zone)?;
            if !fraction.is_empty() {
                digits(fraction)?;
                nanoseconds = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
            }
        }
        Some(Self {
            seconds,
            nanoseconds,
        })
    }
}

fn digits(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn zone_offset(zone: &str) -> Option<i64> {
    let sign = match zone.bytes().next() {
        None | Some(b'Z' | b'z') => return (zone.len() <= 1).then_some(0),
        Some(b'-') => -1,
        Some(_) => 1,
    };
    let (hours, minutes) = zone[1..].split_once(':')?;
    Some(sign * (digits(hours)? * 3600 + digits(minutes)? * 60))
}

/// Days from 1970-01-01 in the Gregorian calendar (Hinnant, "chrono-compatible low-level date
/// algorithms", `days_from_civil`).
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Reads `--since` and `--until`: a time, seconds since 1970, or a duration before now.
pub fn parse_moment(flag: &str, text: &str, now: Timestamp) -> Result<String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if digits(whole).is_some() && digits(fraction).is_some() {
        return Ok(text.to_owned());
    }
    if let Some(duration) = parse_duration(text) {
        return Ok(now.minus(duration).to_parameter());
    }
    match Timestamp::parse(text) {
        Some(timestamp) => Ok(timestamp.to_parameter()),
        None => Err(Failure::new(format!(
            "{flag} '{text}' is no time: write it as 10m, 2026-01-31T12:00:00Z or seconds since 1970"
        ))),
    }
}

/// Reads `1m30s`, `500ms`, `1.5h`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = tail;
    }
    if text.is_empty() {
        return None;
    }
    Duration::try_from_secs_f64(total).ok()
}

/// `3 minutes`, as Docker says how long ago something was.
pub fn rough_duration(seconds: i64) -> String {
    let (count, unit) = match seconds.max(0) {
        0 => return "less than a second".to_owned(),
        s @ 1..60 => (s, "second"),
        s @ 60..3600 => (s / 60, "minute"),
        s @ 3600..172_800 => (s / 3600, "hour"),
        s @ 172_800..1_209_600 => (s / 86_400, "day"),
        s @ 1_209_600..5_184_000 => (s / 604_800, "week"),
        s @ 5_184_000..63_072_000 => (s / 2_592_000, "month"),
        s => (s / 31_536_000, "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// `3 minutes ago`; empty for a time that was never.
pub fn ago(seconds: i64) -> String {
    if seconds <= 0 {
        return String::new();
    }
    format!("{} ago", rough_duration(Timestamp::now().seconds - seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanoseconds: u32) -> Timestamp {
        Timestamp {
            seconds,
            nanoseconds,
        }
    }

    #[test]
    fn times_are_read_in_all_forms_of_rfc_3339() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", at(0, 0)),
            ("2000-02-29T12:00:00Z", at(951_825_600, 0)),
            ("2026-11-23T03:00:00.000000001Z", at(1_795_402_800, 1)),
            (
                "2026-11-23T04:00:00.5+01:00",
                at(1_795_402_800, 500_000_000),
            ),
            ("2026-11-22T22:00:00-05:00", at(1_795_402_800, 0)),
            ("2026-11-23T03:00", at(1_795_402_800, 0)),
            ("2026-11-23", at(1_795_392_000, 0)),
        ] {
            assert_eq!(Timestamp::parse(text), Some(expected), "{text}");
        }
        for wrong in [
            "",
            "x",
            "2026-13-01",
            "2026-01-01T25:00",
            "2026-01-01T00:00:00.xZ",
            "2026",
        ] {
            assert_eq!(Timestamp::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_a_time_or_a_duration_before_now() {
        let now = at(1000, 5);
        let parse = |text| parse_moment("--since", text, now);
        assert_eq!(parse("10m"), Ok("400.000000005".to_owned()));
        assert_eq!(parse("1ms"), Ok("999.999000005".to_owned()));
        assert_eq!(parse("1795402800"), Ok("1795402800".to_owned()));
        assert_eq!(parse("1970-01-01"), Ok("0.000000000".to_owned()));
        let error = parse("yesterday").expect_err("no time");
        assert!(error.message().contains("--since 'yesterday'"), "{error}");
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        for wrong in ["", "10", "s", "1x", "-1s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
        assert_eq!(rough_duration(61), "1 minute");
        assert_eq!(rough_duration(7200), "2 hours");
    }
}
