//! `[host IP:][host port:]port[/protocol]`, with ranges on both sides.

use std::net::IpAddr;

use skep_model::Protocol;

/// One container port and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    pub port: u16,
    pub protocol: Protocol,
    pub host_ip: String,
    /// Empty: any. A range asks for one of it.
    pub host_port: String,
}

/// Reads a short port specification.
pub fn parse(text: &str) -> Result<Vec<PortMapping>, String> {
    let (ip, host, container) = split(text);
    let (container, protocol) = match container.split_once('/') {
        Some((port, "")) => (port, "tcp"),
        Some((port, protocol)) => (port, protocol),
        None => (container, "tcp"),
    };
    let ip = match ip.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(|| {
            format!("invalid IP address {ip}: address {ip}:: missing ']' in address")
        })?,
        None => ip,
    };
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let (first, last) =
        range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let hosts = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    if let Some((host_first, host_last)) = hosts
        && host_last - host_first != last - first
        && first != last
    {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        ));
    }
    let protocol: Protocol = protocol
        .parse()
        .map_err(|_| format!("invalid proto: {protocol}"))?;
    Ok((first..=last)
        .map(|port| PortMapping {
            port,
            protocol,
            host_ip: ip.to_owned(),
            host_port: match hosts {
                None => String::new(),
                Some((low, high)) if first == last && low != high => format!("{low}-{high}"),
                Some((low, _)) => (low + (port - first)).to_string(),
            },
        })
        .collect())
}

/// `8080` or `8080-8090`.
pub fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().ok())?
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

/// IP, host port and container port; the IP may itself have colons.
fn split(text: &str) -> (&str, &str, &str) {
    match text.rsplit_once(':') {
        None => ("", "", text),
        Some((rest, container)) => match rest.rsplit_once(':') {
            None => ("", rest, container),
            Some((ip, host)) => (ip, host, container),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_name_ports() {
        let read = |text: &str| {
            parse(text).map(|ports| {
                ports
                    .into_iter()
                    .map(|p| format!("{}:{}:{}/{}", p.host_ip, p.host_port, p.port, p.protocol))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
        };
        for (text, ports) in [
            ("80", "::80/tcp"),
            ("8080:80/udp", ":8080:80/udp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("[::1]:80:80", "::1:80:80/tcp"),
            ("8080-8081:80-81", ":8080:80/tcp :8081:81/tcp"),
            ("8080-8090:80", ":8080-8090:80/tcp"),
            (":80", "::80/tcp"),
            ("80:80/SCTP", ":80:80/sctp"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(ports), "{text}");
        }
        for (text, error) in [
            ("x", "invalid containerPort: x"),
            ("80:", "no port specified: 80:<empty>"),
            ("a:80", "invalid hostPort: a"),
            ("99999:80", "invalid hostPort: 99999"),
            ("80:80/foo", "invalid proto: foo"),
            (
                "80-82:80-81",
                "invalid ranges specified for container and host Ports: 80-81 and 80-82",
            ),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("82-80", "invalid containerPort: 82-80"),
        ] {
            assert_eq!(read(text).unwrap_err(), error, "{text}");
        }
    }
}
