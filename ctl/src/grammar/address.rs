//! Addresses, host names and DNS domains in flags.

use std::net::IpAddr;

use crate::human;

/// An IP address, kept as text.
pub fn ip(value: &str) -> Result<String, String> {
    match value.trim().parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("IP address is not correctly formatted: {value}")),
    }
}

/// A DNS search domain; `.` means none.
pub fn search_domain(value: &str) -> Result<String, String> {
    let domain = value.trim_matches(' ');
    if domain == "." {
        return Ok(domain.to_owned());
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let bare = domain.strip_suffix('.').unwrap_or(domain);
    if domain.len() <= 255
        && bare.split('.').all(label)
        && bare.chars().any(|c| c.is_ascii_alphabetic())
    {
        Ok(domain.to_owned())
    } else {
        Err(format!("{value} is not a valid domain"))
    }
}

/// `name:ip` or `name=ip` of `--add-host` and `--host`, as `name:ip`.
pub fn extra_host(value: &str) -> Result<String, String> {
    let (name, address) = value
        .split_once('=')
        .or_else(|| value.split_once(':'))
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("bad format for add-host: {}", human::quote(value)))?;
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    // The daemon knows what `host-gateway` is.
    if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(format!(
            "invalid IP address in add-host: {}",
            human::quote(address)
        ));
    }
    Ok(format!("{name}:{bare}"))
}

/// `name:ip` as a line of /etc/hosts.
pub fn hosts_line(host: &str) -> String {
    match host.split_once(':') {
        Some((name, address)) => format!("{address} {name}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(ip("10.0.0.1").as_deref(), Ok("10.0.0.1"));
        assert_eq!(
            ip("x").unwrap_err(),
            "IP address is not correctly formatted: x"
        );
        assert_eq!(search_domain("example.com").as_deref(), Ok("example.com"));
        assert_eq!(
            search_domain("a_b").unwrap_err(),
            "a_b is not a valid domain"
        );
        assert_eq!(extra_host("db:10.0.0.2").as_deref(), Ok("db:10.0.0.2"));
        assert_eq!(extra_host("db=[::1]").as_deref(), Ok("db:::1"));
        assert_eq!(hosts_line("db:::1"), "::1 db");
        assert_eq!(
            extra_host("x").unwrap_err(),
            "bad format for add-host: \"x\""
        );
        assert_eq!(
            extra_host("a:b").unwrap_err(),
            "invalid IP address in add-host: \"b\""
        );
    }
}
