//! Ports of containers as tables show them: `0.0.0.0:80->80/tcp`, consecutive ones as ranges.

use crate::json::Json;

/// A run of ports that are published under their own number, or not at all.
struct Run {
    key: (String, String),
    first: i64,
    last: i64,
}

/// The PORTS column.
pub fn show(ports: &[Json]) -> String {
    let mut ports: Vec<&Json> = ports.iter().collect();
    ports.sort_by_key(|port| {
        (
            port.int("PrivatePort"),
            port.str("IP"),
            port.int("PublicPort"),
            port.str("Type"),
        )
    });
    let mut ended = Vec::new();
    let mut runs: Vec<Run> = Vec::new();
    let mut mapped = Vec::new();
    for port in ports {
        let (ip, kind, private) = (port.str("IP"), port.str("Type"), port.int("PrivatePort"));
        if !ip.is_empty() && port.int("PublicPort") != private {
            mapped.push(format!(
                "{}->{private}/{kind}",
                host(ip, &port.int("PublicPort").to_string())
            ));
            continue;
        }
        let key = (ip.to_owned(), kind.to_owned());
        match runs.iter_mut().find(|run| run.key == key) {
            None => runs.push(Run {
                key,
                first: private,
                last: private,
            }),
            Some(run) if private == run.last + 1 => run.last = private,
            Some(run) => {
                ended.push(run.show());
                (run.first, run.last) = (private, private);
            }
        }
    }
    ended.extend(runs.iter().map(Run::show));
    ended.extend(mapped);
    ended.join(", ")
}

impl Run {
    fn show(&self) -> String {
        let (ip, kind) = &self.key;
        let numbers = if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}-{}", self.first, self.last)
        };
        if ip.is_empty() {
            format!("{numbers}/{kind}")
        } else {
            format!("{}->{numbers}/{kind}", host(ip, &numbers))
        }
    }
}

fn host(ip: &str, port: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_grouped() {
        let of = |ports: &[(&str, u16, u16, &str)]| {
            let ports: Vec<Json> = ports
                .iter()
                .map(|(ip, private, public, kind)| {
                    Json::of(&serde_json::json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": kind}))
                })
                .collect();
            show(&ports)
        };
        assert_eq!(of(&[("", 80, 0, "tcp")]), "80/tcp");
        assert_eq!(
            of(&[("", 80, 0, "tcp"), ("", 81, 0, "tcp"), ("", 90, 0, "tcp")]),
            "80-81/tcp, 90/tcp"
        );
        assert_eq!(
            of(&[("0.0.0.0", 80, 8080, "tcp"), ("::", 80, 8080, "tcp")]),
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        assert_eq!(
            of(&[
                ("0.0.0.0", 80, 80, "tcp"),
                ("0.0.0.0", 81, 81, "tcp"),
                ("", 443, 0, "tcp")
            ]),
            "0.0.0.0:80-81->80-81/tcp, 443/tcp"
        );
    }
}
