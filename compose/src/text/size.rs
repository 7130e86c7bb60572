//! Sizes in bytes: `64m`, `1.5GiB`, `512`.

/// Why text is no size. The texts are the ones docker's users know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    #[error("invalid size: '{given}'")]
    Number { given: String },
    #[error("invalid suffix: '{given}'")]
    Suffix { given: String },
}

/// Reads a size; units are powers of 1024 (`k`, `m`, `g`, `t`, `p`, with or without `b`/`ib`).
pub(crate) fn parse(text: &str) -> Result<i64, SizeError> {
    let number_error = || SizeError::Number {
        given: text.to_owned(),
    };
    let end = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.')
        .ok_or_else(number_error)?
        + 1;
    let (number, suffix) = text.split_at(end);
    // One space may stand between number and unit.
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix);
    if number.starts_with(['+', '-'])
        || number.contains(|c: char| !(c.is_ascii_digit() || c == '.'))
    {
        return Err(number_error());
    }
    let value: f64 = number.parse().map_err(|_| number_error())?;
    let suffix_error = || SizeError::Suffix {
        given: suffix.to_owned(),
    };
    let lower = suffix.to_ascii_lowercase();
    let unit: f64 = match lower
        .strip_suffix("ib")
        .or(lower.strip_suffix('b'))
        .unwrap_or(&lower)
    {
        "" if lower == "ib" => return Err(suffix_error()),
        "" => 1.0,
        "k" => 1024.0,
        "m" => 1024.0_f64.powi(2),
        "g" => 1024.0_f64.powi(3),
        "t" => 1024.0_f64.powi(4),
        "p" => 1024.0_f64.powi(5),
        _ => return Err(suffix_error()),
    };
    let bytes = value * unit;
    if bytes < 9.2e18 {
        Ok(bytes as i64)
    } else {
        Err(number_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("512", 512),
            ("512b", 512),
            ("50M", 50 << 20),
            ("20mb", 20 << 20),
            ("1.5GiB", 3 << 29),
            ("1 k", 1024),
            ("2TB", 2 << 40),
            ("0", 0),
            (".5k", 512),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in [
            "",
            "m",
            "-5m",
            "5x",
            "5 mm",
            "1.2.3",
            "5ib",
            "99999999p",
            "1e3",
            "5  m",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
