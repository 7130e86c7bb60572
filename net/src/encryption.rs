//! Encryption between nodes, the doing: guards, tunnels, and the processes of
//! those that the kernel cannot make.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use skep_wg::client;
use skep_wg::uapi::Config;

use crate::apply::{delete_named, open_socket};
use crate::desired::tunnel::{Encryption, Tunnel};
use crate::host::lock;
use crate::names::{self, GUARD_TABLE, TUNNELS};
use crate::netlink::link::{self, Birth};
use crate::netlink::wireguard::Wireguard;
use crate::nft;
use crate::plan::tunnel as plan;
use crate::view::{NsKey, Scope};
use crate::{Host, HostState, NetError, Overlay, Report};

/// How long a tunnel's process may take to start.
const START: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(5);
/// Rounds in a row that a tunnel's process may be silent in, as on a host without
/// time for it, before it is replaced with all its sessions.
const SILENT_ROUNDS: u32 = 3;
/// The kind of links that the kernel's own WireGuard has, and a process's.
const KERNEL_KIND: &str = "wireguard";
const PROCESS_KIND: &str = "tun";

/// What may encrypt between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionChoice {
    /// The kernel, else a process.
    #[default]
    Auto,
    /// The kernel or nothing.
    Kernel,
    /// A process, even if the kernel could.
    Userspace,
    /// Nothing.
    None,
}

/// What does encrypt between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptionMethod {
    /// WireGuard of the kernel.
    Kernel,
    /// WireGuard of a process: right, but slow.
    Userspace,
}

/// What is known of the tunnels' processes.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    /// Those that we started, to be waited for.
    children: Vec<Child>,
    /// How often in a row a tunnel's process did not answer.
    silent: BTreeMap<&'static str, u32>,
}

impl Processes {
    /// Notes whether a tunnel's process answered. Says whether it is to be waited for.
    fn hear(&mut self, name: &'static str, answers: bool) -> bool {
        if answers {
            self.silent.remove(name);
            return true;
        }
        let rounds = self.silent.entry(name).or_default();
        *rounds += 1;
        let waits = *rounds < SILENT_ROUNDS;
        if !waits {
            self.silent.remove(name);
        }
        waits
    }
}

impl Host {
    /// What this host encrypts with; the reason if it cannot.
    pub fn encryption_method(&self) -> Result<EncryptionMethod, String> {
        let able = self.capabilities();
        choose(
            self.config.encryption,
            able.nf_tables,
            able.wireguard,
            able.tun,
        )
    }

    /// Where keys and control sockets of tunnels lie; nobody but root may look.
    pub fn tunnel_dir(&self) -> PathBuf {
        self.config.run_dir.join("wg")
    }

    /// Makes guards and tunnels as desired, guards first. What could not be made is
    /// taken out of `desired`, so that nothing is built on it; what there is of it
    /// stays, with its sessions, for the next time.
    pub(crate) fn encrypt(&self, desired: &mut HostState, report: &mut Report) {
        let encrypted = desired.overlays.iter().filter(|one| one.encrypted);
        let vnis: Vec<u32> = encrypted.map(|overlay| overlay.vni).collect();
        let ingress_vni = desired.node.ingress_vni;
        let encryption = &mut desired.encryption;
        encryption.vnis.extend(vnis);
        if encryption.ingress {
            encryption.vnis.insert(ingress_vni);
        }
        let guarded = self.guard(desired.node.data_port, encryption);
        let is_guarded = guarded.is_ok();
        report.part("guard of encrypted networks", guarded);
        let mut made = Vec::new();
        let mut kept = BTreeSet::new();
        let is_able = self.encryption_method().is_ok();
        for tunnel in std::mem::take(&mut encryption.tunnels) {
            let name = names::tunnel(tunnel.generation);
            if is_able {
                kept.insert(name);
            }
            let outcome = match is_guarded {
                true => self.tunnel(desired.node.index, name, &tunnel),
                false => Err(unsupported("clear frames cannot be kept back")),
            };
            match outcome {
                Ok(changes) => {
                    report.changes.extend(changes);
                    made.push(tunnel);
                }
                Err(error) => {
                    encryption.missing = error.chain();
                    report.fail(format!("tunnel {name}"), error);
                }
            }
        }
        encryption.tunnels = made;
        report.part("tunnels", self.remove_tunnels(&kept));
        if encryption.ingress && encryption.in_use().is_none() && desired.node.ingress.is_some() {
            let reason = encryption.missing.clone();
            report.fail("ingress network", unsupported(&reason));
            desired.node.ingress = None;
        }
    }

    /// Guards a network that is new on this node, before there is anything of it.
    pub(crate) fn guard_network(
        &self,
        state: &mut HostState,
        network: &Overlay,
    ) -> Result<(), NetError> {
        if network.encrypted && state.encryption.vnis.insert(network.vni) {
            let guarded = self.guard(state.node.data_port, &state.encryption);
            if guarded.is_err() {
                state.encryption.vnis.remove(&network.vni);
            }
            guarded?;
        }
        Ok(())
    }

    fn guard(&self, data_port: u16, encryption: &Encryption) -> Result<Vec<String>, NetError> {
        let table = plan::guard(data_port, encryption);
        self.ground.root.run(|| {
            let mut socket = open_socket(libc::NETLINK_NETFILTER)?;
            nft::reconcile(&mut socket, table.as_slice(), |_, name| {
                table.is_none() && name == GUARD_TABLE
            })
        })?
    }

    /// One tunnel: its link, its key, its address, its peers.
    fn tunnel(
        &self,
        node: u16,
        name: &'static str,
        tunnel: &Tunnel,
    ) -> Result<Vec<String>, NetError> {
        let method = self.encryption_method().map_err(|why| unsupported(&why))?;
        let mut changes = self.make_tunnel(method, name)?;
        let seen = self.configured(method, name)?;
        let mut change = plan::difference(&plan::config(tunnel), &seen);
        let peers = std::mem::take(&mut change.peers);
        let is_right = change == Config::default() && peers.is_empty();
        self.configure(method, name, &change)?;
        // Peers are greeted through an interface that is up.
        let interface = plan::interface(name, tunnel, node);
        let set_up =
            self.ground
                .reconcile(&NsKey::Root, &interface, Scope::Partial, &BTreeSet::new());
        changes.extend(set_up.into_result()?);
        if !is_right {
            changes.push(format!("configure `{name}`"));
        }
        let change = Config {
            peers,
            ..Config::default()
        };
        self.configure(method, name, &change)?;
        Ok(changes)
    }

    fn make_tunnel(
        &self,
        method: EncryptionMethod,
        name: &'static str,
    ) -> Result<Vec<String>, NetError> {
        let links = self.look(|socket, _| link::list(socket))?;
        let found = links.iter().find(|link| link.name == name);
        let kind = match method {
            EncryptionMethod::Kernel => KERNEL_KIND,
            EncryptionMethod::Userspace => PROCESS_KIND,
        };
        let is_right = found.is_some_and(|link| link.kind == kind);
        if is_right {
            let answer = match method {
                EncryptionMethod::Kernel => Ok(()),
                EncryptionMethod::Userspace => client::get(&self.control(name)).map(drop),
            };
            let waits = lock(&self.tunnels).hear(name, answer.is_ok());
            match answer {
                Ok(()) => return Ok(Vec::new()),
                Err(source) if waits => {
                    return Err(NetError::Io {
                        action: "hear from",
                        object: format!("the process of tunnel `{name}`"),
                        source,
                    });
                }
                Err(_) => {}
            }
        }
        if found.is_some() {
            // Of the other kind, or of a process that does not answer: it ends with
            // its device.
            self.ground
                .with_socket(&NsKey::Root, |socket| delete_named(socket, name))?;
        }
        match method {
            EncryptionMethod::Kernel => self.ground.with_socket(&NsKey::Root, |socket| {
                let birth = Birth::Plain(KERNEL_KIND);
                socket
                    .request(link::create(name, None, None, None, &birth))
                    .map_err(|source| NetError::Kernel {
                        action: "create",
                        object: format!("link `{name}`"),
                        source,
                    })
            })?,
            EncryptionMethod::Userspace => self.start_process(name)?,
        }
        Ok(vec![format!("create tunnel `{name}`")])
    }

    fn control(&self, name: &str) -> PathBuf {
        self.tunnel_dir().join(format!("{name}.sock"))
    }

    /// Starts a tunnel's process, which goes on without us.
    fn start_process(&self, name: &str) -> Result<(), NetError> {
        let failed = |source| NetError::Io {
            action: "start",
            object: format!("the process of tunnel `{name}`"),
            source,
        };
        let directory = self.tunnel_dir();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(failed)?;
        let words = directory.join(format!("{name}.log"));
        let log = File::create(&words).map_err(failed)?;
        let control = self.control(name);
        let mut command = Command::new(&self.config.program);
        command
            .arg0("skep")
            .args(["wireguard", name])
            .arg(&control)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // A child is born into the namespace of the thread that makes it.
        let mut child = self.ground.root.run(|| command.spawn())?.map_err(failed)?;
        let deadline = Instant::now() + START;
        let outcome = loop {
            if client::get(&control).is_ok() {
                break Ok(());
            }
            if let Ok(Some(_)) = child.try_wait() {
                let said = fs::read_to_string(&words).unwrap_or_default();
                break Err(failed(io::Error::other(said.trim().to_owned())));
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                break Err(failed(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(LOOK);
        };
        self.keep(child);
        outcome
    }

    /// Children that end are to be waited for.
    fn keep(&self, child: Child) {
        lock(&self.tunnels).children.push(child);
    }

    /// Forgets the processes of tunnels that have ended.
    pub(crate) fn wait_for_ended(&self) {
        let mut processes = lock(&self.tunnels);
        let children = &mut processes.children;
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    fn configured(&self, method: EncryptionMethod, name: &str) -> Result<Config, NetError> {
        match method {
            EncryptionMethod::Kernel => self.kernel("look at", name, |kernel| kernel.get(name)),
            EncryptionMethod::Userspace => {
                client::get(&self.control(name)).map_err(|source| NetError::Io {
                    action: "look at",
                    object: format!("tunnel `{name}`"),
                    source,
                })
            }
        }
    }

    fn configure(
        &self,
        method: EncryptionMethod,
        name: &str,
        change: &Config,
    ) -> Result<(), NetError> {
        if *change == Config::default() {
            return Ok(());
        }
        match method {
            EncryptionMethod::Kernel => {
                self.kernel("configure", name, |kernel| kernel.set(name, change))
            }
            EncryptionMethod::Userspace => {
                client::set(&self.control(name), change).map_err(|source| NetError::Io {
                    action: "configure",
                    object: format!("tunnel `{name}`"),
                    source,
                })
            }
        }
    }

    fn kernel<T: Send>(
        &self,
        action: &'static str,
        name: &str,
        f: impl FnOnce(&mut Wireguard) -> Result<T, crate::KernelError> + Send,
    ) -> Result<T, NetError> {
        self.ground.root.run(|| {
            let socket = open_socket(libc::NETLINK_GENERIC)?;
            Wireguard::open(socket)
                .and_then(|mut kernel| f(&mut kernel))
                .map_err(|source| NetError::Kernel {
                    action,
                    object: format!("tunnel `{name}`"),
                    source,
                })
        })?
    }

    /// Removes tunnels that are not kept; their processes end with them.
    fn remove_tunnels(&self, kept: &BTreeSet<&'static str>) -> Result<Vec<String>, NetError> {
        let links = self.look(|socket, _| link::list(socket))?;
        let mut changes = Vec::new();
        for name in TUNNELS.iter().filter(|name| !kept.contains(*name)) {
            let is_ours = |kind: &str| matches!(kind, KERNEL_KIND | PROCESS_KIND);
            let found = links.iter().find(|link| link.name == *name);
            if found.is_some_and(|link| is_ours(&link.kind)) {
                self.ground
                    .with_socket(&NsKey::Root, |socket| delete_named(socket, name))?;
                changes.push(format!("delete tunnel `{name}`"));
            }
            // Whatever became of the link, its process ends without this file.
            let _ = fs::remove_file(self.control(name));
        }
        Ok(changes)
    }

    /// Removes guards, tunnels, and the keys: the node leaves its cluster.
    pub(crate) fn remove_encryption(&self) -> Result<Vec<String>, NetError> {
        let mut changes = self.remove_tunnels(&BTreeSet::new())?;
        changes.extend(self.guard(0, &Encryption::default())?);
        match fs::remove_dir_all(self.tunnel_dir()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NetError::Io {
                action: "remove",
                object: format!("`{}`", self.tunnel_dir().display()),
                source,
            }),
            _ => Ok(changes),
        }
    }
}

fn unsupported(reason: &str) -> NetError {
    NetError::Unsupported {
        object: "encryption between nodes".into(),
        reason: reason.into(),
    }
}

fn choose(
    choice: EncryptionChoice,
    nf_tables: bool,
    wireguard: bool,
    tun: bool,
) -> Result<EncryptionMethod, String> {
    if choice == EncryptionChoice::None {
        return Err("it is switched off (--data-path-encryption=none)".into());
    }
    if !nf_tables {
        return Err("there is no nf_tables to keep clear frames back with".into());
    }
    match (choice, wireguard, tun) {
        (EncryptionChoice::Auto | EncryptionChoice::Kernel, true, _) => {
            Ok(EncryptionMethod::Kernel)
        }
        (EncryptionChoice::Kernel, false, _) => {
            Err("the kernel has no WireGuard (--data-path-encryption=kernel)".into())
        }
        (EncryptionChoice::Auto | EncryptionChoice::Userspace, _, true) => {
            Ok(EncryptionMethod::Userspace)
        }
        _ => Err("the kernel has no WireGuard, and no TUN device can be made".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_process_is_waited_for_some_rounds_in_a_row() {
        let mut processes = Processes::default();
        for _ in 0..2 {
            for _ in 1..SILENT_ROUNDS {
                assert!(processes.hear("one", false));
            }
            assert!(processes.hear("one", true), "counted anew from here");
        }
        let rounds: Vec<bool> = (0..SILENT_ROUNDS + 1)
            .map(|_| processes.hear("one", false))
            .collect();
        assert_eq!(
            rounds,
            [true, true, false, true],
            "its successor has as long"
        );
        assert!(processes.hear("other", false), "each by itself");
    }

    #[test]
    fn the_kernel_is_asked_first_and_refusals_say_why() {
        use EncryptionChoice::{Auto, Kernel, None, Userspace};

        let kernel = Ok(EncryptionMethod::Kernel);
        let process = Ok(EncryptionMethod::Userspace);
        assert_eq!(choose(Auto, true, true, true), kernel);
        assert_eq!(choose(Auto, true, false, true), process);
        assert_eq!(choose(Userspace, true, true, true), process);
        assert_eq!(choose(Kernel, true, true, false), kernel);
        for (choice, nf_tables, tun, part) in [
            (None, true, true, "switched off"),
            (Auto, false, true, "no nf_tables"),
            (Kernel, true, true, "no WireGuard"),
            (Auto, true, false, "no TUN device"),
            (Userspace, true, false, "no TUN device"),
        ] {
            let why = choose(choice, nf_tables, false, tun).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
