//! Processor counts: `0.5`, `2`, `1/4`.

use skep_model::NanoCpus;

/// Why text is no processor count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CpusError {
    #[error("failed to parse {given} as a rational number")]
    Number { given: String },
    #[error("value is too precise")]
    TooPrecise,
}

/// Reads a processor count, exact to a billionth.
pub(crate) fn parse(text: &str) -> Result<NanoCpus, CpusError> {
    let wrong = || CpusError::Number {
        given: text.to_owned(),
    };
    let (above, below) = match text.split_once('/') {
        Some((above, below)) => (
            above.parse::<u32>().map_err(|_| wrong())?.to_string(),
            below.parse::<u32>().map_err(|_| wrong())?,
        ),
        None => (text.to_owned(), 1),
    };
    if below == 0 {
        return Err(wrong());
    }
    let (whole, fraction) = above.split_once('.').unwrap_or((&above, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(wrong());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err(CpusError::TooPrecise);
    }
    let whole: i128 = match whole {
        "" => 0,
        digits => digits.parse::<u32>().map_err(|_| wrong())?.into(),
    };
    let part: i128 = match fraction {
        "" => 0,
        digits => format!("{digits:0<9}").parse().map_err(|_| wrong())?,
    };
    let nanos = whole * 1_000_000_000 + part;
    if nanos % i128::from(below) != 0 {
        return Err(CpusError::TooPrecise);
    }
    i64::try_from(nanos / i128::from(below))
        .map(NanoCpus)
        .map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_counts_are_read() {
        for (text, nanos) in [
            ("0.5", 500_000_000),
            ("2", 2_000_000_000),
            (".25", 250_000_000),
            ("1/4", 250_000_000),
            ("0.000000001", 1),
            ("1.0000000000", 1_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(NanoCpus(nanos)), "{text}");
        }
        assert_eq!(parse("0.0000000001"), Err(CpusError::TooPrecise));
        assert_eq!(parse("1/3"), Err(CpusError::TooPrecise));
        for wrong in ["", ".", "x", "-1", "1/0", "1.2.3", "99999999999"] {
            assert!(
                matches!(parse(wrong), Err(CpusError::Number { .. })),
                "{wrong}"
            );
        }
    }
}
