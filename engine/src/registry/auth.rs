//! How a registry asks who we are, and the tokens it is told to be satisfied with.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::options::RegistryAuth;

/// A `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: String,
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads the header; `None` for schemes we do not know.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest);
        Some(Self::Bearer {
            realm: parameters.remove("realm")?,
            service: parameters.remove("service").unwrap_or_default(),
            scope: parameters.remove("scope"),
        })
    }
}

/// `a="b",c=d`, where quoted values may hold commas.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ']).to_ascii_lowercase();
        let value;
        if let Some(quoted) = after.strip_prefix('"') {
            let Some((inside, after)) = quoted.split_once('"') else {
                break;
            };
            (value, rest) = (inside, after);
        } else {
            (value, rest) = after.split_once(',').unwrap_or((after, ""));
        }
        found.insert(key, value.trim().to_owned());
    }
    found
}

/// The `Authorization` of a user name and password; `None` without them.
pub(super) fn basic(auth: &RegistryAuth) -> Option<String> {
    if auth.username.is_empty() {
        return None;
    }
    let pair = format!("{}:{}", auth.username, auth.password);
    Some(format!("Basic {}", STANDARD.encode(pair)))
}

/// A token server's answer.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl TokenAnswer {
    /// The token, under whichever of the two names.
    pub(super) fn into_token(self) -> Option<String> {
        [self.token, self.access_token]
            .into_iter()
            .find(|token| !token.is_empty())
    }
}

/// The URL of a token for this scope.
pub(super) fn token_url(realm: &str, service: &str, scope: &str, account: &str) -> String {
    let mut url = realm.to_owned();
    let mut separator = if realm.contains('?') { '&' } else { '?' };
    for (key, value) in [("service", service), ("scope", scope), ("account", account)] {
        if !value.is_empty() {
            url.push(separator);
            url.push_str(key);
            url.push('=');
            url.push_str(&percent(value));
            separator = '&';
        }
    }
    url
}

/// Percent-encodes a query value.
pub(super) fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        assert_eq!(
            Challenge::parse(
                r#"Bearer realm="https://auth.test/token",service="reg.test",scope="repository:a/b:pull,push""#
            ),
            Some(Challenge::Bearer {
                realm: "https://auth.test/token".into(),
                service: "reg.test".into(),
                scope: Some("repository:a/b:pull,push".into()),
            })
        );
        assert_eq!(Challenge::parse("basic realm=x"), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Digest realm=x"), None);
        assert_eq!(Challenge::parse("Bearer service=x"), None);
    }

    #[test]
    fn a_token_url_is_encoded() {
        assert_eq!(
            token_url("https://a.test/t", "r.test", "repository:a/b:pull", ""),
            "https://a.test/t?service=r.test&scope=repository%3Aa%2Fb%3Apull"
        );
    }
}
