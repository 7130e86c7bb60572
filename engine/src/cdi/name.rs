//! `vendor.com/class=device`.

use std::fmt;
use std::str::FromStr;

/// The name of a device among those of all vendors.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QualifiedName {
    /// Vendor and class: `vendor.com/class`.
    pub(super) kind: String,
    pub(super) device: String,
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl FromStr for QualifiedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, device) = text
            .split_once('=')
            .ok_or_else(|| format!("unqualified device {text:?}, missing vendor"))?;
        let invalid = |why| format!("invalid device {text:?}: {why}");
        check_kind(kind).map_err(invalid)?;
        check_device(device).map_err(invalid)?;
        Ok(Self {
            kind: kind.to_owned(),
            device: device.to_owned(),
        })
    }
}

/// Checks `vendor/class`: each begins with a letter, ends with a letter or digit, and has
/// besides these only `_`, `-` and `.`.
pub(super) fn check_kind(kind: &str) -> Result<(), String> {
    let (vendor, class) = kind
        .split_once('/')
        .filter(|(vendor, class)| !vendor.is_empty() && !class.is_empty())
        .ok_or_else(|| format!("unqualified kind {kind:?}: want vendor/class"))?;
    for (what, name) in [("vendor", vendor), ("class", class)] {
        if !name.starts_with(|letter: char| letter.is_ascii_alphabetic()) {
            return Err(format!(
                "invalid {what}. {name:?}, should start with letter"
            ));
        }
        check_rest(name, "_-.").map_err(|why| format!("invalid {what}. {why}"))?;
    }
    Ok(())
}

/// Checks the name of one device, which may begin with a digit and have colons too.
pub(super) fn check_device(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("invalid (empty) device name".into());
    }
    if !name.starts_with(|letter: char| letter.is_ascii_alphanumeric()) {
        return Err(format!(
            "invalid name {name:?}, should start with a letter or digit"
        ));
    }
    check_rest(name, "_-.:")
}

fn check_rest(name: &str, signs: &str) -> Result<(), String> {
    if let Some(wrong) = name
        .chars()
        .find(|&letter| !letter.is_ascii_alphanumeric() && !signs.contains(letter))
    {
        return Err(format!("invalid character '{wrong}' in name {name:?}"));
    }
    if !name.ends_with(|letter: char| letter.is_ascii_alphanumeric()) {
        return Err(format!("{name:?}, should end with a letter or digit"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_interface_allows() {
        for good in ["v.com/c=d", "v/c=0", "a-b_c.d/x=GPU:1:2"] {
            let name: QualifiedName = good.parse().unwrap();
            assert_eq!(name.to_string(), good);
        }
        for bad in [
            "", "v", "v/c", "v/c=", "/c=d", "v/=d", "1v/c=d", "v./c=d", "v/c-=d", "v/c=-d",
            "v/c=d:", "v/c=a b", "v/c=a=b", "/dev/x=y",
        ] {
            assert!(bad.parse::<QualifiedName>().is_err(), "{bad}");
        }
    }
}
