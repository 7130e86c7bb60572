//! The order in which docker prints the keys of a map.

use std::cmp::Ordering;

/// Compares two keys as Go's YAML printer does: numbers within them by value (`a2` before `a10`),
/// and where one has a letter and the other has not, the letter last, after digits first.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    let left: Vec<char> = a.chars().collect();
    let right: Vec<char> = b.chars().collect();
    let Some(at) = left.iter().zip(&right).position(|(a, b)| a != b) else {
        return left.len().cmp(&right.len());
    };
    let (one, other) = (left[at], right[at]);
    match (one.is_alphabetic(), other.is_alphabetic()) {
        (true, true) => return one.cmp(&other),
        (false, false) => {}
        (one_is_letter, _) => {
            let after_digits = at > 0 && left[at - 1].is_numeric();
            return if one_is_letter == after_digits {
                Ordering::Less
            } else {
                Ordering::Greater
            };
        }
    }
    let (one_value, one_end) = number(&left, at, one == '0' || other == '0');
    let (other_value, other_end) = number(&right, at, one == '0' || other == '0');
    one_value
        .cmp(&other_value)
        .then(one_end.cmp(&other_end))
        .then(one.cmp(&other))
}

/// The number whose digits begin at `at`, and where they end. Zeros within a number count: what
/// differs at a zero behind other digits is no leading zero.
fn number(text: &[char], at: usize, differs_at_zero: bool) -> (u128, usize) {
    let before = text[..at].iter().rev().take_while(|c| c.is_numeric());
    let mut value = u128::from(differs_at_zero && before.clone().any(|c| *c != '0'));
    let mut end = at;
    while let Some(digit) = text.get(end).filter(|c| c.is_numeric()) {
        let digit = digit.to_digit(10).unwrap_or(0);
        value = value.saturating_mul(10).saturating_add(digit.into());
        end += 1;
    }
    (value, end)
}

#[cfg(test)]
mod tests {
    use super::natural;

    #[test]
    fn keys_stand_as_docker_prints_them() {
        for (first, second) in [
            ("1", "2"),
            ("2", "10"),
            ("10", "A"),
            ("A", "A-B"),
            ("A2", "A10"),
            ("A1", "AB"),
            ("A_B", "AB"),
            ("EXISTS_MAPPING", "EXISTSA"),
            ("s-1", "sa"),
            ("z2", "z10"),
            ("a1b", "a1_"),
        ] {
            assert!(natural(first, second).is_lt(), "{first} {second}");
            assert!(natural(second, first).is_gt(), "{second} {first}");
        }
        assert!(natural("a1", "a1").is_eq());
    }
}
