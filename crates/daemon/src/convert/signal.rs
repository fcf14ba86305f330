use bulkhead_model::{Error, Result};

const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Reads a signal: a number, or a name with or without `SIG`, in either case; `RTMIN+3` too.
///
/// # Errors
/// `InvalidInput` if there is no such signal.
pub(crate) fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || Error::invalid(format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let offset = |rest: &str| {
        rest.get(1..)
            .unwrap_or("0")
            .parse::<i32>()
            .map_err(|_| unknown())
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() { 0 } else { offset(rest)? };
        return if (0..=30).contains(&offset) {
            Ok(34 + offset)
        } else {
            Err(unknown())
        };
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset = if rest.is_empty() { 0 } else { offset(rest)? };
        return if (0..=30).contains(&offset) {
            Ok(64 - offset)
        } else {
            Err(unknown())
        };
    }
    Err(unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGKILL", 9),
            ("sigint", 2),
            ("37", 37),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
        ] {
            assert_eq!(parse_signal(text).expect(text), number);
        }
        for wrong in ["", "0", "65", "SIGFOO", "RTMIN+31", "-9"] {
            assert!(parse_signal(wrong).is_err(), "{wrong}");
        }
    }
}
