//! Random sequences of requests against a model of what should exist.
//!
//! Each sequence comes from its seed alone. After each request the engine's answer is
//! the one the model expects, and what it lists is what the model has; after each
//! sequence everything is removed, and nothing is left on disk or in the kernel.
//! `SKEP_SEQUENCES=FIRST-LAST` names other seeds than the suite's.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use skep_engine::types::{EndpointSettings, ExecConfig, NetworkCreate, VolumeCreate};
use skep_engine::{EngineError, Kind, ListOptions, RemoveOptions, StopOptions};

/// Seeds of the suite.
const SEEDS: std::ops::Range<u64> = 0..60;
const REQUESTS: usize = 14;
const CONTAINERS: [&str; 4] = ["one", "two", "six", "ten"];
const VOLUMES: [&str; 2] = ["va", "vb"];

#[derive(Clone, Debug)]
enum Request {
    Create {
        name: &'static str,
        network: String,
        volume: Option<&'static str>,
        anonymous: bool,
    },
    Start(&'static str),
    Stop(&'static str),
    Kill(&'static str),
    Restart(&'static str),
    Pause(&'static str),
    Unpause(&'static str),
    Rename(&'static str, &'static str),
    Exec(&'static str),
    Remove {
        name: &'static str,
        force: bool,
        volumes: bool,
    },
    CreateNetwork(String),
    RemoveNetwork(String),
    Connect(String, &'static str),
    Disconnect(String, &'static str),
    CreateVolume(&'static str),
    RemoveVolume(&'static str),
    PruneContainers,
    PruneNetworks,
    PruneVolumes,
    /// The engine ends as in a crash and another takes over.
    Reopen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Created,
    Running,
    Paused,
    Exited,
}

impl State {
    fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
        }
    }
}

#[derive(Clone, Debug)]
struct Box {
    state: State,
    networks: BTreeSet<String>,
    volume: Option<&'static str>,
    anonymous: bool,
}

/// What should exist.
#[derive(Clone, Debug, Default)]
struct Model {
    boxes: BTreeMap<&'static str, Box>,
    networks: BTreeSet<String>,
    volumes: BTreeSet<&'static str>,
    /// Anonymous volumes that outlived their containers.
    orphans: usize,
    networks_made: usize,
}

type Answer = Result<(), Kind>;

impl Model {
    fn choose(&self, random: &mut StdRng) -> Request {
        let name = *CONTAINERS.choose(random).unwrap();
        let volume = *VOLUMES.choose(random).unwrap();
        let known: Vec<&String> = self.networks.iter().collect();
        let network = match known.choose(random) {
            Some(network) if random.random_bool(0.9) => (*network).clone(),
            _ => "missing".to_owned(),
        };
        match random.random_range(0..32) {
            0..=5 => Request::Create {
                name,
                network: match network.as_str() {
                    "missing" => "bridge".into(),
                    _ => network,
                },
                volume: random.random_bool(0.4).then_some(volume),
                anonymous: random.random_bool(0.4),
            },
            6..=10 => Request::Start(name),
            11 | 12 => Request::Stop(name),
            13 => Request::Kill(name),
            14 => Request::Restart(name),
            15 => Request::Pause(name),
            16 => Request::Unpause(name),
            17 => Request::Rename(name, CONTAINERS.choose(random).unwrap()),
            18 | 19 => Request::Exec(name),
            20 | 21 => Request::Remove {
                name,
                force: random.random(),
                volumes: random.random(),
            },
            22 => Request::CreateNetwork(format!("n{}", self.networks_made)),
            23 => Request::RemoveNetwork(network),
            24 | 25 => Request::Connect(network, name),
            26 => Request::Disconnect(network, name),
            27 => Request::CreateVolume(volume),
            28 => Request::RemoveVolume(volume),
            29 => Request::PruneContainers,
            30 => match random.random() {
                true => Request::PruneNetworks,
                false => Request::PruneVolumes,
            },
            _ => Request::Reopen,
        }
    }

    /// Does a request to the model, and says what the engine should answer.
    fn expect(&mut self, request: &Request) -> Answer {
        match request {
            Request::Create {
                name,
                network,
                volume,
                anonymous,
            } => {
                if self.boxes.contains_key(name) {
                    return Err(Kind::Conflict);
                }
                self.volumes.extend(volume);
                let made = Box {
                    state: State::Created,
                    networks: [network.clone()].into(),
                    volume: *volume,
                    anonymous: *anonymous,
                };
                self.boxes.insert(name, made);
                Ok(())
            }
            Request::Start(name) => self.start(name),
            Request::Stop(name) => match self.find(name)? {
                it if it.state.is_live() => {
                    it.state = State::Exited;
                    Ok(())
                }
                _ => Err(Kind::NotModified),
            },
            Request::Kill(name) => match self.find(name)? {
                it if it.state.is_live() => {
                    it.state = State::Exited;
                    Ok(())
                }
                _ => Err(Kind::Conflict),
            },
            Request::Restart(name) => {
                let it = self.find(name)?;
                if it.state.is_live() {
                    it.state = State::Exited;
                }
                self.start(name)
            }
            Request::Pause(name) => {
                self.between(name, (State::Running, State::Paused), Kind::Conflict)
            }
            // As dockerd answers it.
            Request::Unpause(name) => {
                self.between(name, (State::Paused, State::Running), Kind::Internal)
            }
            Request::Rename(from, to) => {
                self.find(from)?;
                if from == to {
                    return Err(Kind::Invalid);
                }
                if self.boxes.contains_key(to) {
                    return Err(Kind::Conflict);
                }
                let it = self.boxes.remove(from).unwrap();
                self.boxes.insert(to, it);
                Ok(())
            }
            Request::Exec(name) => match self.find(name)?.state {
                State::Running => Ok(()),
                _ => Err(Kind::Conflict),
            },
            Request::Remove {
                name,
                force,
                volumes,
            } => {
                if self.find(name)?.state.is_live() && !force {
                    return Err(Kind::Conflict);
                }
                self.remove(name, *volumes);
                Ok(())
            }
            Request::CreateNetwork(network) => {
                self.networks_made += 1;
                self.networks.insert(network.clone());
                Ok(())
            }
            Request::RemoveNetwork(network) => {
                if !self.networks.contains(network) {
                    return Err(Kind::NotFound);
                }
                let is_used = self
                    .boxes
                    .values()
                    .any(|it| it.state.is_live() && it.networks.contains(network));
                if is_used {
                    return Err(Kind::Forbidden);
                }
                self.networks.remove(network);
                Ok(())
            }
            Request::Connect(network, name) => {
                if !self.networks.contains(network) {
                    return Err(Kind::NotFound);
                }
                match self.find(name)?.networks.insert(network.clone()) {
                    true => Ok(()),
                    false => Err(Kind::Forbidden),
                }
            }
            Request::Disconnect(network, name) => {
                if !self.networks.contains(network) {
                    return Err(Kind::NotFound);
                }
                match self.find(name)?.networks.remove(network) {
                    true => Ok(()),
                    false => Err(Kind::Forbidden),
                }
            }
            Request::CreateVolume(volume) => {
                self.volumes.insert(volume);
                Ok(())
            }
            Request::RemoveVolume(volume) => {
                if !self.volumes.contains(volume) {
                    return Err(Kind::NotFound);
                }
                if self.boxes.values().any(|it| it.volume == Some(volume)) {
                    return Err(Kind::Conflict);
                }
                self.volumes.remove(volume);
                Ok(())
            }
            Request::PruneContainers => {
                let over: Vec<_> = self
                    .boxes
                    .iter()
                    .filter(|(_, it)| !it.state.is_live())
                    .map(|(name, _)| *name)
                    .collect();
                for name in over {
                    self.remove(name, false);
                }
                Ok(())
            }
            Request::PruneNetworks => {
                let named: BTreeSet<String> = self
                    .boxes
                    .values()
                    .flat_map(|it| it.networks.iter().cloned())
                    .collect();
                self.networks.retain(|network| named.contains(network));
                Ok(())
            }
            Request::PruneVolumes => {
                self.orphans = 0;
                Ok(())
            }
            Request::Reopen => Ok(()),
        }
    }

    fn find(&mut self, name: &str) -> Result<&mut Box, Kind> {
        self.boxes.get_mut(name).ok_or(Kind::NotFound)
    }

    fn start(&mut self, name: &str) -> Answer {
        let networks = self.networks.clone();
        let it = self.find(name)?;
        match it.state {
            State::Running => return Err(Kind::NotModified),
            State::Paused => return Err(Kind::Conflict),
            State::Created | State::Exited => {}
        }
        let all_there = it
            .networks
            .iter()
            .all(|network| network == "bridge" || networks.contains(network));
        if !all_there {
            return Err(Kind::NotFound);
        }
        it.state = State::Running;
        Ok(())
    }

    fn between(&mut self, name: &str, (from, to): (State, State), refusal: Kind) -> Answer {
        let it = self.find(name)?;
        if it.state != from {
            return Err(refusal);
        }
        it.state = to;
        Ok(())
    }

    fn remove(&mut self, name: &str, volumes: bool) {
        let it = self.boxes.remove(name).unwrap();
        if it.anonymous && !volumes {
            self.orphans += 1;
        }
    }
}

/// Does a request to the engine.
async fn carry_out(bench: &mut Bench, request: &Request) -> Result<(), EngineError> {
    let engine = bench.engine().clone();
    let at_once = || StopOptions {
        timeout: Some(0),
        ..StopOptions::default()
    };
    match request.clone() {
        Request::Create {
            name,
            network,
            volume,
            anonymous,
        } => {
            let config = with_host(running(&["sleep", "1000"]), |host| {
                host.network_mode = network;
                let mut binds: Vec<String> = volume
                    .map(|volume| format!("{volume}:/data"))
                    .into_iter()
                    .collect();
                binds.extend(anonymous.then(|| "/own".to_owned()));
                host.binds = Some(binds);
            });
            engine
                .container_create(Some(name), config, Default::default())
                .await
                .map(drop)
        }
        Request::Start(name) => start(&engine, name).await,
        Request::Stop(name) => engine.container_stop(name, at_once()).await,
        Request::Kill(name) => {
            engine.container_kill(name, "").await?;
            until_inspect(&engine, name, "the end", |found| !found.state.running).await;
            Ok(())
        }
        Request::Restart(name) => engine.container_restart(name, at_once()).await,
        Request::Pause(name) => engine.container_pause(name).await,
        Request::Unpause(name) => engine.container_unpause(name).await,
        Request::Rename(from, to) => engine.container_rename(from, to).await,
        Request::Exec(name) => {
            let config = ExecConfig {
                cmd: ["sh", "-c", "exit 7"].map(str::to_owned).to_vec(),
                attach_stdout: true,
                ..ExecConfig::default()
            };
            let id = engine.exec_create(name, config).await?;
            let attached = engine.exec_start(&id, Default::default()).await?;
            let mut output = attached.expect("it is attached").output;
            while output.next().await.is_some() {}
            assert_eq!(engine.exec_inspect(&id).await?.exit_code, Some(7));
            Ok(())
        }
        Request::Remove {
            name,
            force,
            volumes,
        } => {
            let options = RemoveOptions { force, volumes };
            engine.container_remove(name, options).await
        }
        Request::CreateNetwork(name) => {
            let request = NetworkCreate {
                name,
                ..NetworkCreate::default()
            };
            engine.network_create(request).await.map(drop)
        }
        Request::RemoveNetwork(name) => engine.network_remove(&name).await,
        Request::Connect(network, name) => {
            let endpoint = EndpointSettings::default();
            engine.network_connect(&network, name, endpoint).await
        }
        Request::Disconnect(network, name) => {
            engine.network_disconnect(&network, name, false).await
        }
        Request::CreateVolume(name) => {
            let request = VolumeCreate {
                name: name.to_owned(),
                ..VolumeCreate::default()
            };
            engine.volume_create(request).await.map(drop)
        }
        Request::RemoveVolume(name) => engine.volume_remove(name, false).await,
        Request::PruneContainers => engine.container_prune(&Default::default()).await.map(drop),
        Request::PruneNetworks => engine.network_prune(&Default::default()).await.map(drop),
        Request::PruneVolumes => engine.volume_prune(&Default::default()).await.map(drop),
        Request::Reopen => {
            drop(engine);
            bench.close().await;
            bench.open().await;
            Ok(())
        }
    }
}

/// What the engine has, in the model's words.
async fn compare(bench: &Bench, model: &Model) -> Result<(), String> {
    let engine = bench.engine();
    let all = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    let mut found = BTreeMap::new();
    for container in engine.container_list(all).await.unwrap() {
        let name = container.names[0].trim_start_matches('/').to_owned();
        let networks: BTreeSet<String> = container
            .network_settings
            .networks
            .keys()
            .cloned()
            .collect();
        found.insert(name, (container.state, networks));
    }
    let wanted: BTreeMap<String, (String, BTreeSet<String>)> = model
        .boxes
        .iter()
        .map(|(name, it)| {
            let state = it.state.name().to_owned();
            ((*name).to_owned(), (state, it.networks.clone()))
        })
        .collect();
    equal("containers", &found, &wanted)?;
    let mut networks = BTreeMap::new();
    for network in engine.network_list(&Default::default()).await.unwrap() {
        let shown = engine.network_inspect(&network.id).await.unwrap();
        networks.insert(network.name, shown.containers.map_or(0, |on| on.len()));
    }
    let mut wanted: BTreeMap<String, usize> = ["bridge", "host", "none"]
        .into_iter()
        .map(str::to_owned)
        .chain(model.networks.iter().cloned())
        .map(|network| (network, 0))
        .collect();
    for it in model.boxes.values().filter(|it| it.state.is_live()) {
        for network in &it.networks {
            *wanted.entry(network.clone()).or_default() += 1;
        }
    }
    equal("networks and who is on them", &networks, &wanted)?;
    let volumes = engine.volume_list(&Default::default()).await.unwrap();
    let (named, anonymous): (Vec<_>, Vec<_>) = volumes
        .iter()
        .map(|volume| volume.name.as_str())
        .partition(|name| VOLUMES.contains(name));
    equal("volumes", &named.into_iter().collect(), &model.volumes)?;
    let owned = model.boxes.values().filter(|it| it.anonymous).count();
    equal(
        "anonymous volumes",
        &anonymous.len(),
        &(owned + model.orphans),
    )
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<(), String> {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{what} are {found:?}, should be {wanted:?}")),
    }
}

async fn clear(bench: &Bench, model: &Model) {
    let engine = bench.engine();
    for name in model.boxes.keys() {
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        engine.container_remove(name, options).await.unwrap();
    }
    for network in &model.networks {
        engine.network_remove(network).await.unwrap();
    }
    for volume in &model.volumes {
        engine.volume_remove(volume, false).await.unwrap();
    }
    engine.volume_prune(&Default::default()).await.unwrap();
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SKEP_SEQUENCES") else {
        return SEEDS;
    };
    let (first, last) = text.split_once('-').expect("SKEP_SEQUENCES is FIRST-LAST");
    first.parse().unwrap()..last.parse::<u64>().unwrap() + 1
}

#[test]
fn what_is_asked_for_is_what_there_is() {
    in_own_network(async |mut bench| {
        // What the first container on a bridge makes stays.
        let first = Request::Create {
            name: "one",
            network: "bridge".into(),
            volume: None,
            anonymous: false,
        };
        carry_out(&mut bench, &first).await.unwrap();
        start(bench.engine(), "one").await.unwrap();
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        bench
            .engine()
            .container_remove("one", options)
            .await
            .unwrap();
        let before = kept(&bench);
        let mut requests = 0;
        for seed in seeds() {
            let mut random = StdRng::seed_from_u64(seed);
            let mut model = Model::default();
            let mut done: Vec<Request> = Vec::new();
            for _ in 0..REQUESTS {
                let request = model.choose(&mut random);
                done.push(request.clone());
                let wanted = model.expect(&request);
                let result = carry_out(&mut bench, &request).await;
                let answer = result.as_ref().copied().map_err(EngineError::kind);
                assert_eq!(answer, wanted, "seed {seed}: {result:?} after {done:#?}");
                if let Err(difference) = compare(&bench, &model).await {
                    panic!("seed {seed}: {difference} after {done:#?}");
                }
                requests += 1;
            }
            clear(&bench, &model).await;
            let after = kept(&bench);
            let left: Vec<_> = after.difference(&before).collect();
            let missing: Vec<_> = before.difference(&after).collect();
            assert!(
                left.is_empty() && missing.is_empty(),
                "seed {seed}: left {left:#?}, missing {missing:#?} after {done:#?}"
            );
        }
        println!("{requests} requests agreed");
        bench.finish().await;
    });
}
