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

/// Most characters of a template that an error shows.
const SHOWN_MAX: usize = 40;

/// Why a template cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("template `{template}` has an opening `{{{{` without its `}}}}` ({at})")]
    Open { template: String, at: Position },
    #[error(
        "template `{template}`: `{expression}` is not known; use .Service.ID, .Service.Name, .Service.Labels, .Node.ID, .Node.Hostname, .Node.Platform.Architecture, .Node.Platform.OS, .Task.ID, .Task.Name or .Task.Slot"
    )]
    Unknown {
        template: String,
        expression: String,
        at: Position,
    },
    #[error("template `{template}`: `{expression}` is no text")]
    NoText {
        template: String,
        expression: String,
        at: Position,
    },
}

/// Where in a template, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    /// Where `template` goes on after `before`.
    fn after(before: &str) -> Self {
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "line {}, column {}", self.line, self.column)
    }
}

/// What a function of templates gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Called {
    Text(String),
    /// There is such a thing, and it is not text.
    NoText,
    /// There is no such function, or nothing of that name.
    Unknown,
}

/// Replaces each `{{expression}}`.
pub fn expand(template: &str, context: &Context) -> Result<String, TemplateError> {
    expand_with(template, context, &|_, _| Called::Unknown)
}

/// The same where `{{function "argument"}}` may be asked of `call`: payloads of secrets and configs
/// have `env`, `secret` and `config`.
///
/// Of Go's templates there are these expressions and the marks `{{- ` and ` -}}`, which take the
/// white space beside them away; no pipes, conditions, loops, variables or comments.
pub fn expand_with(
    template: &str,
    context: &Context,
    call: &dyn Fn(&str, &str) -> Called,
) -> Result<String, TemplateError> {
    let mut expanded = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let at = || Position::after(&template[..template.len() - after.len() - 2]);
        let (inside, after_it) = after.split_once("}}").ok_or_else(|| TemplateError::Open {
            template: shown(template),
            at: at(),
        })?;
        let opened = inside
            .strip_prefix('-')
            .filter(|rest| rest.starts_with(is_space));
        expanded.push_str(match opened {
            Some(_) => before.trim_end_matches(is_space),
            None => before,
        });
        let inside = opened.unwrap_or(inside);
        let closed = inside
            .strip_suffix('-')
            .filter(|rest| rest.ends_with(is_space));
        let expression = closed.unwrap_or(inside).trim_matches(is_space);
        let called = || {
            let (function, argument) = expression.split_once(' ')?;
            let argument = argument.trim().strip_prefix('"')?.strip_suffix('"')?;
            Some(call(function, argument))
        };
        let value = value(expression, context).map(Called::Text);
        match value.or_else(called).unwrap_or(Called::Unknown) {
            Called::Text(text) => expanded.push_str(&text),
            Called::NoText => {
                return Err(TemplateError::NoText {
                    template: shown(template),
                    expression: shown(expression),
                    at: at(),
                });
            }
            Called::Unknown => {
                return Err(TemplateError::Unknown {
                    template: shown(template),
                    expression: shown(expression),
                    at: at(),
                });
            }
        }
        rest = match closed {
            Some(_) => after_it.trim_start_matches(is_space),
            None => after_it,
        };
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// White space as Go's templates know it.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The beginning of a text, for messages.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
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
        let call = |function: &str, argument: &str| match (function, argument) {
            ("env", _) => Called::Text(format!("<{argument}>")),
            ("secret", "key") => Called::NoText,
            _ => Called::Unknown,
        };
        let no_text = expand_with("a\nb {{secret \"key\"}}", &context(), &call).unwrap_err();
        assert!(no_text.to_string().ends_with("`secret \"key\"` is no text"));
        let TemplateError::NoText { at, .. } = no_text else {
            panic!("{no_text}");
        };
        assert_eq!(at.to_string(), "line 2, column 3");
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

    #[test]
    fn marks_take_the_space_beside_them_away() {
        let cases = [
            ("a \n {{- .Task.Slot }} b", "a3 b"),
            ("a {{ .Task.Slot -}} \r\n\tb", "a 3b"),
            ("a {{- .Task.Slot -}} {{- .Task.Slot }}", "a33"),
            ("{{-\n.Task.Slot\n-}}", "3"),
        ];
        for (template, wanted) in cases {
            let expanded = expand(template, &context());
            assert_eq!(expanded.as_deref(), Ok(wanted), "{template:?}");
        }
        for wrong in ["{{-.Task.Slot}}", "{{.Task.Slot-}}", "{{-}}", "{{- -}}"] {
            assert!(expand(wrong, &context()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_show_a_bounded_part() {
        let long = "ä".repeat(1000);
        for template in [format!("{{{{{long}}}}}"), format!("{{{{{long}")] {
            let text = expand(&template, &context()).unwrap_err().to_string();
            assert!(text.contains("ä…"), "{text}");
            assert!(text.matches('ä').count() <= 2 * SHOWN_MAX, "{text}");
        }
    }
}
