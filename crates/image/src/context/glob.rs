/// Whether one component of a path fits a pattern of `*`, `?`, `[a-z]`, `[^a]` and `\c`.
pub(crate) fn matches_component(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = if t < text.len() {
            one(&pattern[p..], text[t])
        } else {
            None
        };
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(length) = step {
            p += length;
            t += 1;
        } else if p == pattern.len() && t == text.len() {
            return true;
        } else if let Some((star_p, star_t)) = star
            && star_t < text.len()
        {
            // The star takes one more byte.
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
}

/// How much of the pattern's start fits the byte; `None` if it does not fit.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        b'[' => {
            let negated = matches!(pattern.get(1), Some(b'^' | b'!'));
            let mut at = 1 + usize::from(negated);
            let mut found = false;
            let mut first = true;
            loop {
                let low = *pattern.get(at)?;
                if low == b']' && !first {
                    return (found != negated).then_some(at + 1);
                }
                first = false;
                let high = match (pattern.get(at + 1), pattern.get(at + 2)) {
                    (Some(b'-'), Some(high)) if *high != b']' => {
                        at += 2;
                        *high
                    }
                    _ => low,
                };
                found |= (low..=high).contains(&byte);
                at += 1;
            }
        }
        other => (*other == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_match_as_in_go() {
        for (pattern, text, expected) in [
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "ab", false),
            ("*.js", "a.js", true),
            ("*.js", ".js", true),
            ("?", "", false),
            ("??", "ab", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[", "[", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("", "", true),
            ("a**b", "ab", true),
            ("*a*b*c", "xaybzc", true),
        ] {
            assert_eq!(
                matches_component(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }
}
