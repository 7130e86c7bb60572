//! Where a registry is and how it may be spoken to.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::RegistryConfig;

/// One way to speak to a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// `https://host[:port]` or `http://…`, without a path.
    pub(crate) base: String,
    /// Host and port.
    pub(crate) host: String,
    /// Whether the certificate is checked.
    pub(crate) verify: bool,
    /// A mirror is asked for manifests and blobs only, and without credentials.
    pub(crate) mirror: bool,
}

/// The ways to try for the registry of this name, best first.
pub(crate) fn endpoints(domain: &str, config: &RegistryConfig) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    if domain == "docker.io" {
        for mirror in &config.mirrors {
            let mirror = mirror.trim_end_matches('/');
            let host = mirror.split_once("://").map_or(mirror, |(_, host)| host);
            endpoints.push(Endpoint {
                base: if mirror.contains("://") {
                    mirror.to_owned()
                } else {
                    format!("https://{mirror}")
                },
                host: host.to_owned(),
                verify: !is_insecure(host, config),
                mirror: true,
            });
        }
        endpoints.push(Endpoint {
            base: "https://registry-1.docker.io".into(),
            host: "registry-1.docker.io".into(),
            verify: true,
            mirror: false,
        });
        return endpoints;
    }
    let insecure = is_insecure(domain, config);
    endpoints.push(Endpoint {
        base: format!("https://{domain}"),
        host: domain.into(),
        verify: !insecure,
        mirror: false,
    });
    if insecure {
        endpoints.push(Endpoint {
            base: format!("http://{domain}"),
            host: domain.into(),
            verify: false,
            mirror: false,
        });
    }
    endpoints
}

/// Whether a registry may be spoken to in the clear.
fn is_insecure(domain: &str, config: &RegistryConfig) -> bool {
    let host = host_without_port(domain);
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    config.insecure.iter().any(|entry| {
        entry == domain
            || entry == host
            || matches!((entry.parse::<IpNet>(), address), (Ok(net), Some(address)) if net.contains(&address))
    })
}

fn host_without_port(domain: &str) -> &str {
    if let Some(end) = domain.find(']') {
        return &domain[..=end];
    }
    domain.split_once(':').map_or(domain, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_named_registries_are_spoken_to_in_the_clear() {
        let config = RegistryConfig {
            mirrors: vec!["http://mirror.test:5000/".into()],
            insecure: vec!["10.0.0.0/8".into(), "reg.test:5000".into()],
            ..RegistryConfig::default()
        };
        let check = |domain: &str, expected: &[&str]| {
            let bases: Vec<String> = endpoints(domain, &config)
                .into_iter()
                .map(|endpoint| endpoint.base)
                .collect();
            assert_eq!(bases, expected, "{domain}");
        };
        check(
            "127.0.0.1:5000",
            &["https://127.0.0.1:5000", "http://127.0.0.1:5000"],
        );
        check("[::1]:5000", &["https://[::1]:5000", "http://[::1]:5000"]);
        check("10.1.2.3", &["https://10.1.2.3", "http://10.1.2.3"]);
        check(
            "reg.test:5000",
            &["https://reg.test:5000", "http://reg.test:5000"],
        );
        check("reg.test:6000", &["https://reg.test:6000"]);
        check("192.0.2.1", &["https://192.0.2.1"]);
        check(
            "docker.io",
            &["http://mirror.test:5000", "https://registry-1.docker.io"],
        );
    }
}
