//! What a misspelt word may have meant.

/// The known word nearest to `given`, if one is near.
pub(crate) fn nearest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    let limit = 1 + given.chars().count() / 4;
    let flat = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
    known
        .iter()
        .map(|word| (distance(&flat(given), &flat(word)), *word))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, word)| word)
}

/// Letters to insert, remove or change to get from one word to the other.
fn distance(one: &str, other: &str) -> usize {
    // Keys are short; what is longer is no misspelling.
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["image", "environment", "stop_grace_period", "tty"];
        assert_eq!(nearest("imagee", &known), Some("image"));
        assert_eq!(nearest("enviroment", &known), Some("environment"));
        assert_eq!(
            nearest("stop-grace-period", &known),
            Some("stop_grace_period")
        );
        assert_eq!(
            nearest("stopGracePeriod", &known),
            Some("stop_grace_period")
        );
        assert_eq!(nearest("colour", &known), None);
    }
}
