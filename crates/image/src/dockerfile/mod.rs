//! Dockerfiles: reading them, with errors that point at the place.

use bulkhead_model::Result;

use crate::config::ContainerConfig;

pub(crate) fn apply_changes(_config: &mut ContainerConfig, changes: &[String]) -> Result<()> {
    match changes.first() {
        None => Ok(()),
        Some(change) => Err(bulkhead_model::Error::unsupported(format!(
            "change '{change}'"
        ))),
    }
}

/// How many letters have to be inserted, removed or replaced to make one text of the other.
pub(crate) fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
