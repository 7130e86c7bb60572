//! Versions of secrets and configs: a payload is replaced under its name, and its users with it.

use std::collections::{BTreeMap, BTreeSet};

use skep_model::container::FileTarget;
use skep_model::expiry::Expiry;
use skep_model::mount::Driver;
use skep_model::payload::{EARLIER_BYTES_MAX, OnUpdate, Payload, PayloadId, Pin, VersionChange};
use skep_model::secret_store::{changed, check_driver};
use skep_model::{Config, ControlError, Kind, Secret, Service, ServiceId, ServiceSpec, Stack};
use skep_store::{Record, Snapshot};

use super::{Done, Door, not_found, variable};

impl Door<'_> {
    /// Gives a secret or config its next version, and the services that use it.
    pub(super) fn change_version(
        &mut self,
        object: &PayloadId,
        change: &VersionChange,
        users: Option<&str>,
        expiry: Option<&Expiry>,
    ) -> Done {
        match object {
            PayloadId::Secret(id) => {
                let known = self.tx.find::<Secret>(id.as_str()).map_err(not_found)?;
                let secret = Secret::clone(known);
                refuse_other_home(&secret, change)?;
                let number = secret.number();
                self.turn_payload(secret, change, users)?;
                self.settle_expiry(id, number, expiry)
            }
            PayloadId::Config(_) if expiry.is_some() => {
                Err(ControlError::invalid("configs do not expire"))
            }
            PayloadId::Config(_) if matches!(change, VersionChange::Anew(_)) => {
                Err(ControlError::invalid("configs are in no other store"))
            }
            PayloadId::Config(id) => {
                let known = self.tx.find::<Config>(id.as_str()).map_err(not_found)?;
                let config = Config::clone(known);
                self.turn_payload(config, change, users)
            }
        }
    }

    fn turn_payload<P: Payload + Record>(
        &mut self,
        mut payload: P,
        change: &VersionChange,
        users: Option<&str>,
    ) -> Done {
        let users = users.map(|given| policy(given, "users")).transpose()?;
        let had = payload.driver_mut().cloned();
        let (data, driver, because) = match change {
            VersionChange::Next(data) => (data.clone(), had.clone(), "updated".to_owned()),
            VersionChange::Back(number) => {
                let (number, data) = earlier(&payload, *number)?;
                let mut versions = payload.versions().earlier.iter();
                let past = versions.find(|one| one.number == number);
                let driver = past.and_then(|past| past.driver.clone());
                let because = format!("rolled back to {number}");
                (data, driver.or_else(|| had.clone()), because)
            }
            VersionChange::Anew(changes) => {
                let driver = anew(had.as_ref(), changes)?;
                (Vec::new(), driver, "fetched anew".to_owned())
            }
        };
        if driver.is_none() && (data.is_empty() || data.len() >= P::BYTES_MAX) {
            return Err(ControlError::invalid(format!(
                "{} data must be larger than 0 and less than {} bytes",
                P::WORD,
                P::BYTES_MAX
            )));
        }
        // The same bytes are the same version, but users that were left behind follow. What another
        // store holds by now may be anything.
        let is_anew = had.is_some() && !matches!(change, VersionChange::Next(_));
        if is_anew || data != *payload.data() || driver != had {
            payload.advance(data, because, self.now);
            if let Some((present, driver)) = payload.driver_mut().zip(driver) {
                *present = driver;
            }
        }
        let number = payload.number();
        self.response.id = number.to_string();
        self.move_users(&payload, number, users.as_ref())?;
        let object = payload.payload_id();
        let used = used(self.tx.view(), &object);
        let past = past(self.tx.view(), &object);
        let in_use = |number: u64| used.contains(&number);
        let mut bytes = payload.keep(|number| in_use(number) || past.contains(&number));
        if bytes > EARLIER_BYTES_MAX {
            // Revisions that name what goes now go on with the present one.
            bytes = payload.keep(in_use);
        }
        if bytes > EARLIER_BYTES_MAX {
            return Err(ControlError::new(
                Kind::FailedPrecondition,
                format!(
                    "{} {}: its earlier versions that tasks and services still use take {bytes} bytes, more than {EARLIER_BYTES_MAX}: wait until its users have followed",
                    P::WORD,
                    payload.payload_name()
                ),
            ));
        }
        self.put(payload)
    }

    /// Forgets all versions but the present one, for good: what could be gone back to goes on with the
    /// present one.
    pub(super) fn forget_versions(&mut self, object: &PayloadId) -> Done {
        match object {
            PayloadId::Secret(id) => {
                let known = self.tx.find::<Secret>(id.as_str()).map_err(not_found)?;
                self.forget_earlier(Secret::clone(known))
            }
            PayloadId::Config(id) => {
                let known = self.tx.find::<Config>(id.as_str()).map_err(not_found)?;
                self.forget_earlier(Config::clone(known))
            }
        }
    }

    fn forget_earlier<P: Payload + Record>(&mut self, mut payload: P) -> Done {
        let object = payload.payload_id();
        let number = payload.number();
        let refused = |who: String| {
            let message = format!("{} {}: {who}", P::WORD, payload.payload_name());
            Err(ControlError::new(Kind::FailedPrecondition, message))
        };
        let view = self.tx.view().clone();
        let used = in_tasks(&view, &object);
        if let Some((used, task)) = used.iter().find(|(used, _)| **used != number) {
            return refused(format!(
                "version {used} cannot be forgotten yet, task {task} sees it"
            ));
        }
        for service in view.services() {
            let mut changed = Service::clone(service);
            let present = pins(&mut changed.spec, &object);
            if let Some(pin) = present.into_iter().find(|pin| pin.number() != number) {
                return refused(format!(
                    "version {} cannot be forgotten yet, service {} uses it",
                    pin.number(),
                    service.spec.name
                ));
            }
            let past = changed.history.iter_mut().map(|past| &mut *past.spec);
            for spec in past.chain(changed.previous_spec.as_deref_mut()) {
                for pin in pins(spec, &object) {
                    if pin.number() != number {
                        *pin = Pin::to(number);
                    }
                }
            }
            if changed != **service {
                self.put(changed)?;
            }
        }
        let versions = payload.versions_mut();
        let newest = versions.earlier.first().map(|one| one.number);
        let forgotten = std::mem::take(&mut versions.earlier);
        versions.forgotten = newest.unwrap_or_default().max(versions.forgotten);
        for earlier in &forgotten {
            let action = format!("Forgetting version {}", earlier.number);
            self.response.actions.push(action);
        }
        if let PayloadId::Config(_) = object {
            self.scrub_stacks(payload.payload_name(), payload.data())?;
        }
        self.put(payload)
    }

    /// Takes all bytes of a config but the present ones out of what stacks are and were. One without any
    /// keeps what it has when it is deployed.
    fn scrub_stacks(&mut self, name: &str, present: &[u8]) -> Done {
        let view = self.tx.view().clone();
        for stack in view.stacks() {
            let mut changed = Stack::clone(stack);
            let past = changed.history.iter_mut().map(|past| &mut past.spec);
            for spec in past.chain([&mut changed.spec]) {
                let mut configs = spec.configs.iter_mut();
                if let Some(config) = configs.find(|one| one.name == name)
                    && config.data != present
                {
                    config.data.clear();
                }
            }
            if changed != **stack {
                self.put(changed)?;
            }
        }
        Ok(())
    }

    /// Has every service that uses the payload use this version, in the way that is asked for.
    fn move_users<P: Payload>(
        &mut self,
        payload: &P,
        number: u64,
        asked: Option<&OnUpdate>,
    ) -> Done {
        let object = payload.payload_id();
        for id in users(self.tx.view(), &object) {
            let Some(service) = self.tx.service(&id).cloned() else {
                continue;
            };
            let on_update = match asked {
                // What a job does is not done again for the sake of its password.
                _ if service.spec.mode.is_job() => OnUpdate::Nothing,
                Some(asked) => asked.clone(),
                None => labelled(payload, &service.spec)?,
            };
            let mut spec = service.spec.clone();
            let Some(container) = &mut spec.task_template.container_spec else {
                continue;
            };
            variable::check_users(payload, &service.spec, payload.data())?;
            let on_update = variable::on_update(payload, container, on_update);
            for pin in container.pins_mut(&object) {
                // Tasks that were left behind follow, also where the service names it already.
                let left_behind = pin.accepts_from != 0 && on_update != OnUpdate::Nothing;
                if pin.number() != number || left_behind {
                    *pin = pin.moved_to(number, &on_update);
                }
            }
            if spec == service.spec {
                continue;
            }
            let name = &service.spec.name;
            self.response.actions.push(match &on_update {
                OnUpdate::Roll => format!("Updating service {name}"),
                OnUpdate::Signal(signal) => {
                    format!("Replacing it in the tasks of service {name}, then {signal}")
                }
                OnUpdate::Nothing => format!("New tasks of service {name} get it"),
            });
            let because = format!("{} {} {number}", P::WORD, payload.payload_name());
            self.put_spec_because(Service::clone(&service), spec, &because)?;
        }
        Ok(())
    }
}

/// Which version the references of a spec mean that name none.
#[derive(Clone, Copy)]
pub(super) enum Settle<'a> {
    /// The present one: the service is new.
    Present,
    /// The one that the service has had so far, for clients that know of no versions.
    AsIn(&'a ServiceSpec),
    /// Each names one, and the first goes without saying: a spec of the past. What was forgotten
    /// meanwhile gives way to the present one.
    AsItWas,
}

impl Settle<'_> {
    /// Settles a reference of a service to a payload, which is put at `target`.
    pub(super) fn version<P: Payload>(
        self,
        payload: &P,
        target: Option<&FileTarget>,
        pin: &mut Pin,
    ) -> Done {
        let is_there = payload.of_version(pin.number()).is_some();
        match self {
            Self::AsItWas if is_there => return Ok(()),
            Self::Present | Self::AsIn(_) if *pin != Pin::default() => {
                return match is_there {
                    true => Ok(()),
                    false => Err(ControlError::invalid(format!(
                        "{} {} has no version {} (any more)",
                        P::WORD,
                        payload.payload_name(),
                        pin.number()
                    ))),
                };
            }
            _ => (),
        }
        let known = match self {
            Self::AsIn(spec) => spec.task_template.container(),
            Self::Present | Self::AsItWas => None,
        };
        let object = payload.payload_id();
        let known = known.and_then(|container| container.pin_of(&object, target));
        *pin = known.map_or_else(|| Pin::to(payload.number()), Pin::clone);
        Ok(())
    }
}

/// Refuses bytes for a secret that has them from another store, and the other way round.
fn refuse_other_home(secret: &Secret, change: &VersionChange) -> Done {
    let name = &secret.spec.name;
    match (&secret.spec.driver, change) {
        (Some(driver), VersionChange::Next(_)) => Err(ControlError::invalid(format!(
            "secret {name} has its bytes from secret store {}: change them there, then have its users fetch them: skep secret rotate {name}",
            driver.name
        ))),
        (None, VersionChange::Anew(_)) => Err(ControlError::invalid(format!(
            "secret {name} is in no other store: its next version needs bytes"
        ))),
        _ => Ok(()),
    }
}

/// A store with other options.
fn anew(
    had: Option<&Driver>,
    changes: &BTreeMap<String, String>,
) -> Result<Option<Driver>, ControlError> {
    let Some(had) = had else { return Ok(None) };
    let driver = Driver {
        name: had.name.clone(),
        options: changed(&had.options, changes),
    };
    check_driver(&driver).map_err(|why| ControlError::invalid(format!("Driver: {why}")))?;
    Ok(Some(driver))
}

fn policy(given: &str, whose: &str) -> Result<OnUpdate, ControlError> {
    let read = given.parse::<OnUpdate>();
    read.map_err(|why| ControlError::invalid(format!("{whose}: {why}")))
}

/// What labels say of an update: the service's first, since it knows its program.
fn labelled<P: Payload>(payload: &P, service: &ServiceSpec) -> Result<OnUpdate, ControlError> {
    let label = P::ON_UPDATE_LABEL;
    let of_service = service.labels.get(label);
    match (of_service, payload.labels().get(label)) {
        (Some(given), _) => policy(given, &format!("label {label} of service {}", service.name)),
        (None, Some(given)) => {
            let whose = format!("label {label} of {} {}", P::WORD, payload.payload_name());
            policy(given, &whose)
        }
        (None, None) => Ok(OnUpdate::default()),
    }
}

fn earlier<P: Payload>(payload: &P, number: u64) -> Result<(u64, Vec<u8>), ControlError> {
    let versions = &payload.versions().earlier;
    let number = match (number, versions.first()) {
        (0, Some(newest)) => newest.number,
        (0, None) => {
            return Err(ControlError::new(
                Kind::FailedPrecondition,
                format!(
                    "{} {} has no earlier version",
                    P::WORD,
                    payload.payload_name()
                ),
            ));
        }
        (number, _) => number,
    };
    let found = payload.of_version(number).map(<[u8]>::to_vec);
    let data = found.ok_or_else(|| {
        let numbers = versions.iter().map(|one| one.number.to_string());
        let known = std::iter::once(payload.number().to_string()).chain(numbers);
        let known: Vec<String> = known.collect();
        ControlError::not_found(format!(
            "{} {} has no version {number} (any more); it has {}",
            P::WORD,
            payload.payload_name(),
            known.join(", ")
        ))
    })?;
    Ok((number, data))
}

/// Services whose present spec names the payload.
pub(crate) fn users(view: &Snapshot, object: &PayloadId) -> Vec<ServiceId> {
    let id = |service: &std::sync::Arc<Service>| service.id.clone();
    match object {
        PayloadId::Secret(secret) => view.services_with_secret(secret).map(id).collect(),
        PayloadId::Config(config) => view.services_with_config(config).map(id).collect(),
    }
}

/// The versions of a payload that live tasks and specs of services name, and specs that an update may yet
/// go back to.
fn used(view: &Snapshot, object: &PayloadId) -> BTreeSet<u64> {
    let mut used: BTreeSet<u64> = in_tasks(view, object).into_keys().collect();
    for service in view.services() {
        let before = service.previous_spec.as_deref();
        let specs = before.into_iter().chain([&service.spec]);
        used.extend(specs.flat_map(|spec| numbers(spec, object)));
    }
    used
}

/// Those that revisions of the past name.
fn past(view: &Snapshot, object: &PayloadId) -> BTreeSet<u64> {
    let services = view.services();
    let past = services.flat_map(|service| service.history.iter());
    past.flat_map(|past| numbers(&past.spec, object)).collect()
}

fn numbers<'a>(spec: &'a ServiceSpec, object: &'a PayloadId) -> impl Iterator<Item = u64> + 'a {
    let container = spec.task_template.container().into_iter();
    let named = container.flat_map(|container| container.payloads());
    let named = named.filter(|one| one.object == *object);
    named.map(|one| one.pin.number())
}

/// The versions of a payload that live tasks see or are to see, each with the name of one of them.
fn in_tasks(view: &Snapshot, object: &PayloadId) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let id = object.as_str();
    for task in view.tasks().filter(|task| !task.status.state.is_terminal()) {
        let payloads = task.spec.container().into_iter();
        let payloads = payloads.flat_map(|container| container.payloads());
        for one in payloads.filter(|one| one.object == *object) {
            let seen = task.version_seen(id, one.pin);
            for number in [task.version_wanted(id, one.pin), seen] {
                found.entry(number).or_insert_with(|| task.name());
            }
        }
    }
    found
}

fn pins<'a>(spec: &'a mut ServiceSpec, object: &'a PayloadId) -> Vec<&'a mut Pin> {
    let container = spec.task_template.container_spec.iter_mut();
    container
        .flat_map(|container| container.pins_mut(object))
        .collect()
}
