//! What type an unquoted scalar has, and how numbers read as text.
//!
//! The rules are the ones `docker stack` reads files with: YAML 1.2 plus the octal numbers of
//! YAML 1.1 (`0440`), underscores in numbers, and no `yes`/`on` for booleans unless a boolean is
//! asked for.

/// The type of a scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Resolved {
    Null,
    Bool(bool),
    Int(i64),
    /// One that is too large for the former.
    Uint(u64),
    Float(f64),
    /// The scalar's own text.
    Text,
}

/// The type of an unquoted scalar.
pub(crate) fn resolve(text: &str) -> Resolved {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Resolved::Null,
        "true" | "True" | "TRUE" => return Resolved::Bool(true),
        "false" | "False" | "FALSE" => return Resolved::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Resolved::Float(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Resolved::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Resolved::Float(f64::NAN),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Resolved::Text;
    }
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    if let Some(number) = integer(&plain) {
        return number;
    }
    if is_decimal(&plain)
        && let Ok(number) = plain.parse::<f64>()
        && number.is_finite()
    {
        return Resolved::Float(number);
    }
    Resolved::Text
}

/// An integer with `0x`, `0o`, `0b` or a leading `0` (octal) for other bases.
fn integer(text: &str) -> Option<Resolved> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let based = |prefix: &[&str]| prefix.iter().find_map(|p| digits.strip_prefix(p));
    let (radix, digits) = if let Some(rest) = based(&["0x", "0X"]) {
        (16, rest)
    } else if let Some(rest) = based(&["0o", "0O"]) {
        (8, rest)
    } else if let Some(rest) = based(&["0b", "0B"]) {
        (2, rest)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    let signed = i128::from(magnitude) * if negative { -1 } else { 1 };
    match (i64::try_from(signed), negative) {
        (Ok(number), _) => Some(Resolved::Int(number)),
        (Err(_), false) => Some(Resolved::Uint(magnitude)),
        (Err(_), true) => None,
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let sound_mantissa = match mantissa.split_once('.') {
        Some((whole, fraction)) => {
            digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty())
        }
        None => !mantissa.is_empty() && digits(mantissa),
    };
    let sound_exponent = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    sound_mantissa && sound_exponent
}

/// Reads a boolean the way compose files spell it.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "on" => Some(true),
        "n" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// A number as Go prints it: shortest form, an exponent from a million on and below 1e-4.
pub(crate) fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific
        .split_once('e')
        .expect("{:e} always prints an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent of an f64 fits");
    if number != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{mantissa}e{sign}{:02}", exponent.abs())
    } else {
        format!("{number}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unquoted_scalars_have_the_types_docker_gives_them() {
        use Resolved::*;
        let cases = [
            ("", Null),
            ("~", Null),
            ("null", Null),
            ("true", Bool(true)),
            ("FALSE", Bool(false)),
            ("yes", Text),
            ("on", Text),
            ("0440", Int(288)),
            ("0o440", Int(288)),
            ("0x1f", Int(31)),
            ("0b11", Int(3)),
            ("-010", Int(-8)),
            ("1_000", Int(1000)),
            ("+5", Int(5)),
            ("9223372036854775807", Int(i64::MAX)),
            ("9223372036854775808", Uint(9_223_372_036_854_775_808)),
            ("18446744073709551616", Float(18_446_744_073_709_551_616.0)),
            ("-9223372036854775809", Float(-9_223_372_036_854_775_809.0)),
            ("1e400", Text),
            ("08", Float(8.0)),
            ("1.50", Float(1.5)),
            (".5", Float(0.5)),
            ("1e3", Float(1000.0)),
            ("1.", Float(1.0)),
            ("-.inf", Float(f64::NEG_INFINITY)),
            (".", Text),
            ("-", Text),
            ("+", Text),
            ("0x", Text),
            ("0x-1", Text),
            ("1e", Text),
            ("1.2.3", Text),
            ("10s", Text),
            ("1:30", Text),
            ("-+1", Text),
        ];
        for (text, wanted) in cases {
            assert_eq!(resolve(text), wanted, "{text}");
        }
    }

    #[test]
    fn numbers_read_as_go_prints_them() {
        for (number, wanted) in [
            (1.5, "1.5"),
            (1000.0, "1000"),
            (999_999.5, "999999.5"),
            (1_234_567.5, "1.2345675e+06"),
            (1e20, "1e+20"),
            (1e21, "1e+21"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.0, "0"),
            (-2.25, "-2.25"),
        ] {
            assert_eq!(float_text(number), wanted);
        }
    }
}
