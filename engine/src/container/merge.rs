//! A container's configuration is the request over the image's.

use crate::error::{EngineError, Result};
use crate::types::{ContainerConfig, HealthConfig, ImageConfig};

/// `PATH` of containers whose image names none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Fills what the request leaves open from the image.
pub(crate) fn merge(config: &mut ContainerConfig, image: &ImageConfig) -> Result<()> {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    for port in image.exposed_ports.keys() {
        config.exposed_ports.entry(port.clone()).or_default();
    }
    for variable in &image.env {
        let name = variable.split('=').next();
        if !config.env.iter().any(|own| own.split('=').next() == name) {
            config.env.push(variable.clone());
        }
    }
    for (key, value) in &image.labels {
        config
            .labels
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
    if config
        .entrypoint
        .as_ref()
        .is_none_or(|own| own.0.is_empty())
    {
        if config.cmd.as_ref().is_none_or(|own| own.0.is_empty()) {
            config.cmd.clone_from(&image.cmd);
            config.args_escaped = image.args_escaped;
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // `--entrypoint ""` takes the image's entrypoint away and puts none there.
    if config
        .entrypoint
        .as_ref()
        .is_some_and(|own| matches!(&own.0[..], [only] if only.is_empty()))
    {
        config.entrypoint = None;
    }
    config.healthcheck = merge_health(config.healthcheck.take(), image.healthcheck.as_ref());
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    for path in image.volumes.keys() {
        config
            .volumes
            .get_or_insert_default()
            .entry(path.clone())
            .or_default();
    }
    config.volumes = config.volumes.take().filter(|paths| !paths.is_empty());
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.shell.is_none() {
        config.shell.clone_from(&image.shell);
    }
    let words = |list: &Option<crate::types::StrSlice>| list.as_ref().map_or(0, |l| l.0.len());
    if words(&config.entrypoint) + words(&config.cmd) == 0 {
        return Err(EngineError::invalid("no command specified"));
    }
    Ok(())
}

fn merge_health(own: Option<HealthConfig>, image: Option<&HealthConfig>) -> Option<HealthConfig> {
    let Some(image) = image else { return own };
    let Some(mut own) = own else {
        return Some(image.clone());
    };
    if own.test.is_empty() {
        own.test.clone_from(&image.test);
    }
    for (own, image) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
    ] {
        if own.0 == 0 {
            *own = image;
        }
    }
    if own.retries == 0 {
        own.retries = image.retries;
    }
    Some(own)
}

/// The environment of the main process: docker's own variables, then the
/// configured ones; a name without `=` takes a variable away.
pub(crate) fn environment(config: &ContainerConfig, linked: &[String]) -> Vec<String> {
    let mut env = vec![
        DEFAULT_PATH.to_owned(),
        format!("HOSTNAME={}", config.hostname),
    ];
    if config.tty {
        env.push("TERM=xterm".into());
    }
    env.extend_from_slice(linked);
    overlay(&mut env, &config.env);
    env
}

/// Takes variables away that come from elsewhere.
pub(crate) fn hide<'a>(env: &mut Vec<String>, hidden: impl Iterator<Item = &'a str>) {
    for name in hidden {
        env.retain(|own| own.split('=').next() != Some(name));
    }
}

/// Replaces or adds variables.
pub(crate) fn overlay(env: &mut Vec<String>, changes: &[String]) {
    for change in changes {
        let name = change.split('=').next();
        let present = env.iter().position(|own| own.split('=').next() == name);
        match (present, change.contains('=')) {
            (Some(at), true) => env[at].clone_from(change),
            (Some(at), false) => {
                env.remove(at);
            }
            (None, true) => env.push(change.clone()),
            (None, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_is_not_in_the_environment() {
        let mut env = vec!["A=1".to_owned(), "AB=2".to_owned(), "B=A=3".to_owned()];
        hide(&mut env, ["A", "C"].into_iter());
        assert_eq!(env, ["AB=2", "B=A=3"]);
    }

    use skep_model::Nanos;

    fn words(words: &[&str]) -> Option<crate::types::StrSlice> {
        Some(
            words
                .iter()
                .map(|w| (*w).to_owned())
                .collect::<Vec<_>>()
                .into(),
        )
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: words(&["/entry"]),
            cmd: words(&["serve"]),
            env: vec!["A=image".into(), "B=image".into()],
            user: "app".into(),
            working_dir: "/srv".into(),
            healthcheck: Some(HealthConfig {
                test: vec!["CMD".into(), "x".into()],
                interval: Nanos::from_secs(3),
                retries: 5,
                ..HealthConfig::default()
            }),
            ..ImageConfig::default()
        }
    }

    fn merged(mut config: ContainerConfig) -> ContainerConfig {
        merge(&mut config, &image()).unwrap();
        config
    }

    #[test]
    fn commands_follow_dockers_rule() {
        let check = |entrypoint: Option<&[&str]>, cmd: Option<&[&str]>, expected: &[&str]| {
            let config = merged(ContainerConfig {
                entrypoint: entrypoint.and_then(words),
                cmd: cmd.and_then(words),
                ..ContainerConfig::default()
            });
            let all: Vec<String> = [config.entrypoint, config.cmd]
                .into_iter()
                .flatten()
                .flat_map(|list| list.0)
                .collect();
            assert_eq!(all, expected);
        };
        check(None, None, &["/entry", "serve"]);
        check(None, Some(&["other"]), &["/entry", "other"]);
        check(Some(&["/mine"]), None, &["/mine"]);
        check(Some(&["/mine"]), Some(&["arg"]), &["/mine", "arg"]);
        check(Some(&[""]), Some(&["arg"]), &["arg"]);
        let mut nothing = ContainerConfig {
            entrypoint: words(&[""]),
            ..ContainerConfig::default()
        };
        assert_eq!(
            merge(&mut nothing, &image()).unwrap_err().to_string(),
            "no command specified"
        );
    }

    #[test]
    fn the_request_wins_and_the_image_fills_in() {
        let config = merged(ContainerConfig {
            env: vec!["A=mine".into()],
            healthcheck: Some(HealthConfig {
                interval: Nanos::from_secs(9),
                ..HealthConfig::default()
            }),
            ..ContainerConfig::default()
        });
        assert_eq!(config.env, ["A=mine", "B=image"]);
        assert_eq!(config.user, "app");
        assert_eq!(config.working_dir, "/srv");
        let health = config.healthcheck.unwrap();
        assert_eq!((health.interval, health.retries), (Nanos::from_secs(9), 5));
        assert_eq!(health.test, ["CMD", "x"]);
    }

    #[test]
    fn the_environment_begins_with_dockers_own() {
        let config = ContainerConfig {
            hostname: "h".into(),
            tty: true,
            env: vec!["TERM=vt100".into(), "X=1".into(), "HOSTNAME".into()],
            ..ContainerConfig::default()
        };
        assert_eq!(
            environment(&config, &[]),
            [DEFAULT_PATH, "TERM=vt100", "X=1"]
        );
    }
}
