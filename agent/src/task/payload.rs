//! Payloads of secrets and configs as a task is to see them: where their driver says so they are
//! templates.

use skep_model::container::{ContainerSpec, FileTarget};
use skep_model::mount::Driver;
use skep_model::template::{Context, TemplateError, expand, expand_with};

use super::spec::SpecError;
use crate::assigned::Assigned;

/// What payloads with templates may speak of: the task, its variables, and its other files.
pub struct Payloads<'a> {
    pub spec: &'a ContainerSpec,
    pub assigned: &'a Assigned,
    pub context: &'a Context,
}

impl Payloads<'_> {
    /// A payload as the task is to see it.
    pub fn of(
        &self,
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
        expanded
            .map(String::into_bytes)
            .map_err(|error| match error {
                TemplateError::Unknown { expression, .. } => {
                    wrong(format!("`{expression}` is not known"))
                }
                TemplateError::Open { .. } => wrong("an opening `{{` has no `}}`".to_owned()),
            })
    }

    /// Files are called by where they are put, as in Swarm.
    fn call(&self, function: &str, argument: &str) -> Option<String> {
        let text = |data: &[u8]| String::from_utf8(data.to_vec()).ok();
        let is_at = |file: &Option<FileTarget>, name: &str| {
            let target = file.as_ref().map_or("", |file| file.name.as_str());
            target == argument || (target.is_empty() && name == argument)
        };
        match function {
            "env" => {
                let variables = self.spec.env.iter();
                let mut values = variables.filter_map(|variable| {
                    let (name, value) = variable.split_once('=')?;
                    (name == argument).then_some(value)
                });
                // Go's template gives nothing for a variable that is not there.
                Some(expand(values.next().unwrap_or_default(), self.context).ok()?)
            }
            "secret" => {
                let mut references = self.spec.secrets.iter();
                let found = references.find(|one| is_at(&one.file, &one.secret_name))?;
                text(&self.assigned.secrets.get(&found.secret_id)?.spec.data)
            }
            "config" => {
                let mut references = self.spec.configs.iter();
                let found = references.find(|one| is_at(&one.file, &one.config_name))?;
                text(&self.assigned.configs.get(&found.config_id)?.spec.data)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_model::{Secret, Task, TaskSpec};

    use super::super::spec::files;
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
            files(&task, &assigned).map(|files| String::from_utf8(files[1].data.to_vec()).unwrap())
        };
        let template = r#"{{.Task.Slot}} {{env "WHO"}} {{secret "pass"}}{{env "NONE"}}"#;
        assert_eq!(assigned(template, "golang").unwrap(), "2 web secret");
        assert_eq!(
            assigned(template, "").unwrap(),
            template,
            "only where it is asked for"
        );
        for (template, driver, why) in [
            ("{{nothing}}", "golang", "`nothing` is not known"),
            (r#"{{secret "word"}}"#, "golang", "is not known"),
            ("{{.Task.ID", "golang", "has no `}}`"),
            ("x", "jinja", "unrecognized template type `jinja`"),
        ] {
            let error = assigned(template, driver).unwrap_err().to_string();
            assert!(error.contains(why), "{template}: {error}");
            assert!(error.contains("`plan`"), "{error}");
        }
    }
}
