//! What stands before a value with a `!`: its type, or how it is merged.
//!
//! Types are read as docker's client reads them. A tag that means nothing makes text of a scalar and
//! nothing else of a collection; the caller says so.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granit_parser::Tag;

use crate::scalar::{Resolved, resolve};
use crate::tree::{Form, MergeTag, Scalar, shown};

/// What a tag was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tagged {
    /// A type of YAML's own.
    Type,
    Merge(MergeTag),
    /// Nothing that is known here.
    Unknown,
}

/// The name of a type of YAML's own, as `int` of `!!int`.
fn type_name(tag: &Tag) -> Option<String> {
    let (handle, suffix) = tag.parts();
    let whole = format!("{handle}{suffix}");
    whole.strip_prefix("tag:yaml.org,2002:").map(str::to_owned)
}

fn merge(tag: &Tag) -> Option<MergeTag> {
    match tag.original().as_str() {
        "!reset" => Some(MergeTag::Reset),
        "!override" => Some(MergeTag::Override),
        _ => None,
    }
}

/// The tag of a list or mapping, which stays what it is.
pub(super) fn collection(tag: &Tag) -> Tagged {
    match (merge(tag), type_name(tag).as_deref()) {
        (Some(merge), _) => Tagged::Merge(merge),
        (None, Some("map" | "seq" | "set" | "str")) => Tagged::Type,
        (None, _) if tag.original() == "!" => Tagged::Type,
        (None, _) => Tagged::Unknown,
    }
}

/// Makes of a scalar what its tag says.
///
/// # Errors
/// Why its text is not of that type.
pub(super) fn scalar(tag: &Tag, scalar: &mut Scalar) -> Result<Tagged, String> {
    if let Some(merge) = merge(tag) {
        return Ok(Tagged::Merge(merge));
    }
    let name = type_name(tag);
    let Some(name) = name.as_deref() else {
        if tag.original() == "!" {
            return Ok(Tagged::Type);
        }
        scalar.form = Form::Text;
        return Ok(Tagged::Unknown);
    };
    match name {
        "int" | "float" | "bool" | "null" => {
            check(name, &scalar.text)?;
            scalar.form = Form::Plain;
        }
        "timestamp" => {
            if !is_timestamp(&scalar.text) {
                return Err(cannot(name, &scalar.text));
            }
            // The text stays: nothing here asks for a moment.
            scalar.form = Form::Text;
        }
        "binary" => *scalar = binary(&scalar.text)?,
        "merge" if scalar.text == "<<" => scalar.form = Form::Plain,
        "str" | "map" | "seq" | "set" | "merge" => scalar.form = Form::Text,
        _ => {
            scalar.form = Form::Text;
            return Ok(Tagged::Unknown);
        }
    }
    Ok(Tagged::Type)
}

fn check(name: &str, text: &str) -> Result<(), String> {
    let fits = matches!(
        (name, resolve(text)),
        ("int", Resolved::Int(_) | Resolved::Uint(_))
            | (
                "float",
                Resolved::Int(_) | Resolved::Uint(_) | Resolved::Float(_)
            )
            | ("bool", Resolved::Bool(_))
            | ("null", Resolved::Null)
    );
    fits.then_some(()).ok_or_else(|| cannot(name, text))
}

fn cannot(name: &str, text: &str) -> String {
    let found = match resolve(text) {
        Resolved::Null => "null",
        Resolved::Bool(_) => "bool",
        Resolved::Int(_) | Resolved::Uint(_) => "int",
        Resolved::Float(_) => "float",
        Resolved::Text => "str",
    };
    format!(
        "yaml: cannot decode !!{found} `{}` as a !!{name}",
        shown(text)
    )
}

fn binary(text: &str) -> Result<Scalar, String> {
    let packed: String = text.split_ascii_whitespace().collect();
    let bytes = STANDARD
        .decode(packed)
        .map_err(|_| "yaml: !!binary value contains invalid base64 data".to_owned())?;
    let text =
        String::from_utf8(bytes).map_err(|_| "the !!binary value is no UTF-8 text".to_owned())?;
    Ok(Scalar {
        text,
        form: Form::Text,
    })
}

/// A date, or a date and a time of the day.
fn is_timestamp(text: &str) -> bool {
    let end = text.find(['T', 't', ' ']).unwrap_or(text.len());
    let (date, time) = text.split_at(end);
    let number = |part: &str, lengths: &[usize], most: u32| {
        let digits = part.bytes().all(|b| b.is_ascii_digit()) && lengths.contains(&part.len());
        digits && part.parse::<u32>().is_ok_and(|number| number <= most)
    };
    let parts: Vec<&str> = date.split('-').collect();
    let is_date = matches!(parts[..], [year, month, day]
        if number(year, &[4], 9999) && number(month, &[1, 2], 12) && number(day, &[1, 2], 31));
    let is_time = time.get(1..).is_none_or(|time| {
        time.starts_with(|c: char| c.is_ascii_digit())
            && time.matches(':').count() >= 2
            && time
                .bytes()
                .all(|b| b.is_ascii_digit() || b":.+-Zz ".contains(&b))
    });
    is_date && (time.is_empty() || is_time)
}
