//! A service of several files.

use super::{Logging, Service};
use crate::file::dependency;
use crate::file::health::Health;
use crate::file::{merge_maps, network, object, override_with, passthrough, port, volume};
use crate::out::Out;

impl Service {
    /// Puts a later file's service over this one.
    pub fn merge(&mut self, later: Self) {
        override_with!(self, later: image, command, entrypoint, hostname, user, working_dir, tty,
            stdin_open, init, isolation, read_only, stop_signal, stop_grace_period, drain,
            oom_score_adj, credential_spec, restart, scale, cpus, mem_reservation, pids_limit,
            platform);
        self.environment.extend(later.environment);
        merge_maps(&mut self.labels, later.labels);
        merge_maps(&mut self.sysctls, later.sysctls);
        self.ulimits.extend(later.ulimits);
        self.env_file.extend(later.env_file);
        self.group_add.extend(later.group_add);
        self.cap_add.extend(later.cap_add);
        self.cap_drop.extend(later.cap_drop);
        self.dns.extend(later.dns);
        self.dns_search.extend(later.dns_search);
        self.dns_opt.extend(later.dns_opt);
        self.extra_hosts.extend(later.extra_hosts);
        self.tmpfs.extend(later.tmpfs);
        self.profiles.extend(later.profiles);
        dependency::merge_into(&mut self.depends_on, later.depends_on);
        port::merge_into(&mut self.ports, later.ports);
        volume::merge_into(&mut self.volumes, later.volumes);
        object::merge_used_into(&mut self.secrets, later.secrets);
        object::merge_used_into(&mut self.configs, later.configs);
        network::merge_joined(&mut self.networks, later.networks);
        self.merge_health(later.health);
        self.merge_logging(later.logging);
        match (&mut self.deploy, later.deploy) {
            (Some(base), Some(later)) => base.merge(later),
            (base, Some(later)) => *base = Some(later),
            (_, None) => {}
        }
        match (&mut self.host, later.host) {
            (Some(base), Some(later)) => base.merge(*later),
            (base, Some(later)) => *base = Some(later),
            (_, None) => {}
        }
        for (name, value) in later.passthrough {
            match self
                .passthrough
                .iter_mut()
                .find(|(known, _)| *known == name)
            {
                Some((_, known)) => match (known, value) {
                    (Out::List(items), Out::List(more)) => items.extend(more),
                    (known @ Out::Map(_), value @ Out::Map(_)) => {
                        passthrough::merge(name, known, value);
                    }
                    (known, value) => *known = value,
                },
                None => self.passthrough.push((name, value)),
            }
        }
        for (name, value) in later.extras {
            match self.extras.get_mut(&name) {
                Some(known) => known.merge(value),
                None => {
                    self.extras.insert(name, value);
                }
            }
        }
    }

    fn merge_health(&mut self, later: Option<Health>) {
        match (&mut self.health, later) {
            (Some(base), Some(later)) => base.merge(later),
            (base, Some(later)) => *base = Some(later),
            (_, None) => {}
        }
    }

    /// Options of one driver are merged; another driver starts afresh.
    fn merge_logging(&mut self, later: Option<Logging>) {
        let Some(later) = later else { return };
        match &mut self.logging {
            Some(base)
                if base.driver == later.driver
                    || base.driver.is_none()
                    || later.driver.is_none() =>
            {
                override_with!(base, later: driver);
                merge_maps(&mut base.options, later.options);
            }
            base => *base = Some(later),
        }
    }
}
