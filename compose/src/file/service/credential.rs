//! `credential_spec`: who a container of Windows is to its domain.

use crate::context::Context;
use crate::field::Field;
use crate::report::Placed;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CredentialSpec {
    pub config: Option<String>,
    pub file: Option<String>,
    pub registry: Option<String>,
}

pub(super) fn read(field: &Field<'_>, cx: &mut Context<'_>) -> Option<Placed<CredentialSpec>> {
    let mut fields = field.fields(cx)?;
    let value = CredentialSpec {
        config: fields.string("config", cx),
        file: fields.string("file", cx),
        registry: fields.string("registry", cx),
    };
    fields.finish(cx);
    let given = [
        ("\"Config\"", value.config.is_some()),
        ("\"File\"", value.file.is_some()),
        ("\"Registry\"", value.registry.is_some()),
    ];
    let given: Vec<&str> = given
        .iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| *name)
        .collect();
    match given[..] {
        [] | [_] => {}
        [one, other] => cx.unfit(
            field.at(),
            format!("invalid credential spec: cannot specify both {one} and {other}"),
            None,
        ),
        _ => cx.unfit(
            field.at(),
            "invalid credential spec: cannot specify both \"Config\", \"File\", and \"Registry\"",
            None,
        ),
    }
    Some(Placed {
        at: field.at(),
        value,
    })
}
