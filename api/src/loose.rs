//! JSON as Go's decoder reads it, since that is what clients were tried against: the names of fields
//! are the same in upper and lower case, and `null` leaves a field as it was.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// A value that forgives what Go forgives.
pub(crate) struct Loose(pub Value);

impl<'de> Deserializer<'de> for Loose {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter().map(Loose));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Loose(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Value::Object(given) = self.0 else {
            return self.deserialize_any(visitor);
        };
        let mut fields: Vec<(String, Loose)> = Vec::with_capacity(given.len());
        for (given, value) in given.into_iter().filter(|(_, value)| !value.is_null()) {
            let is_exact = names.contains(&given.as_str());
            let name = match names.iter().find(|name| name.eq_ignore_ascii_case(&given)) {
                Some(name) if !is_exact => (*name).to_owned(),
                _ => given,
            };
            // Of two spellings of one field, the exact one counts.
            match fields.iter_mut().find(|(known, _)| *known == name) {
                Some(known) if is_exact => known.1 = Loose(value),
                Some(_) => (),
                None => fields.push((name, Loose(value))),
            }
        }
        visitor.visit_map(MapDeserializer::new(fields.into_iter()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            value => visitor.visit_some(Loose(value)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(variant) => visitor.visit_enum(Variant {
                name: variant,
                content: Value::Null,
            }),
            Value::Object(fields) => {
                let mut fields = fields.into_iter().filter(|(_, value)| !value.is_null());
                match (fields.next(), fields.next()) {
                    // Go has a field for each variant.
                    (Some((given, content)), None) => visitor.visit_enum(Variant {
                        name: match names.iter().find(|name| name.eq_ignore_ascii_case(&given)) {
                            Some(name) => (*name).to_owned(),
                            None => given,
                        },
                        content,
                    }),
                    _ => Err(Error::invalid_value(
                        Unexpected::Map,
                        &"an object with one field",
                    )),
                }
            }
            other => Loose(other).deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl IntoDeserializer<'_, Error> for Loose {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// One variant of an enum, with what it holds.
struct Variant {
    name: String,
    content: Value,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = Error;
    type Variant = Loose;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Loose), Error> {
        let name = seed.deserialize(self.name.into_deserializer())?;
        Ok((name, Loose(self.content)))
    }
}

impl<'de> VariantAccess<'de> for Loose {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Whole {
        detach_keys: String,
        count: u64,
        maybe: Option<i64>,
        parts: Vec<Part>,
        mode: Option<Mode>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Part {
        size: i32,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Mode {
        Plain,
        Global(Part),
        Replicated {
            #[serde(rename = "Replicas")]
            replicas: u64,
        },
    }

    fn read(value: Value) -> Result<Whole, Error> {
        Whole::deserialize(Loose(value))
    }

    #[test]
    fn fields_are_found_whatever_their_case_and_null_is_nothing() {
        let given = json!({"detachKeys": "x", "COUNT": 3, "maybe": null, "parts": [{"sIZE": 5}, {"Size": null}]});
        let whole = read(given).unwrap();
        assert_eq!(
            (whole.detach_keys.as_str(), whole.count, whole.maybe),
            ("x", 3, None)
        );
        assert_eq!(whole.parts, [Part { size: 5 }, Part { size: 0 }]);
        assert_eq!(read(json!({"Count": null})).unwrap(), Whole::default());
    }

    #[test]
    fn the_exact_spelling_counts_whatever_the_order() {
        for given in [r#"{"count": 1, "Count": 2}"#, r#"{"Count": 2, "count": 1}"#] {
            let value: Value = serde_json::from_str(given).unwrap();
            assert_eq!(read(value).unwrap().count, 2, "{given}");
        }
    }

    #[test]
    fn enums_are_read_through() {
        let mode = |value: Value| read(json!({"Mode": value})).unwrap().mode;
        assert_eq!(mode(json!("Plain")), Some(Mode::Plain));
        assert_eq!(
            mode(json!({"Replicated": null, "global": {"size": 1}})),
            Some(Mode::Global(Part { size: 1 }))
        );
        assert_eq!(
            mode(json!({"Replicated": {"replicas": 2}})),
            Some(Mode::Replicated { replicas: 2 })
        );
        assert!(read(json!({"Mode": {}})).is_err());
    }

    #[test]
    fn wrong_types_stay_wrong() {
        assert!(read(json!({"Count": "3"})).is_err());
        assert!(read(json!({"Parts": {}})).is_err());
        assert!(read(json!([])).is_err() || read(json!([])).unwrap() == Whole::default());
    }
}
