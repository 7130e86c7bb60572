//! Payloads of secrets and configs as a task is to see them: where their driver says so they are
//! templates.

use skep_model::container::{ContainerSpec, FileTarget};
use skep_model::mount::Driver;
use skep_model::payload::{InPlace, Payload as _, Pin, wanted};
use skep_model::template::{Called, Context, Position, TemplateError, expand, expand_with};

use super::spec::SpecError;
use crate::assigned::Assigned;

/// What a payload is of. Nothing of a secret's is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Secret,
    Config,
}

/// What payloads with templates may speak of: the task, its variables, and its other files.
pub struct Payloads<'a> {
    pub spec: &'a ContainerSpec,
    pub assigned: &'a Assigned,
    pub context: &'a Context,
    /// Versions that the task is to see instead of those that its spec names.
    pub in_place: &'a [InPlace],
}

impl Payloads<'_> {
    /// The version of a payload that the task is to see.
    pub fn number(&self, object: &str, pin: &Pin) -> u64 {
        wanted(self.in_place, object, pin)
    }

    /// A payload as the task is to see it.
    pub fn of(
        &self,
        owner: Owner,
        object: &str,
        data: &[u8],
        templating: Option<&Driver>,
    ) -> Result<Vec<u8>, SpecError> {
        let Some(driver) = templating else {
            return Ok(data.to_vec());
        };
        let wrong = |why: String| SpecError::Payload {
            object: object.to_owned(),
            why,
        };
        if driver.name != "golang" {
            return Err(wrong(format!(
                "unrecognized template type `{}`",
                driver.name
            )));
        }
        let text = std::str::from_utf8(data).map_err(|_| wrong("it is no text".to_owned()))?;
        let call = |function: &str, argument: &str| self.call(function, argument);
        let expanded = expand_with(text, self.context, &call);
        // The whole payload is nobody's business.
        let span = |expression: String, at: Position| match owner {
            Owner::Secret => format!("what is asked for at {at}"),
            Owner::Config => format!("`{expression}` ({at})"),
        };
        expanded.map(String::into_bytes).map_err(|error| {
            wrong(match error {
                TemplateError::Unknown { expression, at, .. } => {
                    format!("{} is not known", span(expression, at))
                }
                TemplateError::NoText { expression, at, .. } => {
                    format!("{} is no text", span(expression, at))
                }
                TemplateError::Open { at, .. } => format!("`{{{{` at {at} has no `}}}}`"),
            })
        })
    }

    /// What a function gives.
    fn call(&self, function: &str, argument: &str) -> Called {
        if function == "env" {
            let variables = self.spec.env.iter();
            let mut values = variables.filter_map(|variable| {
                let (name, value) = variable.split_once('=')?;
                (name == argument).then_some(value)
            });
            // Go's template gives nothing for a variable that is not there.
            let value = expand(values.next().unwrap_or_default(), self.context);
            return value.map_or(Called::Unknown, Called::Text);
        }
        match self.file(function, argument).map(std::str::from_utf8) {
            Some(Ok(text)) => Called::Text(text.to_owned()),
            Some(Err(_)) => Called::NoText,
            None => Called::Unknown,
        }
    }

    /// Files are called by where they are put, as in Swarm.
    fn file(&self, kind: &str, argument: &str) -> Option<&[u8]> {
        let is_at = |file: &Option<FileTarget>, name: &str| {
            let target = file.as_ref().map_or("", |file| file.name.as_str());
            target == argument || (target.is_empty() && name == argument)
        };
        match kind {
            "secret" => {
                let mut references = self.spec.secrets.iter();
                let found = references.find(|one| is_at(&one.file, &one.secret_name))?;
                let secret = self.assigned.secrets.get(&found.secret_id)?;
                secret.of_version(self.number(found.secret_id.as_str(), &found.version))
            }
            "config" => {
                let mut references = self.spec.configs.iter();
                let found = references.find(|one| is_at(&one.file, &one.config_name))?;
                let config = self.assigned.configs.get(&found.config_id)?;
                config.of_version(self.number(found.config_id.as_str(), &found.version))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_model::{Secret, Task, TaskSpec};

    use super::super::spec::start_extras;
    use super::*;

    fn task(spec: ContainerSpec) -> Task {
        Task {
            id: "t1".into(),
            service_name: "web".into(),
            slot: 2,
            spec: TaskSpec {
                container_spec: Some(spec),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn payloads_with_templates_are_expanded_per_task() {
        let spec: ContainerSpec = serde_json::from_str(
            r#"{"Image":"x","Env":["WHO={{.Service.Name}}"],
                "Secrets":[{"SecretID":"s","SecretName":"word","File":{"Name":"pass"}}],
                "Configs":[{"ConfigID":"c","ConfigName":"plan","File":{"Name":"/plan"}}]}"#,
        )
        .unwrap();
        let task = task(spec);
        let assigned = |template: &str, driver: &str| {
            let secret = r#"{"ID":"s","Spec":{"Name":"word","Data":"c2VjcmV0"}}"#;
            let mut config: skep_model::Config =
                serde_json::from_str(r#"{"ID":"c","Spec":{"Name":"plan"}}"#).unwrap();
            config.spec.data = template.as_bytes().to_vec();
            config.spec.templating = (!driver.is_empty()).then(|| Driver {
                name: driver.to_owned(),
                ..Driver::default()
            });
            let mut assigned = Assigned::default();
            let secret: Secret = serde_json::from_str(secret).unwrap();
            assigned.secrets.insert("s".into(), Arc::new(secret));
            assigned.configs.insert("c".into(), Arc::new(config));
            start_extras(&task, &assigned)
                .map(|extras| String::from_utf8(extras.files[1].data.to_vec()).unwrap())
        };
        let template = r#"{{.Task.Slot}} {{env "WHO"}} {{secret "pass"}}{{env "NONE"}}"#;
        assert_eq!(assigned(template, "golang").unwrap(), "2 web secret");
        assert_eq!(
            assigned(template, "").unwrap(),
            template,
            "only where it is asked for"
        );
        for (template, driver, why) in [
            (
                "{{nothing}}",
                "golang",
                "`nothing` (line 1, column 1) is not known",
            ),
            (r#"{{secret "word"}}"#, "golang", "is not known"),
            (" {{.Task.ID", "golang", "at line 1, column 2 has no `}}`"),
            ("x", "jinja", "unrecognized template type `jinja`"),
        ] {
            let error = assigned(template, driver).unwrap_err().to_string();
            assert!(error.contains(why), "{template}: {error}");
            assert!(error.contains("`plan`"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_told_without_it() {
        let spec: ContainerSpec = serde_json::from_str(
            r#"{"Image":"x","Secrets":[{"SecretID":"s","SecretName":"key","File":{"Name":"key"}}]}"#,
        )
        .unwrap();
        let mut secret: Secret = serde_json::from_str(r#"{"ID":"s"}"#).unwrap();
        secret.spec.data = vec![0xff, 0xfe];
        let mut assigned = Assigned::default();
        assigned.secrets.insert("s".into(), Arc::new(secret));
        let payloads = Payloads {
            spec: &spec,
            assigned: &assigned,
            context: &Context::default(),
            in_place: &[],
        };
        let golang = Driver {
            name: "golang".to_owned(),
            ..Driver::default()
        };
        let wrong = |owner, template: &str| {
            let payload = payloads.of(owner, "own", template.as_bytes(), Some(&golang));
            payload.unwrap_err().to_string()
        };
        for (template, why) in [
            ("\n{{hunter2}}", "line 2, column 1 is not known"),
            ("{{hunter2", "line 1, column 1 has no `}}`"),
            (r#"{{secret "key"}}"#, "line 1, column 1 is no text"),
        ] {
            let text = wrong(Owner::Secret, template);
            assert!(text.contains(why), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        let text = wrong(Owner::Config, r#"{{secret "key"}}"#);
        assert!(
            text.contains(r#"`secret "key"` (line 1, column 1) is no text"#),
            "{text}"
        );
    }
}
