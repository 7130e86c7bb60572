//! `depends_on`: what a service waits for.

use skep_model::DependencyCondition;

use crate::context::Context;
use crate::field::Field;
use crate::out::Out;
use crate::report::At;
use crate::tree::Value;

/// One service that is waited for, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub at: At,
    pub service: String,
    pub condition: DependencyCondition,
    /// `false`: waited for only if it is there.
    pub required: bool,
    /// Whether the service is to be restarted when the other one is.
    pub restart: bool,
    /// Written in the short form, of which docker's client takes no notice.
    pub short: bool,
}

/// Reads the list of names, or the mapping of them to conditions.
pub(crate) fn read(field: &Field<'_>, cx: &mut Context<'_>) -> Vec<Dependency> {
    match &field.node.value {
        Value::List(_) => {
            let names = field.different_strings(cx);
            let short = names.into_iter().map(|name| Dependency {
                at: name.at,
                service: name.value,
                condition: DependencyCondition::Started,
                required: true,
                restart: false,
                short: true,
            });
            short.collect()
        }
        Value::Map(_) => {
            let entries = field.entries(cx);
            let long = entries
                .iter()
                .filter_map(|(key, field)| long(&key.text, field, cx));
            long.collect()
        }
        Value::Scalar(_) => {
            field.wrong_type("list or mapping", cx);
            Vec::new()
        }
    }
}

fn long(name: &str, field: &Field<'_>, cx: &mut Context<'_>) -> Option<Dependency> {
    let mut fields = field.fields(cx)?;
    let words = DependencyCondition::ALL.map(DependencyCondition::as_str);
    let given = fields.take("condition");
    if given.is_none() {
        cx.error_with_hint(
            field.key,
            format!("{} condition is required", field.path),
            format!("one of {}", words.join(", ")),
        );
    }
    let word = given.and_then(|given| given.word(&words, cx));
    let condition = DependencyCondition::ALL
        .into_iter()
        .find(|condition| word.as_deref() == Some(condition.as_str()));
    let dependency = Dependency {
        at: field.key,
        service: name.to_owned(),
        condition: condition.unwrap_or_default(),
        required: fields.boolean("required", cx).unwrap_or(true),
        restart: fields.boolean("restart", cx).unwrap_or(false),
        short: false,
    };
    fields.finish(cx);
    Some(dependency)
}

/// A later file's word about a service counts.
pub(crate) fn merge_into(base: &mut Vec<Dependency>, later: Vec<Dependency>) {
    for dependency in later {
        match base
            .iter_mut()
            .find(|known| known.service == dependency.service)
        {
            // A name in a list says no more than that it is waited for.
            Some(_) if dependency.short => {}
            Some(known) => *known = dependency,
            None => base.push(dependency),
        }
    }
}

/// The long form, by name.
pub(crate) fn print(dependencies: &[Dependency]) -> Out {
    let entries = dependencies.iter().map(|dependency| {
        let condition = Out::text(dependency.condition.as_str());
        let mut entry = vec![("condition".to_owned(), condition)];
        if dependency.restart {
            entry.push(("restart".to_owned(), Out::Bool(true)));
        }
        entry.push(("required".to_owned(), Out::Bool(dependency.required)));
        (dependency.service.clone(), Out::Map(entry))
    });
    Out::sorted(entries.collect())
}
