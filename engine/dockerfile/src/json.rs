//! The exec form: a JSON list of strings.

use serde_json::Value;

/// The list; `None` when the text is not one, and then it is a shell's.
pub(crate) fn list(text: &str) -> Result<Option<Vec<String>>, String> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(Value::Array(values)) = serde_json::from_str(text) else {
        return Ok(None);
    };
    values
        .into_iter()
        .map(|value| match value {
            Value::String(word) => Ok(word),
            _ => Err(
                "when using JSON array syntax, arrays must be comprised of strings only".to_owned(),
            ),
        })
        .collect::<Result<Vec<String>, String>>()
        .map(Some)
}
