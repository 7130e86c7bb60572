//! Functions of templates: Go's own and docker's.

use std::cmp::Ordering;

use crate::human;
use crate::json::Json;

const NAMES: [&str; 27] = [
    "and", "eq", "ge", "gt", "html", "index", "join", "js", "json", "le", "len", "lower", "lt",
    "ne", "not", "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate",
    "upper", "urlquery", "tojson",
];

/// What a template is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// An object of the API.
    Object,
    /// A row of a table.
    Row,
    /// A table's heading: functions leave the names of its columns as they are.
    Header,
}

pub fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls a function. In a table's header docker's own functions return their first argument.
pub fn call(name: &str, arguments: &[Json], how: Dialect) -> Result<Json, String> {
    let header = how == Dialect::Header;
    let argument = |index: usize| {
        arguments
            .get(index)
            .ok_or_else(|| few(name, index + 1, arguments.len()))
    };
    if header
        && matches!(
            name,
            "json" | "join" | "lower" | "upper" | "title" | "split" | "pad" | "truncate"
        )
    {
        return Ok(argument(0)?.clone());
    }
    let text = |index: usize| match argument(index)? {
        Json::Text(text) => Ok(text.as_str()),
        other => Err(format!(
            "wrong type for value; expected string; got {}",
            kind(other)
        )),
    };
    let number = |index: usize| match argument(index)? {
        Json::Number(number) => number
            .as_i64()
            .and_then(|number| usize::try_from(number).ok())
            .ok_or_else(|| "not a count".to_owned()),
        other => Err(format!(
            "wrong type for value; expected int; got {}",
            kind(other)
        )),
    };
    Ok(match name {
        "json" | "tojson" => {
            let value = argument(0)?;
            // A row is a type with its own way to JSON, which is Go's default one.
            let is_row = how == Dialect::Row && matches!(value, Json::Object(_));
            Json::Text(value.compact(is_row))
        }
        "join" => {
            let parts: Vec<String> = match argument(0)? {
                Json::List(values) => values.iter().map(show).collect(),
                Json::Null => Vec::new(),
                other => {
                    return Err(format!(
                        "wrong type for value; expected []string; got {}",
                        kind(other)
                    ));
                }
            };
            Json::Text(parts.join(text(1)?))
        }
        "split" => {
            let (whole, at) = (text(0)?, text(1)?);
            Json::List(if at.is_empty() {
                whole.chars().map(|c| Json::Text(c.to_string())).collect()
            } else {
                whole.split(at).map(Json::from).collect()
            })
        }
        "lower" => Json::Text(text(0)?.to_lowercase()),
        "upper" => Json::Text(text(0)?.to_uppercase()),
        "title" => Json::Text(title(text(0)?)),
        "pad" => match text(0)? {
            "" => Json::Text(String::new()),
            inner => Json::Text(format!(
                "{}{inner}{}",
                " ".repeat(number(1)?.min(1024)),
                " ".repeat(number(2)?.min(1024))
            )),
        },
        "truncate" => {
            let (whole, end) = (text(0)?, number(1)?);
            let mut end = end.min(whole.len());
            while !whole.is_char_boundary(end) {
                end -= 1;
            }
            Json::Text(whole[..end].to_owned())
        }
        "print" => Json::Text(print(arguments)),
        "println" => {
            let shown: Vec<String> = arguments.iter().map(show).collect();
            Json::Text(shown.join(" ") + "\n")
        }
        "printf" => Json::Text(printf(text(0)?, &arguments[1..])),
        "len" => Json::from(match argument(0)? {
            Json::Text(text) => text.len() as u64,
            Json::List(values) => values.len() as u64,
            Json::Object(fields) => fields.len() as u64,
            Json::Null => 0,
            other => return Err(format!("len of type {}", kind(other))),
        }),
        "index" => {
            let mut value = argument(0)?.clone();
            for key in &arguments[1..] {
                value = index(&value, key)?;
            }
            value
        }
        "slice" => {
            let from = if arguments.len() > 1 { number(1)? } else { 0 };
            match argument(0)? {
                Json::Text(text) => {
                    let end = if arguments.len() > 2 {
                        number(2)?
                    } else {
                        text.len()
                    };
                    Json::from(
                        text.get(from..end)
                            .ok_or_else(|| format!("index out of range: {end}"))?,
                    )
                }
                Json::List(values) => {
                    let end = if arguments.len() > 2 {
                        number(2)?
                    } else {
                        values.len()
                    };
                    Json::List(
                        values
                            .get(from..end)
                            .ok_or_else(|| format!("index out of range: {end}"))?
                            .to_vec(),
                    )
                }
                other => return Err(format!("can't slice item of type {}", kind(other))),
            }
        }
        "not" => Json::Bool(!super::eval::truth(argument(0)?)),
        "eq" => {
            let first = argument(0)?;
            argument(1)?;
            Json::Bool(
                arguments[1..]
                    .iter()
                    .any(|other| compare(first, other) == Some(Ordering::Equal)),
            )
        }
        "ne" => Json::Bool(compare(argument(0)?, argument(1)?) != Some(Ordering::Equal)),
        "lt" | "le" | "gt" | "ge" => {
            let order =
                compare(argument(0)?, argument(1)?).ok_or("incompatible types for comparison")?;
            Json::Bool(match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            })
        }
        "html" | "js" | "urlquery" => Json::Text(escape(name, &print(arguments))),
        _ => return Err(format!("{} is not a function", human::quote(name))),
    })
}

fn few(name: &str, want: usize, got: usize) -> String {
    format!("wrong number of args for {name}: want at least {want} got {got}")
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "nil",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_f64() => "float64",
        Json::Number(_) => "int",
        Json::Text(_) => "string",
        Json::List(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}

/// A value as `{{.}}` prints it: Go's `%v`.
pub fn show(value: &Json) -> String {
    match value {
        Json::Null => "<no value>".to_owned(),
        Json::Bool(value) => value.to_string(),
        Json::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => show_float(float),
            _ => number.to_string(),
        },
        Json::Text(text) => text.clone(),
        Json::List(values) => {
            let shown: Vec<String> = values.iter().map(show_inner).collect();
            format!("[{}]", shown.join(" "))
        }
        Json::Object(fields) if is_struct(fields) => {
            let shown: Vec<String> = fields
                .iter()
                .map(|(name, value)| match value {
                    Json::Null => show_null_field(name).to_owned(),
                    value => show_inner(value),
                })
                .collect();
            format!("{{{}}}", shown.join(" "))
        }
        Json::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            let shown: Vec<String> = fields
                .into_iter()
                .map(|(name, value)| format!("{name}:{}", show_inner(value)))
                .collect();
            format!("map[{}]", shown.join(" "))
        }
    }
}

/// Whether an object is one of the API's types, whose fields begin with a capital, rather than a
/// map with the user's keys.
fn is_struct(fields: &[(String, Json)]) -> bool {
    !fields.is_empty()
        && fields
            .iter()
            .all(|(name, _)| name.starts_with(|c: char| c.is_ascii_uppercase()))
}

fn show_inner(value: &Json) -> String {
    match value {
        Json::Null => "[]".to_owned(),
        other => show(other),
    }
}

fn show_float(value: f64) -> String {
    if value != 0.0 && !(1e-4..1e21).contains(&value.abs()) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}

/// How `null` prints: the daemon sends it for empty maps, empty lists and absent objects alike,
/// and only the field's name says which one it is.
pub fn show_null_field(name: &str) -> &'static str {
    match name {
        "Labels" | "Options" | "Volumes" | "ExposedPorts" | "Ports" | "PortBindings"
        | "Sysctls" | "Tmpfs" | "StorageOpt" | "DriverOpts" | "Annotations" | "Config" | "Data" => {
            "map[]"
        }
        "Init" | "OomKillDisable" | "PidsLimit" | "MemorySwappiness" | "Health" | "Healthcheck"
        | "IPAMConfig" | "CreatedAt" => "<nil>",
        _ => "[]",
    }
}

fn print(arguments: &[Json]) -> String {
    let mut out = String::new();
    for (index, value) in arguments.iter().enumerate() {
        // Go puts a space between two operands when neither is text.
        let text = |value: &Json| matches!(value, Json::Text(_));
        if index > 0 && !text(value) && !text(&arguments[index - 1]) {
            out.push(' ');
        }
        out.push_str(&show(value));
    }
    out
}

fn printf(format: &str, arguments: &[Json]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut left = false;
        let mut zeros = false;
        let mut width = 0usize;
        let mut precision: Option<usize> = None;
        while let Some(flag) = chars.next_if(|c| "-0+# ".contains(*c)) {
            left |= flag == '-';
            zeros |= flag == '0';
        }
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            width = (width * 10 + digit as usize - '0' as usize).min(1024);
        }
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = 0;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits = (digits * 10 + digit as usize - '0' as usize).min(1024);
            }
            precision = Some(digits);
        }
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = arguments.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let shown = spell(verb, value, precision);
        let missing = width.saturating_sub(shown.chars().count());
        match (left, zeros) {
            (true, _) => out.push_str(&format!("{shown}{}", " ".repeat(missing))),
            (false, true) => out.push_str(&format!("{}{shown}", "0".repeat(missing))),
            (false, false) => out.push_str(&format!("{}{shown}", " ".repeat(missing))),
        }
    }
    out
}

fn spell(verb: char, value: &Json, precision: Option<usize>) -> String {
    match (verb, value) {
        ('v', value) => show(value),
        ('s', Json::Text(text)) => precision.map_or_else(
            || text.clone(),
            |length| text.chars().take(length).collect(),
        ),
        ('s', value @ (Json::List(_) | Json::Object(_))) => show(value),
        ('q', Json::Text(text)) => human::quote(text),
        ('d', Json::Number(number)) if !number.is_f64() => number.to_string(),
        ('x', Json::Number(number)) => number
            .as_i64()
            .map(|n| format!("{n:x}"))
            .unwrap_or_default(),
        ('t', Json::Bool(value)) => value.to_string(),
        ('f', Json::Number(number)) => {
            let digits = precision.unwrap_or(6);
            number
                .as_f64()
                .map(|n| format!("{n:.digits$}"))
                .unwrap_or_default()
        }
        ('g', Json::Number(number)) => number.as_f64().map(show_float).unwrap_or_default(),
        (verb, value) => format!("%!{verb}({}={})", kind(value), show(value)),
    }
}

fn index(value: &Json, key: &Json) -> Result<Json, String> {
    match (value, key) {
        (Json::List(values), Json::Number(number)) => number
            .as_u64()
            .and_then(|index| values.get(usize::try_from(index).ok()?))
            .cloned()
            .ok_or_else(|| format!("index out of range: {number}")),
        (Json::Object(_), Json::Text(name)) => Ok(value.get(name).cloned().unwrap_or(Json::Null)),
        (Json::Text(text), Json::Number(number)) => number
            .as_u64()
            .and_then(|index| text.as_bytes().get(usize::try_from(index).ok()?))
            .map(|byte| Json::from(u64::from(*byte)))
            .ok_or_else(|| format!("index out of range: {number}")),
        (Json::Null, _) => Err("index of untyped nil".to_owned()),
        (value, _) => Err(format!("can't index item of type {}", kind(value))),
    }
}

fn compare(left: &Json, right: &Json) -> Option<Ordering> {
    match (left, right) {
        (Json::Text(left), Json::Text(right)) => Some(left.cmp(right)),
        (Json::Bool(left), Json::Bool(right)) => Some(left.cmp(right)),
        (Json::Number(left), Json::Number(right)) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Json::Null, Json::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

fn title(text: &str) -> String {
    let mut out = String::new();
    let mut start = true;
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        start = !(c.is_alphanumeric() || c == '_' || c == '\'');
    }
    out
}

fn escape(how: &str, text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match (how, c) {
            ("html", '<') => out.push_str("&lt;"),
            ("html", '>') => out.push_str("&gt;"),
            ("html", '&') => out.push_str("&amp;"),
            ("html", '\'') => out.push_str("&#39;"),
            ("html", '"') => out.push_str("&#34;"),
            ("js", '\'') => out.push_str("\\'"),
            ("js", '"') => out.push_str("\\\""),
            ("js", '\\') => out.push_str("\\\\"),
            ("js", '\n') => out.push_str("\\u000A"),
            ("js", '<' | '>' | '&' | '=') => out.push_str(&format!("\\u{:04X}", c as u32)),
            ("urlquery", c) if !(c.is_ascii_alphanumeric() || "-_.~".contains(c)) => {
                if c == ' ' {
                    out.push('+');
                } else {
                    let mut buffer = [0; 4];
                    for byte in c.encode_utf8(&mut buffer).bytes() {
                        out.push_str(&format!("%{byte:02X}"));
                    }
                }
            }
            (_, c) => out.push(c),
        }
    }
    out
}
