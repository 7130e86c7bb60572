//! Templates in hostname, environment and mounts: `{{.Service.Name}}` and its kin.

use std::collections::BTreeMap;

/// What templates may speak of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    pub service_id: String,
    pub service_name: String,
    pub service_labels: BTreeMap<String, String>,
    pub node_id: String,
    pub node_hostname: String,
    pub node_architecture: String,
    pub node_os: String,
    pub task_id: String,
    pub task_name: String,
    pub task_slot: String,
}

/// Why a template cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("template `{template}` has an opening `{{{{` without its `}}}}`")]
    Open { template: String },
    #[error(
        "template `{template}`: `{expression}` is not known; use .Service.ID, .Service.Name, .Service.Labels, .Node.ID, .Node.Hostname, .Node.Platform.Architecture, .Node.Platform.OS, .Task.ID, .Task.Name or .Task.Slot"
    )]
    Unknown {
        template: String,
        expression: String,
    },
}

/// Replaces each `{{expression}}`.
pub fn expand(template: &str, context: &Context) -> Result<String, TemplateError> {
    expand_with(template, context, &|_, _| None)
}

/// The same where `{{function "argument"}}` may be asked of `call`: payloads of secrets and configs
/// have `env`, `secret` and `config`.
pub fn expand_with(
    template: &str,
    context: &Context,
    call: &dyn Fn(&str, &str) -> Option<String>,
) -> Result<String, TemplateError> {
    let mut expanded = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (expression, after) = after.split_once("}}").ok_or_else(|| TemplateError::Open {
            template: template.to_owned(),
        })?;
        expanded.push_str(before);
        let asked = expression.trim_matches(['-', ' ', '\t']);
        let called = || {
            let (function, argument) = asked.split_once(' ')?;
            let argument = argument.trim().strip_prefix('"')?.strip_suffix('"')?;
            call(function, argument)
        };
        let value = value(asked, context).or_else(called);
        let value = value.ok_or_else(|| TemplateError::Unknown {
            template: template.to_owned(),
            expression: expression.trim().to_owned(),
        })?;
        expanded.push_str(&value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn value(expression: &str, context: &Context) -> Option<String> {
    let direct = match expression {
        ".Service.ID" => &context.service_id,
        ".Service.Name" => &context.service_name,
        ".Node.ID" => &context.node_id,
        ".Node.Hostname" => &context.node_hostname,
        ".Node.Platform.Architecture" => &context.node_architecture,
        ".Node.Platform.OS" => &context.node_os,
        ".Task.ID" => &context.task_id,
        ".Task.Name" => &context.task_name,
        ".Task.Slot" => &context.task_slot,
        // `index .Service.Labels "key"`, and the short form for keys without dots.
        _ => {
            let label = expression
                .strip_prefix("index .Service.Labels ")
                .map(|key| key.trim().trim_matches('"'))
                .or_else(|| expression.strip_prefix(".Service.Labels."))?;
            return Some(
                context
                    .service_labels
                    .get(label)
                    .cloned()
                    .unwrap_or_default(),
            );
        }
    };
    Some(direct.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context {
            service_name: "web".into(),
            service_labels: [("tier".to_owned(), "front".to_owned())].into(),
            node_hostname: "n1".into(),
            task_slot: "3".into(),
            ..Default::default()
        }
    }

    #[test]
    fn expressions_are_replaced() {
        let cases = [
            ("plain", "plain"),
            ("{{.Service.Name}}-{{.Task.Slot}}", "web-3"),
            ("{{ .Node.Hostname }}", "n1"),
            ("{{index .Service.Labels \"tier\"}}", "front"),
            ("{{.Service.Labels.tier}}", "front"),
            ("{{.Service.Labels.none}}x", "x"),
        ];
        for (template, wanted) in cases {
            assert_eq!(
                expand(template, &context()).as_deref(),
                Ok(wanted),
                "{template}"
            );
        }
    }

    #[test]
    fn functions_are_asked_where_there_are_any() {
        let call =
            |function: &str, argument: &str| (function == "env").then(|| format!("<{argument}>"));
        let expand = |template| expand_with(template, &context(), &call).ok();
        assert_eq!(expand("a {{env \"HOME\"}}").as_deref(), Some("a <HOME>"));
        assert_eq!(expand("{{ secret \"x\" }}"), None);
        assert_eq!(expand("{{env HOME}}"), None);
    }

    #[test]
    fn wrong_templates_are_named() {
        assert!(matches!(
            expand("{{.Nonsense}}", &context()),
            Err(TemplateError::Unknown { .. })
        ));
        assert!(matches!(
            expand("{{.Task.ID", &context()),
            Err(TemplateError::Open { .. })
        ));
    }
}
