//! Replaces `$VAR` and its relatives in the values of a tree. Keys are left alone.

mod template;

use std::collections::BTreeSet;

use crate::Env;
use crate::report::{At, Report};
use crate::tree::{Form, Node, Scalar, Value};

pub use template::Variable;
pub(crate) use template::replace;

/// What all replaced values of one load may have together, in bytes.
const REPLACED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Replaces the variables in every value below `node`.
pub(crate) fn interpolate(node: &mut Node, env: Env<'_>, report: &mut Report) {
    let mut walk = Walk {
        env,
        report,
        path: Vec::new(),
        bytes: 0,
    };
    walk.node(node);
}

struct Walk<'a> {
    env: Env<'a>,
    report: &'a mut Report,
    path: Vec<String>,
    bytes: usize,
}

impl Walk<'_> {
    fn node(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::Scalar(scalar) => self.scalar(scalar, node.at),
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.path.push(index.to_string());
                    self.node(item);
                    self.path.pop();
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    self.path.push(key.text.clone());
                    self.node(value);
                    self.path.pop();
                }
            }
        }
    }

    fn scalar(&mut self, scalar: &mut Scalar, at: At) {
        if !scalar.text.contains('$') {
            return;
        }
        let replaced = replace(&scalar.text, self.env);
        for unset in &replaced.unset {
            let at = place_of_dollar(self.report, at, unset.dollar);
            self.report.warn(
                at,
                format!(
                    "The {:?} variable is not set. Defaulting to a blank string.",
                    unset.name
                ),
                Some(format!(
                    "give a default with `${{{}:-value}}`, or set it",
                    unset.name
                )),
            );
        }
        match replaced.text {
            Ok(text) => {
                self.bytes = self.bytes.saturating_add(text.len());
                if self.bytes > REPLACED_BYTES_MAX {
                    scalar.text.clear();
                    self.report.error(
                        at,
                        format!("values with variables replaced exceed {REPLACED_BYTES_MAX} bytes"),
                        None,
                    );
                } else if text != scalar.text {
                    // The outcome is text, and still serves where a number is wanted.
                    *scalar = Scalar {
                        text,
                        form: Form::Text,
                    };
                }
            }
            Err(wrong) => {
                let at = place_of_dollar(self.report, at, wrong.dollar);
                let template = wrong.message.as_deref().unwrap_or(&scalar.text);
                self.report.error(
                    at,
                    format!(
                        "invalid interpolation format for {}: {template:?}; \
                         you may need to escape any $ with another $",
                        self.path.join("."),
                    ),
                    None,
                );
            }
        }
    }
}

/// The place of the `index`th dollar sign of the scalar that begins at `at`.
///
/// Escapes and folding change offsets but never the order of dollar signs, so they are counted in
/// the source text itself.
fn place_of_dollar(report: &Report, at: At, index: usize) -> At {
    let Some(source) = report.sources().get(at.source as usize) else {
        return at;
    };
    if report.is_full() {
        return at;
    }
    let first_line = (at.line as usize).saturating_sub(1);
    let mut left = index;
    for (number, line) in source.text.lines().enumerate().skip(first_line) {
        let skip = if number == first_line {
            (at.column as usize).saturating_sub(1)
        } else {
            0
        };
        for (column, c) in line.chars().enumerate().skip(skip) {
            if c != '$' {
                continue;
            }
            if left == 0 {
                let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                return At {
                    source: at.source,
                    line: small(number + 1),
                    column: small(column + 1),
                };
            }
            left -= 1;
        }
    }
    at
}

/// The variables in the values below `node`.
pub(crate) fn variables(node: &Node, found: &mut BTreeSet<Variable>) {
    match &node.value {
        Value::Scalar(scalar) => found.extend(template::named(&scalar.text)),
        Value::List(items) => items.iter().for_each(|item| variables(item, found)),
        Value::Map(entries) => entries
            .iter()
            .for_each(|(_, value)| variables(value, found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_listed_with_what_stands_for_them() {
        let text = "a: $A ${B:-b} ${C?why}\nb: [\"${D:+d}\", $$E, '${F:-${G}}']\n";
        let root = crate::yaml::parse(text, 0).unwrap().root.unwrap();
        let mut found = BTreeSet::new();
        variables(&root, &mut found);
        let shown: Vec<String> = found
            .iter()
            .map(|v| format!("{} {} {} {}", v.name, v.required, v.default, v.alternate))
            .collect();
        let wanted = [
            "A false  ",
            "B false b ",
            "C true  ",
            "D false  d",
            "F false  ",
            "G false  ",
        ];
        assert_eq!(shown, wanted);
    }
}
