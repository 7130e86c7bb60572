//! API versions: which are spoken, and how a path names one.

use std::fmt;

use crate::status::ApiError;

/// A version of the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    pub major: u32,
    pub minor: u32,
}

impl ApiVersion {
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The oldest that is served.
    pub const MIN: Self = Self::new(1, 24);
    /// The newest that is served, and what a path without version means.
    pub const MAX: Self = Self::new(1, 50);

    fn parse(text: &str) -> Option<Self> {
        // As dockerd's router: digits and dots. What is not given is 0.
        if !text.starts_with(|c: char| c.is_ascii_digit())
            || !text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
        {
            return None;
        }
        let mut numbers = text.split('.');
        let mut next = || match numbers.next() {
            None | Some("") => 0,
            // Too long a number is newer than anything served.
            Some(digits) => digits.parse().unwrap_or(u32::MAX),
        };
        Some(Self::new(next(), next()))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Takes `/v1.xx` off the front of a path.
///
/// # Errors
/// A version that is older or newer than what is served.
pub fn split(path: &str) -> Result<(ApiVersion, &str), ApiError> {
    let versioned = path.strip_prefix("/v").and_then(|rest| {
        let (text, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Some((text, ApiVersion::parse(text)?, rest))
    });
    match versioned {
        None => Ok((ApiVersion::MAX, path)),
        Some((text, given, _)) if given < ApiVersion::MIN => Err(ApiError::invalid(format!(
            "client version {text} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            ApiVersion::MIN
        ))),
        Some((text, given, _)) if given > ApiVersion::MAX => Err(ApiError::invalid(format!(
            "client version {text} is too new. Maximum supported API version is {}",
            ApiVersion::MAX
        ))),
        Some((_, given, rest)) => Ok((given, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_and_without_version() {
        let check = |path: &str, version, rest: &str| {
            assert_eq!(split(path).unwrap(), (version, rest), "{path}");
        };
        check("/info", ApiVersion::MAX, "/info");
        check("/v1.24/info", ApiVersion::MIN, "/info");
        check(
            "/v1.41/containers/json",
            ApiVersion::new(1, 41),
            "/containers/json",
        );
        check("/volumes", ApiVersion::MAX, "/volumes");
        check("/version", ApiVersion::MAX, "/version");
    }

    #[test]
    fn too_old_and_too_new_say_what_is_served() {
        let old = split("/v1.10/info").unwrap_err();
        assert_eq!(old.status().as_u16(), 400);
        assert_eq!(
            old.message(),
            "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        for text in ["0", "1", "0.9", "1."] {
            let old = split(&format!("/v{text}/info")).unwrap_err();
            let want = format!("client version {text} is too old.");
            assert!(old.message().starts_with(&want), "{}", old.message());
        }
        let new = split("/v1.99/info").unwrap_err();
        assert_eq!(
            new.message(),
            "client version 1.99 is too new. Maximum supported API version is 1.50"
        );
    }
}
