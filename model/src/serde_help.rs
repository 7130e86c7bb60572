//! Small serde adapters for the habits of Go clients.

use serde::{Deserialize, Deserializer, Serializer};

/// Reads `null` as the type's default: Go clients send `null` for empty lists and maps.
pub fn null_default<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(input)?.unwrap_or_default())
}

/// Whether a number is zero, for fields that Go marks `omitempty`.
pub fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A fraction as Go prints it: a whole number has no point.
pub fn go_float<S: Serializer>(value: &f32, out: S) -> Result<S::Ok, S::Error> {
    match *value {
        whole if whole.fract() == 0.0 && whole.abs() < 1e9 => out.serialize_i64(whole as i64),
        other => out.serialize_f32(other),
    }
}

/// Bytes as standard base64 text, the way Go prints `[]byte`.
pub mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
        let text = Option::<String>::deserialize(input)?.unwrap_or_default();
        STANDARD
            .decode(text.as_bytes())
            .map_err(|error| D::Error::custom(format!("illegal base64 data: {error}")))
    }
}
