//! `networks`: of a service and at the top level; and `external`, which several sections share.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::field::Field;
use crate::fields::Fields;
use crate::file::volume::print_map;
use crate::file::{declared, merge_maps, override_with};
use crate::out::{MapOut, Out};
use crate::report::Placed;
use crate::tree::Value;

/// How a service joins a network.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Joined {
    pub aliases: Option<Vec<String>>,
    pub driver_opts: Option<BTreeMap<String, String>>,
    pub ipv4_address: Option<String>,
    pub ipv6_address: Option<String>,
    pub mac_address: Option<String>,
    pub link_local_ips: Vec<String>,
    /// Networks are joined the highest first.
    pub priority: Option<i64>,
    pub gw_priority: Option<i64>,
}

/// Networks of a service; nothing behind a name means: without options.
pub(crate) type JoinedNetworks = BTreeMap<String, Placed<Option<Joined>>>;

pub(crate) fn read_joined(field: &Field<'_>, cx: &mut Context<'_>) -> JoinedNetworks {
    if let Value::List(_) = &field.node.value {
        return field
            .different_strings(cx)
            .into_iter()
            .map(|name| {
                (
                    name.value,
                    Placed {
                        at: name.at,
                        value: None,
                    },
                )
            })
            .collect();
    }
    let mut networks = JoinedNetworks::new();
    for (key, field) in field.entries(cx) {
        let value = match field.node.is_null() {
            true => None,
            false => {
                let Some(mut fields) = field.fields(cx) else {
                    continue;
                };
                Some(read_options(&mut fields, cx)).inspect(|_| fields.finish(cx))
            }
        };
        networks.insert(key.text.clone(), Placed { at: key.at, value });
    }
    networks
}

fn read_options(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Joined {
    const OWN: &str = "addresses of tasks are given by the cluster";
    if cx.host {
        return read_host_options(fields, cx);
    }
    let mut address = |name, cx: &mut Context<'_>| {
        let field = fields.take(name)?;
        cx.warn(field.key, format!("{} has no effect: {OWN}", field.path));
        field.string(cx)
    };
    let ipv4_address = address("ipv4_address", cx);
    let ipv6_address = address("ipv6_address", cx);
    for name in ["mac_address", "link_local_ips"] {
        fields.no_effect(name, OWN, cx);
    }
    for name in ["priority", "gw_priority", "interface_name"] {
        fields.no_effect(
            name,
            "tasks have one interface per network, named and ordered by the cluster",
            cx,
        );
    }
    Joined {
        aliases: fields.take("aliases").map(|field| {
            field
                .strings(cx)
                .into_iter()
                .map(|alias| alias.value)
                .collect()
        }),
        driver_opts: fields.map("driver_opts", cx),
        ipv4_address,
        ipv6_address,
        ..Joined::default()
    }
}

/// What a container of one host may ask of a network.
fn read_host_options(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Joined {
    fields.no_effect("interface_name", "interfaces are named by their order", cx);
    let texts = |name, fields: &mut Fields<'_>, cx: &mut Context<'_>| {
        let list = fields.take(name).map(|field| field.strings(cx));
        list.map(|list| list.into_iter().map(|text| text.value).collect::<Vec<_>>())
    };
    let mut address = |name, cx: &mut Context<'_>| {
        let field = fields.take(name)?;
        let text = field.string(cx)?;
        if text.parse::<std::net::IpAddr>().is_err() {
            field.wrong(format!("is no IP address, found \"{text}\""), cx);
        }
        Some(text)
    };
    let (ipv4_address, ipv6_address) = (address("ipv4_address", cx), address("ipv6_address", cx));
    let mut number = |name, cx: &mut Context<'_>| fields.take(name)?.integer(cx);
    let (priority, gw_priority) = (number("priority", cx), number("gw_priority", cx));
    Joined {
        aliases: texts("aliases", fields, cx),
        driver_opts: fields.map("driver_opts", cx),
        ipv4_address,
        ipv6_address,
        mac_address: fields.string("mac_address", cx),
        link_local_ips: texts("link_local_ips", fields, cx).unwrap_or_default(),
        priority,
        gw_priority,
    }
}

impl Joined {
    fn merge(&mut self, later: Self) {
        override_with!(self, later: aliases, ipv4_address, ipv6_address, mac_address, priority,
            gw_priority);
        self.link_local_ips.extend(later.link_local_ips);
        merge_maps(&mut self.driver_opts, later.driver_opts);
    }

    pub fn print(&self) -> Out {
        let mut out = MapOut::default();
        out.put(
            "aliases",
            self.aliases
                .as_ref()
                .map_or(Out::Null, |aliases| Out::list(aliases)),
        );
        out.put(
            "driver_opts",
            self.driver_opts.as_ref().map_or(Out::Null, print_map),
        );
        out.put_text("ipv4_address", self.ipv4_address.as_deref());
        out.put_text("ipv6_address", self.ipv6_address.as_deref());
        out.done()
    }
}

/// Puts the networks of a later file over those of an earlier one.
pub(crate) fn merge_joined(base: &mut JoinedNetworks, later: JoinedNetworks) {
    for (name, placed) in later {
        match (
            base.get_mut(&name).map(|known| &mut known.value),
            placed.value,
        ) {
            (Some(Some(known)), Some(joined)) => known.merge(joined),
            (Some(known @ None), joined) => *known = joined,
            (Some(Some(_)), None) => {}
            (None, value) => {
                base.insert(
                    name,
                    Placed {
                        at: placed.at,
                        value,
                    },
                );
            }
        }
    }
}

/// A network of the top level.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Network {
    pub name: Option<String>,
    pub driver: Option<String>,
    pub driver_opts: Option<BTreeMap<String, String>>,
    pub ipam_driver: Option<String>,
    pub ipam_options: Option<BTreeMap<String, String>>,
    pub ipam: Option<Vec<Placed<Pool>>>,
    pub external: Option<bool>,
    pub internal: Option<bool>,
    pub attachable: Option<bool>,
    pub enable_ipv6: Option<bool>,
    pub labels: Option<BTreeMap<String, String>>,
    pub extras: BTreeMap<String, Out>,
}

/// One address range.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pool {
    pub subnet: Option<String>,
    pub ip_range: Option<String>,
    pub gateway: Option<String>,
    /// Addresses that are others', by name; of one host's networks.
    pub aux_addresses: BTreeMap<String, String>,
}

pub(crate) fn read(name: &str, field: &Field<'_>, cx: &mut Context<'_>) -> Option<Network> {
    if field.node.is_null() {
        return Some(Network::default());
    }
    let mut fields = field.fields(cx)?;
    let declared = declared::read("network", name, &mut fields, cx);
    let mut network = Network {
        name: declared.name,
        driver: declared.driver,
        driver_opts: declared.driver_opts,
        labels: declared.labels,
        external: declared.external.map(|external| external.value),
        internal: fields.boolean("internal", cx),
        attachable: fields.boolean("attachable", cx),
        enable_ipv6: fields.boolean("enable_ipv6", cx),
        ..Network::default()
    };
    if let Some(field) = fields.take("enable_ipv4")
        && field.boolean(cx) == Some(false)
    {
        field.wrong("must be true: networks have IPv4", cx);
    }
    if let Some(field) = fields.take("ipam")
        && let Some(mut ipam) = field.fields(cx)
    {
        network.ipam_driver = ipam.string("driver", cx);
        network.ipam_options = ipam.map("options", cx);
        network.ipam = ipam.take("config").map(|field| {
            let items = field.items(cx);
            items
                .iter()
                .filter_map(|item| read_pool(item, cx))
                .collect()
        });
        ipam.finish(cx);
    }
    network.extras.extend(fields.extras());
    fields.finish(cx);
    Some(network)
}

fn read_pool(item: &Field<'_>, cx: &mut Context<'_>) -> Option<Placed<Pool>> {
    let mut fields = item.fields(cx)?;
    let mut net = |name, cx: &mut Context<'_>| {
        let field = fields.take(name)?;
        let text = field.string(cx)?;
        match text.parse::<ipnet::IpNet>() {
            Ok(_) => Some(text),
            Err(_) => {
                field.unfit(
                    format!("is no address range, found \"{text}\": want 10.1.0.0/16"),
                    cx,
                );
                Some(text)
            }
        }
    };
    let subnet = net("subnet", cx);
    let ip_range = net("ip_range", cx);
    let gateway = fields.take("gateway").and_then(|field| {
        let text = field.string(cx)?;
        if text.parse::<std::net::IpAddr>().is_err() {
            field.wrong(format!("is no IP address, found \"{text}\""), cx);
            return None;
        }
        Some(text)
    });
    let aux_addresses = match cx.host {
        true => fields.map("aux_addresses", cx).unwrap_or_default(),
        false => {
            fields.no_effect("aux_addresses", "addresses are given by the cluster", cx);
            BTreeMap::new()
        }
    };
    fields.finish(cx);
    Some(Placed {
        at: item.at(),
        value: Pool {
            subnet,
            ip_range,
            gateway,
            aux_addresses,
        },
    })
}

impl Network {
    pub fn is_external(&self) -> bool {
        self.external.unwrap_or(false)
    }

    pub fn merge(&mut self, later: Self) {
        if later.is_external() {
            *self = later;
            return;
        }
        override_with!(self, later: name, driver, ipam_driver, ipam, external, internal,
            attachable, enable_ipv6);
        merge_maps(&mut self.driver_opts, later.driver_opts);
        merge_maps(&mut self.ipam_options, later.ipam_options);
        merge_maps(&mut self.labels, later.labels);
        self.extras.extend(later.extras);
    }

    pub fn print(&self) -> Out {
        let mut ipam = MapOut::default();
        ipam.put_text("driver", self.ipam_driver.as_deref());
        let pools = self.ipam.iter().flatten().map(|pool| pool.value.print());
        ipam.put("config", Out::List(pools.collect()));
        ipam.put(
            "options",
            self.ipam_options.as_ref().map_or(Out::Null, print_map),
        );
        let mut out = MapOut::default();
        out.put_text("name", self.name.as_deref());
        out.put_text("driver", self.driver.as_deref());
        out.put(
            "driver_opts",
            self.driver_opts.as_ref().map_or(Out::Null, print_map),
        );
        out.put("ipam", ipam.done());
        out.put("external", Out::Bool(self.is_external()));
        out.put("internal", Out::Bool(self.internal.unwrap_or(false)));
        out.put("attachable", Out::Bool(self.attachable.unwrap_or(false)));
        out.put("enable_ipv6", Out::Bool(self.enable_ipv6.unwrap_or(false)));
        out.put("labels", self.labels.as_ref().map_or(Out::Null, print_map));
        out.extend(self.extras.clone());
        out.done()
    }
}

impl Pool {
    fn print(&self) -> Out {
        let mut out = MapOut::default();
        out.put_text("subnet", self.subnet.as_deref());
        out.put_text("ip_range", self.ip_range.as_deref());
        out.put_text("gateway", self.gateway.as_deref());
        out.done()
    }
}
