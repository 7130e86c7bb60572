//! A compose file as a tree in which every value knows where it was written.
//!
//! Scalars stay the text that was written; what type they are is asked late, by the field that
//! wants one (see `scalar`).

use crate::report::At;
use crate::scalar::{Resolved, resolve};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub at: At,
    pub value: Value,
    /// `!reset` or `!override`, the tags that steer the merge of several files.
    pub merge: Option<MergeTag>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MergeTag {
    /// The value of the earlier files is gone, and so is this one.
    Reset,
    /// The value of the earlier files is gone, this one stands.
    Override,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    /// In the order of the file; keys are unique.
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub at: At,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scalar {
    pub text: String,
    pub form: Form,
}

/// How a scalar's type is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Written without quotes: its text decides.
    Plain,
    /// Written with quotes, as a block or with `!!str`, or the result of an interpolation: text.
    Text,
}

impl Node {
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.resolve() == Resolved::Null)
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|(known, _)| known.text == key)
                .map(|(_, node)| node),
            Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// What a message calls this value.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar(scalar) => match scalar.resolve() {
                Resolved::Null => "nothing".to_owned(),
                Resolved::Bool(_) => format!("the boolean `{}`", shown(&scalar.text)),
                Resolved::Int(_) | Resolved::Uint(_) | Resolved::Float(_) => {
                    format!("the number `{}`", shown(&scalar.text))
                }
                Resolved::Text => format!("the string \"{}\"", shown(&scalar.text)),
            },
        }
    }
}

/// Longest value that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// User text as a message repeats it: one line, bounded.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(SHOWN_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().count() > SHOWN_CHARS_MAX {
        short.push('…');
    }
    short
}

impl Scalar {
    pub fn resolve(&self) -> Resolved {
        match self.form {
            Form::Plain => resolve(&self.text),
            Form::Text => Resolved::Text,
        }
    }
}
