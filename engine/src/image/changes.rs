//! Dockerfile instructions given to `commit` and `import`.

use skep_dockerfile::{Expander, Instruction, parse_trigger};

use crate::build::metadata;
use crate::error::{EngineError, Result};
use crate::types::ImageConfig;

/// Applies instructions such as `CMD ["sh"]` or `ENV A=b` in order.
pub(crate) fn apply(config: &mut ImageConfig, changes: &[String]) -> Result<()> {
    for change in changes {
        for line in change.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            apply_one(config, line)?;
        }
    }
    Ok(())
}

fn apply_one(config: &mut ImageConfig, line: &str) -> Result<()> {
    let keyword = line
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    let invalid = || EngineError::invalid(format!("{keyword} is not a valid change command"));
    if matches!(
        keyword.as_str(),
        "RUN" | "COPY" | "ADD" | "FROM" | "ARG" | "MAINTAINER"
    ) {
        return Err(invalid());
    }
    let step = parse_trigger(line).map_err(|error| match error.message {
        message if message.starts_with("unknown instruction") => invalid(),
        message => EngineError::invalid(message),
    })?;
    if let Instruction::Workdir(path) = &step.instruction {
        let path = expand(config, |words| metadata::Words::one(words, path))?;
        config.working_dir = match path.starts_with('/') {
            true => path,
            false => format!("{}/{path}", config.working_dir.trim_end_matches('/')),
        };
        return Ok(());
    }
    let mut changed = config.clone();
    expand(config, |words| {
        metadata::apply(&mut changed, &step.instruction, words)
    })?
    .ok_or_else(invalid)?;
    *config = changed;
    Ok(())
}

/// Runs `work` with what expands words by the configuration's own variables.
fn expand<T>(config: &ImageConfig, work: impl FnOnce(&Expander<'_>) -> Result<T>) -> Result<T> {
    let lookup = |name: &str| {
        config.env.iter().find_map(|variable| {
            let (key, value) = variable.split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    };
    work(&Expander::new('\\', &lookup))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::Nanos;

    fn changed(changes: &[&str]) -> Result<ImageConfig> {
        let mut config = ImageConfig::default();
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        apply(&mut config, &changes).map(|()| config)
    }

    #[test]
    fn instructions_change_the_configuration() {
        let config = changed(&[
            "CMD [\"sh\", \"-c\", \"true\"]",
            "ENTRYPOINT top -b",
            "ENV A=1 B=\"two words\"",
            "ENV C three words",
            "env A=2",
            "ENV D=$A$C",
            "EXPOSE 80 53/udp",
            "LABEL a=b",
            "USER nobody",
            "WORKDIR /srv",
            "WORKDIR www",
            "VOLUME [\"/data\", \"/more\"]",
            "HEALTHCHECK --interval=2s --retries=4 CMD wget -q localhost",
            "STOPSIGNAL SIGINT",
        ])
        .unwrap();
        assert_eq!(config.cmd.unwrap().0, ["sh", "-c", "true"]);
        assert_eq!(config.entrypoint.unwrap().0, ["/bin/sh", "-c", "top -b"]);
        assert_eq!(
            config.env,
            ["A=2", "B=two words", "C=three words", "D=2three words"]
        );
        assert_eq!(
            config.exposed_ports.keys().collect::<Vec<_>>(),
            ["53/udp", "80/tcp"]
        );
        assert_eq!(config.working_dir, "/srv/www");
        assert_eq!(config.volumes.len(), 2);
        let health = config.healthcheck.unwrap();
        assert_eq!(health.interval, Nanos::from_secs(2));
        assert_eq!(health.test, ["CMD-SHELL", "wget -q localhost"]);
        assert_eq!(config.stop_signal, "SIGINT");
    }

    #[test]
    fn what_cannot_be_changed_is_named() {
        for (change, why) in [
            ("RUN true", "RUN is not a valid change command"),
            ("NOPE true", "NOPE is not a valid change command"),
            ("ENV", "ENV requires at least one argument"),
        ] {
            assert_eq!(changed(&[change]).unwrap_err().to_string(), why);
        }
        assert!(changed(&["ENV =x"]).is_err());
        assert!(changed(&["STOPSIGNAL SIGNOPE"]).is_err());
        assert!(changed(&["HEALTHCHECK FOO"]).is_err());
    }
}
