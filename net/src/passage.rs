//! Ways through the firewalls of others: whatever forwards our packets must not be
//! closed by a chain that drops all it does not know.

use std::collections::BTreeSet;

use crate::apply::open_socket;
use crate::host::lock;
use crate::names::{GATEWAY_PREFIX, INGRESS_DEVICE};
use crate::{Host, NetError, Report, nft};

/// Who of ours forwards packets, and where that did not help.
#[derive(Default)]
pub(crate) struct Passage {
    /// Names of links; one that ends with `+` means all that begin so.
    links: BTreeSet<String>,
    /// Chains that drop our packets still; `None` before the first look.
    closed: Option<Vec<String>>,
}

impl Passage {
    /// Whom there is a way for.
    pub fn links(&self) -> impl Iterator<Item = &String> {
        self.links.iter()
    }
}

/// The links by which the cluster's half forwards.
pub(crate) fn of_cluster() -> [String; 2] {
    [format!("{GATEWAY_PREFIX}+"), INGRESS_DEVICE.to_owned()]
}

impl Host {
    /// Lets these links through the firewalls of others from now on, and those of
    /// before again. Failures are told once; [`Host::capabilities`] knows them.
    pub(crate) fn let_through(&self, links: impl IntoIterator<Item = String>, report: &mut Report) {
        let mut passage = lock(&self.passage);
        passage.links.extend(links);
        if passage.links.is_empty() {
            return;
        }
        let wanted = passage.links.clone();
        let looked = self.ground.root.run(|| {
            let mut socket = open_socket(libc::NETLINK_NETFILTER)?;
            nft::let_through(&mut socket, &wanted)
                .map_err(|source| firewall("list", "chains", source))
        });
        let nft::Opened { changed, failed } = match looked.and_then(|looked| looked) {
            Ok(looked) => looked,
            Err(error) => return report.fail("firewalls", error),
        };
        let changes = changed.iter();
        report
            .changes
            .extend(changes.map(|chain| format!("let our links through chain `{chain}`")));
        let closed: Vec<String> = failed.iter().map(|(chain, _)| chain.to_string()).collect();
        let known = passage.closed.replace(closed).unwrap_or_default();
        for (chain, source) in failed {
            let name = chain.to_string();
            if !known.contains(&name) {
                let chain = format!("chain `{name}`, which drops our packets");
                report.fail("firewalls", firewall("change", &chain, source));
            }
        }
    }

    /// Takes back the ways of these links.
    pub(crate) fn shut(&self, links: impl IntoIterator<Item = String>, report: &mut Report) {
        let links: BTreeSet<String> = links.into_iter().collect();
        lock(&self.passage)
            .links
            .retain(|link| !links.contains(link));
        let done = self.ground.root.run(|| {
            let mut socket = open_socket(libc::NETLINK_NETFILTER)?;
            nft::take_back(&mut socket, &links).map_err(|source| firewall("list", "chains", source))
        });
        let changes = done.and_then(|done| done).map(|changed| {
            let changed = changed.into_iter();
            let said = changed.map(|chain| format!("take our rules out of chain `{chain}`"));
            said.collect()
        });
        report.part("firewalls", changes);
    }

    /// Chains that drop our packets although they were asked not to; `None` while
    /// none was asked.
    pub(crate) fn closed_chains(&self) -> Option<Vec<String>> {
        lock(&self.passage).closed.clone()
    }
}

fn firewall(action: &'static str, object: &str, source: crate::KernelError) -> NetError {
    NetError::Kernel {
        action,
        object: format!("firewall {object}"),
        source,
    }
}
