//! What a misspelt word was probably meant to be, for messages about it.

/// The word of `known` that `word` was probably meant to be.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    if length > 64 {
        return None;
    }
    let allowed = match length {
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (edit_distance(&lower, candidate), candidate))
        // More changes than half of the letters is another word.
        .filter(|(distance, candidate)| {
            *distance <= allowed && distance * 2 <= candidate.chars().count().max(length)
        })
        .min_by_key(|(distance, candidate)| {
            let first_differs = candidate.chars().next() != lower.chars().next();
            (*distance, first_differs)
        })
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours that make `left` into `right`.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (row, from) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, to) in right.iter().enumerate() {
            let mut cost = (last[column] + usize::from(from != to))
                .min(last[column + 1] + 1)
                .min(current[column] + 1);
            let swapped = row > 0
                && column > 0
                && *from == right[column - 1]
                && left[row - 1] == *to
                && from != to;
            if swapped {
                let diagonal: &Vec<usize> = &before_last;
                cost = cost.min(diagonal[column - 1] + 1);
            }
            current.push(cost);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_its_meaning() {
        let known = [
            "command",
            "container_name",
            "ports",
            "expose",
            "image",
            "init",
        ];
        assert_eq!(closest("comand", known), Some("command"));
        assert_eq!(closest("imgae", known), Some("image"));
        assert_eq!(closest("Ports", known), Some("ports"));
        assert_eq!(closest("zebra", known), None);
        assert_eq!(closest("", known), None);
    }
}
