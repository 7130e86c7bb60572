//! What networks and volumes of the top level say of themselves alike.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::fields::Fields;
use crate::report::Placed;
use crate::tree::Value;

/// Keys that both have.
pub(crate) struct Declared {
    pub name: Option<String>,
    pub driver: Option<String>,
    pub driver_opts: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub external: Option<Placed<bool>>,
}

/// Takes these keys of the `what` called `key`.
pub(crate) fn read(
    what: &str,
    key: &str,
    fields: &mut Fields<'_>,
    cx: &mut Context<'_>,
) -> Declared {
    let mut name = fields.string("name", cx);
    Declared {
        driver: fields.string("driver", cx),
        driver_opts: fields.map("driver_opts", cx),
        labels: fields.map("labels", cx),
        external: read_external(what, key, &mut name, fields, cx),
        name,
    }
}

/// `external: true`, or the older `external: {name: …}`; sets the name that follows from it.
pub(crate) fn read_external(
    what: &str,
    name: &str,
    given_name: &mut Option<String>,
    fields: &mut Fields<'_>,
    cx: &mut Context<'_>,
) -> Option<Placed<bool>> {
    let field = fields.take("external")?;
    let at = field.key;
    let value = match &field.node.value {
        Value::Map(_) => {
            let mut external = field.fields(cx)?;
            if let Some(old) = external.take("name") {
                if given_name.is_some() {
                    cx.error(
                        old.key,
                        format!(
                            "{what} {name}: {what}.external.name and {what}.name conflict; \
                             only use {what}.name"
                        ),
                    );
                } else {
                    cx.warn(
                        old.key,
                        format!(
                            "{what} {name}: {what}.external.name is deprecated in favor of \
                             {what}.name"
                        ),
                    );
                    *given_name = old.string(cx);
                }
            }
            external.finish(cx);
            true
        }
        _ => match field.scalar().map(|_| field.boolean(cx)) {
            Some(value) => value?,
            None => {
                field.wrong_type("boolean or mapping", cx);
                return None;
            }
        },
    };
    if value && given_name.as_deref().unwrap_or_default().is_empty() {
        *given_name = Some(name.to_owned());
    }
    Some(Placed { at, value })
}
