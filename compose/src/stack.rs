//! The merged files → the stack they ask for.
//!
//! Follows what `docker stack deploy` makes of a file, so that a file deployed with either gives
//! the same objects.

mod container;
mod dependency;
mod mount;
mod network;
mod object;
mod service;

use std::collections::BTreeMap;

use skep_model::StackSpec;
use skep_model::stack::STACK_LABEL;

use crate::context::Context;
use crate::file::File;
use crate::report::At;
use crate::text::nearest::nearest;

/// Makes the stack; what cannot be goes to the report. The result counts only without errors.
pub(crate) fn convert(mut file: File, cx: &mut Context<'_>) -> StackSpec {
    leave_out_inactive(&mut file, cx);
    let (networks, external_networks) = network::networks(&file, cx);
    let (secrets, external_secrets) = object::secrets(&file, cx);
    let (configs, external_configs) = object::configs(&file, cx);
    let services = file
        .services
        .iter()
        .map(|(name, one)| service::service(name, one, &file, cx))
        .collect();
    let depends_on = dependency::dependencies(&file, cx);
    StackSpec {
        name: cx.options.stack.clone(),
        networks,
        secrets,
        configs,
        services,
        depends_on,
        external_networks,
        external_secrets,
        external_configs,
    }
}

/// `STACK_name`.
fn scoped(name: &str, cx: &Context<'_>) -> String {
    format!("{}_{name}", cx.options.stack)
}

/// The given labels and the stack's own.
fn labelled(
    labels: Option<&BTreeMap<String, String>>,
    cx: &Context<'_>,
) -> BTreeMap<String, String> {
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert(STACK_LABEL.to_owned(), cx.options.stack.clone());
    labels
}

/// Reports a name that the top level does not define.
fn undefined<T>(
    service: &str,
    what: &str,
    name: &str,
    at: At,
    defined: &BTreeMap<String, T>,
    cx: &mut Context<'_>,
) {
    let known: Vec<&str> = defined.keys().map(String::as_str).collect();
    let hint = match nearest(name, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("define it at the top level, below `{what}s:`"),
    };
    cx.error_with_hint(
        at,
        format!("service {service}: undefined {what} {name:?}"),
        hint,
    );
}

/// Removes the services of which no profile is active (`COMPOSE_PROFILES`).
fn leave_out_inactive(file: &mut File, cx: &mut Context<'_>) {
    let active = (cx.env)("COMPOSE_PROFILES").unwrap_or_default();
    let active: Vec<&str> = active.split(',').map(str::trim).collect();
    file.services.retain(|name, service| {
        let Some(first) = service.profiles.first() else {
            return true;
        };
        let is_active = |profile: &str| active.contains(&profile) || active.contains(&"*");
        if service
            .profiles
            .iter()
            .any(|profile| is_active(&profile.value))
        {
            return true;
        }
        cx.report.warn(
            first.at,
            format!("service {name} is left out: none of its profiles is active"),
            Some(format!("set COMPOSE_PROFILES={}", first.value)),
        );
        false
    });
}
