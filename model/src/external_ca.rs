//! Certificate authorities outside of the cluster that sign for it, as its settings name them.

use serde_json::Value;

use crate::ControlError;

/// Authorities of one cluster. A bound on mistakes: a node that joins waits for one after the other.
const AUTHORITIES_MAX: usize = 16;

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalCa {
    /// Where requests are posted, `https://…`.
    pub url: String,
    /// The root that it signs for, PEM; empty is the present one. What is stored names it
    /// ([`pin_root`]), but for settings of before.
    pub ca_cert: String,
}

impl ExternalCa {
    /// Reads the authorities of a cluster's settings (`ExternalCAs`).
    ///
    /// # Errors
    /// A field is missing or has a value that is not offered; the text names it.
    pub fn read(given: &[Value]) -> Result<Vec<Self>, ControlError> {
        if given.len() > AUTHORITIES_MAX {
            return Err(ControlError::invalid(format!(
                "invalid external CAs (`--external-ca`): {} are too many, at most {AUTHORITIES_MAX} are asked",
                given.len()
            )));
        }
        given.iter().map(Self::read_one).collect()
    }

    fn read_one(given: &Value) -> Result<Self, ControlError> {
        let text = |key: &str| given.get(key).and_then(Value::as_str).unwrap_or_default();
        let protocol = text("Protocol");
        if !protocol.is_empty() && !protocol.eq_ignore_ascii_case("cfssl") {
            return Err(ControlError::invalid(format!(
                "invalid external CA (`--external-ca`): protocol `{protocol}` is not known, only cfssl is"
            )));
        }
        let url = text("URL");
        let host = url.strip_prefix("https://").unwrap_or_default();
        let is_sound = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && host.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_sound {
            return Err(ControlError::invalid(format!(
                "invalid external CA (`--external-ca`): url `{url}` is not one of https, such as https://ca.example:8888/api/v1/cfssl/sign"
            )));
        }
        Ok(Self {
            url: url.to_owned(),
            ca_cert: text("CACert").to_owned(),
        })
    }

    /// Whether another text means the same authority.
    pub fn is_same(&self, other: &Self) -> bool {
        self.url == other.url && same_pem(&self.ca_cert, &other.ca_cert)
    }

    /// Whether it signs for this root. `root` is PEM; `is_present` says that it is the present root of
    /// the cluster, which is meant where none is named.
    pub fn signs_for(&self, root: &str, is_present: bool) -> bool {
        match self.ca_cert.trim() {
            "" => is_present,
            own => same_pem(own, root),
        }
    }
}

/// Whether two texts hold the same PEM: programs break their lines differently.
pub fn same_pem(one: &str, other: &str) -> bool {
    let of = |text: &str| text.split_whitespace().collect::<String>();
    of(one) == of(other)
}

/// Writes down which root authorities sign for that name none, so that the next root is none of theirs:
/// the one that `known` has for an authority with the same URL, since clients may drop what they were
/// told, and else `present`, PEM.
pub fn pin_root(given: &mut [Value], known: &[Value], present: &str) {
    let mut known: Vec<&Value> = known.iter().filter(|one| !given.contains(one)).collect();
    for one in given {
        let Some(fields) = one.as_object_mut() else {
            continue;
        };
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").to_owned();
        if !text(fields.get("CACert")).trim().is_empty() {
            continue;
        }
        let same = known
            .iter()
            .position(|it| it.get("URL") == fields.get("URL"));
        let pinned = same.map_or_else(String::new, |at| text(known.remove(at).get("CACert")));
        let root = if pinned.trim().is_empty() {
            present
        } else {
            &pinned
        };
        if !root.is_empty() {
            fields.insert("CACert".to_owned(), Value::from(root));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn authorities_are_read_and_wrong_ones_are_named() {
        let read = |value: Value| ExternalCa::read(&[value]).map(|mut all| all.remove(0));
        let found =
            read(json!({"Protocol": "CFSSL", "URL": "https://ca:8888/sign", "CACert": "A\nB\n"}));
        let found = found.unwrap();
        assert_eq!(found.url, "https://ca:8888/sign");
        assert!(found.signs_for("A\r\nB", false) && !found.signs_for("A", true));
        // As Swarm, which has one protocol and one default root.
        let present = read(json!({"URL": "https://[fd00::1]/"})).unwrap();
        assert!(present.signs_for("A", true) && !present.signs_for("A", false));
        for (wrong, word) in [
            (json!({"URL": "http://ca/"}), "http://ca/"),
            (json!({"URL": "https://"}), "`https://`"),
            (json!({"URL": "https://a b"}), "https://a b"),
            (json!({}), "url"),
            (json!({"Protocol": "acme", "URL": "https://ca/"}), "acme"),
        ] {
            let refused = read(wrong).unwrap_err().message;
            assert!(
                refused.contains("--external-ca") && refused.contains(word),
                "{refused}"
            );
        }
        let many = vec![json!({"URL": "https://ca/"}); 17];
        assert!(ExternalCa::read(&many).is_err());
    }

    #[test]
    fn authorities_that_name_no_root_are_those_of_the_root_of_when_they_were_given() {
        let ca = |url: &str, root: &str| json!({"URL": url, "CACert": root});
        let pinned = |given: &[Value], known: &[Value]| {
            let mut given = given.to_vec();
            pin_root(&mut given, known, "B");
            given
        };
        assert_eq!(pinned(&[json!({"URL": "x"})], &[]), [ca("x", "B")]);
        assert_eq!(pinned(&[ca("x", "\n")], &[]), [ca("x", "B")]);
        assert_eq!(pinned(&[ca("x", "A")], &[]), [ca("x", "A")]);
        // A client that drops what it was told changes nothing.
        assert_eq!(pinned(&[ca("x", "")], &[ca("x", "A")]), [ca("x", "A")]);
        assert_eq!(pinned(&[ca("x", "")], &[ca("y", "A")]), [ca("x", "B")]);
        let both = [ca("x", "A"), ca("x", "B")];
        assert_eq!(pinned(&[ca("x", ""), ca("x", "")], &both), both);
        assert_eq!(pinned(&[ca("x", ""), ca("x", "B")], &both), both);
        // What is no authority is refused where it is read; a cluster without a root has none to name.
        assert_eq!(pinned(&[json!("x")], &[]), [json!("x")]);
        let mut given = [ca("x", "")];
        pin_root(&mut given, &[], "");
        assert_eq!(given, [ca("x", "")]);
    }
}
