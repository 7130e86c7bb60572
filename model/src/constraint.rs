//! Placement constraints: `key==value` and `key!=value`, of a node or, as an addition to Swarm's, of what
//! runs on it (`service==db`).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::node::{Node, NodeRole};

/// One placement constraint (swarm.md §1.5 grammar): values compare without case, label keys
/// with case, an unknown key never matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    key: String,
    equal: bool,
    value: String,
}

/// Why text is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintParseError {
    #[error("constraint expected one operator from ==, !=")]
    NoOperator,
    #[error("key '{key}' is invalid")]
    Key { key: String },
    #[error("value '{value}' is invalid")]
    Value { value: String },
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = if self.equal { "==" } else { "!=" };
        write!(f, "{}{operator}{}", self.key, self.value)
    }
}

impl FromStr for Constraint {
    type Err = ConstraintParseError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let (key, equal, value) = match (given.split_once("=="), given.split_once("!=")) {
            (Some((key, value)), None) => (key, true, value),
            (None, Some((key, value))) => (key, false, value),
            // Both occur: the earlier one is the operator.
            (Some((key, value)), Some((other, rest))) => {
                if key.len() < other.len() {
                    (key, true, value)
                } else {
                    (other, false, rest)
                }
            }
            (None, None) => return Err(ConstraintParseError::NoOperator),
        };
        let (key, value) = (key.trim(), value.trim());
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if key.is_empty() || !key.chars().all(word) {
            return Err(ConstraintParseError::Key {
                key: key.to_owned(),
            });
        }
        let sound = |c: char| {
            word(c)
                || matches!(
                    c,
                    ':' | '*'
                        | '('
                        | ')'
                        | '?'
                        | '+'
                        | '['
                        | ']'
                        | '\\'
                        | '^'
                        | '$'
                        | '|'
                        | ' '
                        | '@'
                        | ','
                )
        };
        if value.is_empty() || !value.chars().all(sound) {
            return Err(ConstraintParseError::Value {
                value: value.to_owned(),
            });
        }
        Ok(Self {
            key: key.to_owned(),
            equal,
            value: value.to_owned(),
        })
    }
}

impl Constraint {
    /// The service that a task is to be beside of (`true`) or apart from, by name, if that is what the
    /// constraint is about.
    pub fn of_service(&self) -> Option<(&str, bool)> {
        let is_one = self.key.eq_ignore_ascii_case("service");
        is_one.then_some((self.value.as_str(), self.equal))
    }

    /// Whether `node` meets this constraint. What runs there is not the node's to say: a constraint about
    /// a service is met, and asked about when a task is placed, once.
    pub fn matches(&self, node: &Node) -> bool {
        let description = &node.description;
        let same = |actual: &str| self.value.eq_ignore_ascii_case(actual) == self.equal;
        let label = |labels: &std::collections::BTreeMap<String, String>, key: &str| {
            same(labels.get(key).map_or("", String::as_str))
        };
        let key = self.key.to_ascii_lowercase();
        match key.as_str() {
            "service" => true,
            "node.id" => same(node.id.as_str()),
            "node.hostname" => same(&description.hostname),
            "node.ip" => self.matches_address(&node.status.addr),
            "node.role" => same(match node.role {
                NodeRole::Manager => "manager",
                NodeRole::Worker => "worker",
            }),
            "node.platform.os" => same(&description.platform.os),
            "node.platform.arch" => {
                let normal = normal_architecture;
                normal(&self.value).eq_ignore_ascii_case(normal(&description.platform.architecture))
                    == self.equal
            }
            _ if key.starts_with("node.labels.") => {
                label(&node.spec.labels, &self.key["node.labels.".len()..])
            }
            _ if key.starts_with("engine.labels.") => label(
                &description.engine.labels,
                &self.key["engine.labels.".len()..],
            ),
            _ => false,
        }
    }

    fn matches_address(&self, addr: &str) -> bool {
        let Ok(actual) = addr.parse::<IpAddr>() else {
            return false;
        };
        let inside = match (self.value.parse::<IpNet>(), self.value.parse::<IpAddr>()) {
            (Ok(net), _) => net.contains(&actual),
            (_, Ok(ip)) => ip == actual,
            _ => return false,
        };
        inside == self.equal
    }
}

/// `x86_64` and `aarch64` are called `amd64` and `arm64` by images.
pub fn normal_architecture(given: &str) -> &str {
    match given {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let mut node = Node {
            id: "abc".into(),
            ..Default::default()
        };
        node.spec.labels.insert("Zone".into(), "East".into());
        node.description.hostname = "n1".into();
        node.description.platform.architecture = "x86_64".into();
        node.status.addr = "10.0.0.7".into();
        node
    }

    fn holds(text: &str) -> bool {
        text.parse::<Constraint>().unwrap().matches(&node())
    }

    #[test]
    fn values_compare_without_case_and_label_keys_with_it() {
        assert!(holds("node.hostname == N1"));
        assert!(holds("node.labels.Zone==east"));
        assert!(!holds("node.labels.zone==east"));
        assert!(holds("node.labels.missing!=x"));
        assert!(holds("node.role==worker"));
        assert!(holds("node.platform.arch==amd64"));
        assert!(holds("node.ip==10.0.0.0/24"));
        assert!(!holds("node.ip!=10.0.0.7"));
        assert!(!holds("colour==red"));
        assert!(!holds("colour!=red"));
    }

    #[test]
    fn wrong_text_says_what_is_wrong() {
        assert_eq!(
            "node.id".parse::<Constraint>(),
            Err(ConstraintParseError::NoOperator)
        );
        assert!(matches!(
            "==x".parse::<Constraint>(),
            Err(ConstraintParseError::Key { .. })
        ));
        assert!(matches!(
            "a==".parse::<Constraint>(),
            Err(ConstraintParseError::Value { .. })
        ));
    }
}
