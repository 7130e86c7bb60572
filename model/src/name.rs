//! Which names objects may have.

use crate::limits::{DNS_LABEL_LEN_MAX, SECRET_NAME_LEN_MAX};

/// Why a name is refused. The texts are the ones Swarm's users know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("name must be provided")]
    Missing,
    #[error("name must be 63 characters or fewer")]
    TooLong,
    #[error("name must be valid as a DNS name component")]
    NotDns,
    #[error(
        "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]"
    )]
    NotSecretName,
}

/// Checks the name of a service or network: `[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*`, at most 63.
pub fn check_dns_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Missing);
    }
    let edges = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !(edges(name.chars().next()) && edges(name.chars().last()) && inner) {
        return Err(NameError::NotDns);
    }
    if name.len() > DNS_LABEL_LEN_MAX {
        return Err(NameError::TooLong);
    }
    Ok(())
}

/// Checks the name of a secret or config.
pub fn check_secret_name(name: &str) -> Result<(), NameError> {
    let edges = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let sound = edges(name.chars().next()) && edges(name.chars().last()) && inner;
    if sound && name.len() <= SECRET_NAME_LEN_MAX {
        Ok(())
    } else {
        Err(NameError::NotSecretName)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_swarms_rules() {
        for good in ["web", "a", "my_web-2", "A1"] {
            assert_eq!(check_dns_name(good), Ok(()), "{good}");
        }
        assert_eq!(check_dns_name(""), Err(NameError::Missing));
        assert_eq!(check_dns_name("-web"), Err(NameError::NotDns));
        assert_eq!(check_dns_name("we b"), Err(NameError::NotDns));
        assert_eq!(check_dns_name(&"a".repeat(64)), Err(NameError::TooLong));
        assert_eq!(check_secret_name("a.b-c_d"), Ok(()));
        assert_eq!(check_secret_name(".a"), Err(NameError::NotSecretName));
        assert_eq!(
            check_secret_name(&"a".repeat(65)),
            Err(NameError::NotSecretName)
        );
    }
}
