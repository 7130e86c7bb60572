//! `healthcheck`.

use skep_model::Nanos;

use crate::context::Context;
use crate::field::Field;
use crate::file::override_with;
use crate::out::{MapOut, Out};
use crate::report::Placed;
use crate::scalar::Resolved;
use crate::text::duration;
use crate::tree::Value;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Health {
    pub test: Option<Placed<Vec<String>>>,
    pub timeout: Option<Nanos>,
    pub interval: Option<Nanos>,
    pub retries: Option<u64>,
    pub start_period: Option<Nanos>,
    pub start_interval: Option<Nanos>,
    pub disable: Option<bool>,
}

pub(crate) fn read(field: &Field<'_>, cx: &mut Context<'_>) -> Option<Health> {
    let mut fields = field.fields(cx)?;
    let health = Health {
        test: fields.take("test").and_then(|test| read_test(&test, cx)),
        timeout: fields.duration("timeout", cx),
        interval: fields.duration("interval", cx),
        retries: fields.take("retries").and_then(|field| retries(&field, cx)),
        start_period: fields.duration("start_period", cx),
        start_interval: fields.duration("start_interval", cx),
        disable: fields.boolean("disable", cx),
    };
    fields.finish(cx);
    Some(health)
}

/// A count; docker cuts a fraction off.
fn retries(field: &Field<'_>, cx: &mut Context<'_>) -> Option<u64> {
    match field.resolved() {
        Some((scalar, Resolved::Float(value))) if value >= 0.0 && value.fract() != 0.0 => {
            let whole = value.trunc();
            cx.warn(
                field.at(),
                format!(
                    "{} is taken as {whole}: `{}` is no count",
                    field.path, scalar.text
                ),
            );
            Some(whole as u64)
        }
        _ => field.unsigned(cx),
    }
}

fn read_test(field: &Field<'_>, cx: &mut Context<'_>) -> Option<Placed<Vec<String>>> {
    let at = field.at();
    let value = match &field.node.value {
        Value::Scalar(_) => vec!["CMD-SHELL".to_owned(), field.string(cx)?],
        Value::List(_) => {
            let words = field.words(cx);
            if let Some(first) = words.first()
                && !matches!(first.as_str(), "NONE" | "CMD" | "CMD-SHELL")
            {
                cx.unfit(
                    at,
                    format!(
                        "{} must begin with NONE, CMD or CMD-SHELL, found \"{first}\"",
                        field.path
                    ),
                    Some(
                        "write [\"CMD\", …] to run a program, or a string to run a shell line"
                            .to_owned(),
                    ),
                );
            }
            words
        }
        Value::Map(_) => {
            field.wrong_type("string or list", cx);
            return None;
        }
    };
    Some(Placed { at, value })
}

impl Health {
    pub fn merge(&mut self, later: Self) {
        override_with!(self, later: test, timeout, interval, retries, start_period,
            start_interval, disable);
    }

    pub fn print(&self) -> Out {
        let mut out = MapOut::default();
        let length = |length: Option<Nanos>| length.map(|l| Out::text(duration::print(l)));
        if let Some(test) = &self.test {
            out.put("test", Out::list(&test.value));
        }
        out.put_some("timeout", length(self.timeout));
        out.put_some("interval", length(self.interval));
        out.put_some("retries", self.retries.map(count));
        out.put_some("start_period", length(self.start_period));
        out.put_some("start_interval", length(self.start_interval));
        out.put("disable", Out::Bool(self.disable.unwrap_or(false)));
        out.done()
    }
}

/// A count as a printed number.
pub(crate) fn count(number: u64) -> Out {
    Out::Int(i64::try_from(number).unwrap_or(i64::MAX))
}
