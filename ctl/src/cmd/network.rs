//! `skep network`.

use serde_json::{Value, json};

use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::flags::Args;
use crate::grammar::environment;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const NETWORKS: Listing = Listing {
    kind: "*network.networkContext",
    columns: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "{{.ID}}",
    raw: &[
        ("network_id", "ID"),
        ("name", "Name"),
        ("driver", "Driver"),
        ("scope", "Scope"),
    ],
};

const FINDINGS: Listing = Listing {
    kind: "*network.findingContext",
    columns: &[
        ("Kind", "KIND"),
        ("Network", "NETWORK"),
        ("Node", "NODE"),
        ("Message", "FINDING"),
    ],
    table: "{{.Kind}}\t{{.Network}}\t{{.Node}}\t{{.Message}}",
    quiet: "{{.Message}}",
    raw: &[],
};

/// Prints what is wrong; fails if anything is.
pub async fn check(session: &Session, args: &Args) -> Outcome {
    let audit = session
        .client
        .json(Call::get("/skep/v1/network/check"))
        .await?;
    let findings = audit.list("Findings");
    let format = args.text("format");
    if findings.is_empty() && format.is_empty() {
        let count = |name| audit.int(name);
        return session.print(&format!(
            "{} addresses on {} networks of {} nodes: nothing is wrong\n",
            count("Addresses"),
            count("Networks"),
            count("Nodes"),
        ));
    }
    let rows = findings
        .iter()
        .map(|finding| {
            let columns = ["Kind", "Network", "Node", "Message"];
            Row::new(columns.map(|name| (name, finding.str(name).into())))
        })
        .collect();
    session.print(&table::render(&FINDINGS, format, false, rows)?)?;
    match findings.len() {
        0 => Ok(()),
        1 => Err(Failure::message("1 thing is wrong")),
        many => Err(Failure::message(format!("{many} things are wrong"))),
    }
}

pub async fn create(session: &Session, args: &Args) -> Outcome {
    let mut body = json!({
        "Name": args.positional(0),
        "Driver": args.maybe("driver").unwrap_or("bridge"),
        "Scope": args.text("scope"),
        "IPAM": {
            "Driver": args.maybe("ipam-driver").unwrap_or("default"),
            "Options": environment::pairs(args.list("ipam-opt")),
            "Config": ipam::ranges(
                &args.list("subnet"),
                &args.list("ip-range"),
                &args.list("gateway"),
                &args.list("aux-address"),
            )
            .map_err(Failure::Message)?,
        },
        "Internal": args.flag("internal"),
        "Attachable": args.flag("attachable"),
        "Ingress": args.flag("ingress"),
        "ConfigOnly": args.flag("config-only"),
        "ConfigFrom": Value::Null,
        "Options": environment::pairs(args.list("opt")),
        "Labels": environment::pairs(args.each("label", environment::label)?),
    });
    for (flag, field) in [("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")] {
        if args.given(flag) {
            body[field] = json!(args.flag(flag));
        }
    }
    if let Some(network) = args.maybe("config-from") {
        body["ConfigFrom"] = json!({"Network": network});
    }
    let answer = session
        .client
        .json(Call::post("/networks/create").json(&body))
        .await?;
    for warning in answer.str("Warning").lines() {
        session.warn(format!("WARNING: {warning}"));
    }
    session.say(answer.str("Id"))
}

pub async fn list(session: &Session, args: &Args) -> Outcome {
    let call = Call::get("/networks").query_text("filters", &Filters::of(args)?.to_query());
    let networks = session.client.json(call).await?;
    let mut networks: Vec<&Json> = networks.list("").iter().collect();
    networks.sort_by(|a, b| human::natural(a.str("Name"), b.str("Name")));
    let cut = !args.flag("no-trunc");
    let rows = networks
        .into_iter()
        .map(|network| {
            let id = network.str("Id");
            let created = skep_model::Timestamp::parse(network.str("Created")).unwrap_or_default();
            Row::new([
                ("ID", if cut { human::short_id(id) } else { id }.into()),
                ("Name", network.str("Name").into()),
                ("Driver", network.str("Driver").into()),
                ("Scope", network.str("Scope").into()),
                ("IPv4", network.bool("EnableIPv4").to_string().into()),
                ("IPv6", network.bool("EnableIPv6").to_string().into()),
                ("Internal", network.bool("Internal").to_string().into()),
                ("CreatedAt", human::go_time(created).into()),
            ])
            .with_labels(network.text_map("Labels"))
        })
        .collect();
    let format = super::format_of(session, args, "networksFormat");
    session.print(&table::render(
        &NETWORKS,
        &format,
        args.flag("quiet"),
        rows,
    )?)
}

const INGRESS_WARNING: &str = "WARNING! Before removing the routing-mesh network, make sure all the nodes in your swarm run the same docker engine version. Otherwise, removal may not be effective and functionality of newly create ingress networks will be impaired.\nAre you sure you want to continue?";

pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let mut failed = false;
    for name in args.positionals() {
        let path = format!("/networks/{}", segment(name));
        if let Ok(network) = session.client.json(Call::get(&path)).await
            && network.bool("Ingress")
            && !session.confirm(INGRESS_WARNING)?
        {
            continue;
        }
        match session.client.done(Call::delete(&path)).await {
            Ok(()) => session.say(name)?,
            Err(failure) if args.flag("force") && failure.is_not_found() => {}
            Err(failure) => {
                session.warn(failure.to_string());
                failed = true;
            }
        }
    }
    if failed {
        Err(Failure::message("exit status 1"))
    } else {
        Ok(())
    }
}

pub async fn connect(session: &Session, args: &Args) -> Outcome {
    let endpoint = json!({
        "IPAMConfig": {
            "IPv4Address": args.text("ip"),
            "IPv6Address": args.text("ip6"),
            "LinkLocalIPs": args.list("link-local-ip"),
        },
        "Links": Some(args.list("link")).filter(|links| !links.is_empty()),
        "Aliases": args.list("alias"),
        "DriverOpts": environment::pairs(args.list("driver-opt")),
        "GwPriority": args.int("gw-priority").unwrap_or(0),
    });
    let body = json!({"Container": args.positional(1), "EndpointConfig": endpoint});
    let path = format!("/networks/{}/connect", segment(args.positional(0)));
    session.client.done(Call::post(path).json(&body)).await
}

pub async fn disconnect(session: &Session, args: &Args) -> Outcome {
    let body = json!({"Container": args.positional(1), "Force": args.flag("force")});
    let path = format!("/networks/{}/disconnect", segment(args.positional(0)));
    session.client.done(Call::post(path).json(&body)).await
}

mod ipam {
    //! Subnets with the ranges, gateways and reserved addresses that are in them.

    use std::net::IpAddr;

    use serde_json::{Value, json};

    struct Subnet {
        text: String,
        address: IpAddr,
        bits: u8,
    }

    fn parse(text: &str) -> Result<Subnet, String> {
        let wrong = || format!("invalid subnet: invalid CIDR address: {text}");
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        if bits > if address.is_ipv4() { 32 } else { 128 } {
            return Err(wrong());
        }
        Ok(Subnet {
            text: text.to_owned(),
            address,
            bits,
        })
    }

    impl Subnet {
        fn holds(&self, address: IpAddr) -> bool {
            let prefix = |address: IpAddr, bits: u8| -> u128 {
                match address {
                    IpAddr::V4(address) => u128::from(address.to_bits())
                        .checked_shr(u32::from(32 - bits.min(32)))
                        .unwrap_or(0),
                    IpAddr::V6(address) => address
                        .to_bits()
                        .checked_shr(u32::from(128 - bits))
                        .unwrap_or(0),
                }
            };
            self.address.is_ipv4() == address.is_ipv4()
                && prefix(self.address, self.bits) == prefix(address, self.bits)
        }
    }

    pub fn ranges(
        subnets: &[String],
        ranges: &[String],
        gateways: &[String],
        reserved: &[String],
    ) -> Result<Vec<Value>, String> {
        if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
            return Err("every ip-range or gateway must have a corresponding subnet".to_owned());
        }
        // A subnet that nothing is compared with is the daemon's to judge.
        if let ([subnet], true) = (
            subnets,
            ranges.is_empty() && gateways.is_empty() && reserved.is_empty(),
        ) {
            return Ok(vec![json!({"Subnet": subnet})]);
        }
        let subnets: Vec<Subnet> = subnets
            .iter()
            .map(|text| parse(text))
            .collect::<Result<_, _>>()?;
        for (index, subnet) in subnets.iter().enumerate() {
            if subnets[..index]
                .iter()
                .any(|other| other.holds(subnet.address) || subnet.holds(other.address))
            {
                return Err("multiple overlapping subnet configuration is not supported".to_owned());
            }
        }
        let mut configs: Vec<Value> = subnets
            .iter()
            .map(|subnet| json!({"Subnet": subnet.text}))
            .collect();
        for range in ranges {
            let inner = parse(range)?;
            let at = subnets
                .iter()
                .position(|subnet| subnet.holds(inner.address))
                .ok_or_else(|| format!("no matching subnet for range {range}"))?;
            put(&mut configs[at], "IPRange", range, "ranges")?;
        }
        for gateway in gateways {
            let at = find(&subnets, gateway)
                .ok_or_else(|| format!("no matching subnet for gateway {gateway}"))?;
            put(&mut configs[at], "Gateway", gateway, "gateways")?;
        }
        for pair in reserved {
            let (name, address) = pair.split_once('=').unwrap_or((pair, ""));
            let at = find(&subnets, address)
                .ok_or_else(|| format!("no matching subnet for aux-address {address}"))?;
            configs[at]["AuxiliaryAddresses"][name] = json!(address);
        }
        Ok(configs)
    }

    fn find(subnets: &[Subnet], address: &str) -> Option<usize> {
        let address = address.parse().ok()?;
        subnets.iter().position(|subnet| subnet.holds(address))
    }

    fn put(config: &mut Value, field: &str, value: &str, what: &str) -> Result<(), String> {
        if let Some(other) = config[field].as_str() {
            let subnet = config["Subnet"].as_str().unwrap_or("");
            return Err(format!(
                "cannot configure multiple {what} ({value}, {other}) on the same subnet ({subnet})"
            ));
        }
        config[field] = json!(value);
        Ok(())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn ranges_find_their_subnets() {
            let texts = |texts: &[&str]| {
                texts
                    .iter()
                    .map(|text| (*text).to_owned())
                    .collect::<Vec<_>>()
            };
            let of = |subnets: &[&str], inner: &[&str], gateways: &[&str], reserved: &[&str]| {
                ranges(
                    &texts(subnets),
                    &texts(inner),
                    &texts(gateways),
                    &texts(reserved),
                )
            };
            assert_eq!(
                of(
                    &["10.1.0.0/16", "fd00::/64"],
                    &["10.1.2.0/24"],
                    &["fd00::1"],
                    &["a=10.1.0.9"]
                )
                .unwrap(),
                [
                    json!({"Subnet": "10.1.0.0/16", "IPRange": "10.1.2.0/24", "AuxiliaryAddresses": {"a": "10.1.0.9"}}),
                    json!({"Subnet": "fd00::/64", "Gateway": "fd00::1"}),
                ]
            );
            assert_eq!(
                of(&[], &[], &["10.0.0.1"], &[]).unwrap_err(),
                "every ip-range or gateway must have a corresponding subnet"
            );
            assert_eq!(
                of(&["10.1.0.0/16"], &[], &["10.2.0.1"], &[]).unwrap_err(),
                "no matching subnet for gateway 10.2.0.1"
            );
            assert_eq!(
                of(&["10.1.0.0/16", "10.1.1.0/24"], &[], &[], &[]).unwrap_err(),
                "multiple overlapping subnet configuration is not supported"
            );
            assert_eq!(of(&["x"], &[], &[], &[]).unwrap(), [json!({"Subnet": "x"})]);
            assert!(of(&["x", "10.0.0.0/8"], &[], &[], &[]).is_err());
            assert!(of(&["0.0.0.0/0"], &[], &["1.2.3.4"], &[]).is_ok());
        }
    }
}
