//! `--placement-pref` and `--generic-resource`.

use skep_model::placement::{PlacementPreference, SpreadOver};
use skep_model::resources::GenericResource;

use crate::human;

/// `spread=node.labels.zone`.
pub fn preference(value: &str) -> Result<PlacementPreference, String> {
    match value.split_once('=') {
        Some(("spread", over)) if !over.is_empty() => Ok(PlacementPreference {
            spread: SpreadOver {
                spread_descriptor: over.to_owned(),
            },
        }),
        Some((strategy, over)) if !strategy.is_empty() && !over.is_empty() => Err(format!(
            "unsupported placement preference {strategy} (only spread is supported)"
        )),
        _ => Err("placement preference must be of the format \"<strategy>=<arg>\"".to_owned()),
    }
}

/// `gpu=2`.
pub fn generic_resource(value: &str) -> Result<GenericResource, String> {
    let (kind, count) = value
        .split_once('=')
        .filter(|(kind, count)| !kind.is_empty() && !count.is_empty())
        .ok_or_else(|| {
            format!("invalid generic-resource format `{value}` expected `name=value`")
        })?;
    match count.parse::<i64>() {
        Ok(count) if count >= 0 => Ok(GenericResource::Discrete {
            kind: kind.to_owned(),
            value: count,
        }),
        Ok(_) => Err(format!(
            "invalid generic-resource request `{value}`, the count must not be negative"
        )),
        Err(_) => Err(format!(
            "invalid generic-resource request `{value}`, Named Generic Resources is not supported for service create or update"
        )),
    }
}

/// The kind that `--generic-resource-rm` names.
pub fn generic_kind(value: &str) -> Result<String, String> {
    if value.is_empty() || value.contains('=') {
        return Err(format!(
            "invalid generic-resource format {} expected `name`",
            human::quote(value)
        ));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_and_resources() {
        assert_eq!(
            preference("spread=node.labels.zone")
                .unwrap()
                .spread
                .spread_descriptor,
            "node.labels.zone"
        );
        assert!(
            preference("x")
                .unwrap_err()
                .starts_with("placement preference must be")
        );
        assert_eq!(
            preference("a=b").unwrap_err(),
            "unsupported placement preference a (only spread is supported)"
        );
        assert_eq!(
            generic_resource("gpu=2").unwrap(),
            GenericResource::Discrete {
                kind: "gpu".to_owned(),
                value: 2
            }
        );
        assert_eq!(
            generic_resource("x").unwrap_err(),
            "invalid generic-resource format `x` expected `name=value`"
        );
        assert!(generic_resource("gpu=one").is_err());
    }
}
