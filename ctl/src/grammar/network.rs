//! `--network` of services and containers.

use std::collections::BTreeMap;

use super::csv;

/// One network and how it is joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkFlag {
    pub target: String,
    pub aliases: Vec<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub ip: String,
    pub ip6: String,
    pub mac: String,
    pub link_local: Vec<String>,
    pub gw_priority: i64,
}

/// `NAME` or `name=…,alias=…,driver-opt=…`.
pub fn parse(value: &str) -> Result<NetworkFlag, String> {
    let mut network = NetworkFlag::default();
    if !csv::is_long(value) {
        value.clone_into(&mut network.target);
        return Ok(network);
    }
    for field in csv::fields(value)? {
        let (key, value) = field
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("invalid field {field}"))?;
        let value = value.trim();
        match key.trim().to_lowercase().as_str() {
            "name" => value.clone_into(&mut network.target),
            "alias" => network.aliases.push(value.to_owned()),
            "driver-opt" => {
                let (name, value) = value
                    .split_once('=')
                    .filter(|(name, _)| !name.is_empty())
                    .ok_or("invalid key value pair format in driver options")?;
                network
                    .driver_opts
                    .insert(name.trim().to_lowercase(), value.trim().to_owned());
            }
            "ip" => value.clone_into(&mut network.ip),
            "ip6" => value.clone_into(&mut network.ip6),
            "mac-address" => value.clone_into(&mut network.mac),
            "link-local-ip" => network.link_local.push(value.to_owned()),
            "gw-priority" => {
                network.gw_priority = value
                    .parse()
                    .map_err(|_| format!("invalid gw-priority ({value}): invalid syntax"))?;
            }
            key => return Err(format!("invalid field key {key}")),
        }
    }
    if network.target.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(parse("front").unwrap().target, "front");
        let network = parse("name=front,alias=a,alias=b,driver-opt=mtu=1400").unwrap();
        assert_eq!(network.target, "front");
        assert_eq!(network.aliases, ["a", "b"]);
        assert_eq!(network.driver_opts["mtu"], "1400");
        for (value, error) in [
            ("alias=x", "network name/id is not specified"),
            ("name=a,foo=b", "invalid field key foo"),
            (
                "name=a,driver-opt=x",
                "invalid key value pair format in driver options",
            ),
        ] {
            assert_eq!(parse(value).unwrap_err(), error, "{value}");
        }
    }
}
