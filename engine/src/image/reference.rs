//! Names of images: `[registry/]path[:tag][@digest]`, with docker.io understood.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;
use crate::error::{EngineError, Result};

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library/";
/// The registry's rule, without tag and digest.
const NAME_LENGTH_MAX: usize = 255;

/// A normalised image name: `busybox` is `docker.io/library/busybox`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reference {
    domain: String,
    path: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<Digest>,
}

impl Reference {
    /// The registry's host and port as in the name (`docker.io`).
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository at the registry (`library/busybox`).
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The same name with `latest` if it has neither tag nor digest.
    pub(crate) fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    /// The same repository with this tag and no digest.
    /// The same, as a name to give an image: what reads like a digest is none.
    pub(crate) fn unambiguous(self) -> Result<Self> {
        match self.familiar_name().as_str() {
            "sha256" => Err(EngineError::invalid(
                "refusing to create an ambiguous tag using digest algorithm as name",
            )),
            _ => Ok(self),
        }
    }

    pub(crate) fn with_tag(&self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(invalid());
        }
        Ok(Self {
            tag: Some(tag.into()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository with this digest and no tag.
    pub(crate) fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository alone.
    pub(crate) fn repository(&self) -> Self {
        Self {
            tag: None,
            digest: None,
            ..self.clone()
        }
    }

    /// As people write it: `busybox`, `user/app`, `host:5000/app`.
    pub(crate) fn familiar_name(&self) -> String {
        if self.domain == DEFAULT_DOMAIN {
            self.path
                .strip_prefix(DEFAULT_NAMESPACE)
                .filter(|name| !name.contains('/'))
                .unwrap_or(&self.path)
                .to_owned()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// As people write it, with tag and digest.
    pub(crate) fn familiar(&self) -> String {
        self.familiar_name() + &self.suffix()
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}"));
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}"));
        tag.unwrap_or_default() + &digest.unwrap_or_default()
    }
}

impl fmt::Display for Reference {
    /// The full form: `docker.io/library/busybox:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(EngineError::invalid(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| invalid())?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before a slash belongs to a port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid());
        }
        let (domain, path) = split_domain(name);
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(EngineError::invalid(
                "invalid reference format: repository name must be lowercase",
            ));
        }
        if !is_domain(&domain) || !path.split('/').all(is_component) {
            return Err(invalid());
        }
        if domain.len() + 1 + path.len() > NAME_LENGTH_MAX {
            return Err(EngineError::invalid(format!(
                "invalid reference format: repository name must not be more than {NAME_LENGTH_MAX} characters"
            )));
        }
        Ok(Self {
            domain,
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

fn invalid() -> EngineError {
    EngineError::invalid("invalid reference format")
}

/// Docker's rule: the first part is a registry if it looks like a host.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            let domain = match first {
                "index.docker.io" => DEFAULT_DOMAIN,
                first => first,
            };
            (domain, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        (domain.into(), format!("{DEFAULT_NAMESPACE}{path}"))
    } else {
        (domain.into(), path.into())
    }
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Alphanumerics, separated by one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(alphanumeric)
        || !bytes.last().copied().is_some_and(alphanumeric)
    {
        return false;
    }
    component
        .split(|c: char| c.is_ascii() && alphanumeric(c as u8))
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
        })
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) => {
                return address.parse::<std::net::Ipv6Addr>().is_ok()
                    && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    port.is_none_or(is_port)
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_shown_as_people_write_them() {
        for (given, full, familiar) in [
            ("busybox", "docker.io/library/busybox", "busybox"),
            (
                "busybox:1.36",
                "docker.io/library/busybox:1.36",
                "busybox:1.36",
            ),
            ("user/app", "docker.io/user/app", "user/app"),
            ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
            (
                "index.docker.io/library/busybox",
                "docker.io/library/busybox",
                "busybox",
            ),
            ("localhost/app:x", "localhost/app:x", "localhost/app:x"),
            (
                "127.0.0.1:5000/a/b_c/d--e:v1",
                "127.0.0.1:5000/a/b_c/d--e:v1",
                "127.0.0.1:5000/a/b_c/d--e:v1",
            ),
            ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
            (
                "registry.example/o/a",
                "registry.example/o/a",
                "registry.example/o/a",
            ),
            ("library/x", "docker.io/library/x", "x"),
        ] {
            let reference: Reference = given.parse().unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
        }
    }

    #[test]
    fn a_digest_may_follow_a_tag() {
        let digest = Digest::of(b"x");
        let reference: Reference = format!("app:v1@{digest}").parse().unwrap();
        assert_eq!(reference.tag.as_deref(), Some("v1"));
        assert_eq!(reference.digest, Some(digest));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for wrong in [
            "",
            ":x",
            "a:",
            "a//b",
            "a/",
            "-a",
            "a..b",
            "a___b",
            "a_-b",
            "a b",
            "a@x",
            "a:b c",
            "host:port/a",
            "a.b:99999x/c",
            &"a".repeat(300),
            &"a".repeat(64),
        ] {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong}");
        }
        let error = "Busybox".parse::<Reference>().unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid reference format: repository name must be lowercase"
        );
    }
}
