//! What a template says about a value.

use std::collections::HashMap;

use super::functions::{self, Dialect};
use super::parse::{Command, Expr, Node, Pipe};
use crate::json::Json;

/// What is said about a field that is not there.
#[derive(Debug, Clone, Copy)]
pub enum Missing {
    /// `map has no entry for key`, as for objects.
    Key,
    /// `can't evaluate field X in type …`, as for rows of a table.
    FieldOf(&'static str),
}

/// Answers fields that take arguments, such as `.Label "key"`.
pub type Methods<'a> = &'a dyn Fn(&str, &[Json]) -> Option<Json>;

/// The value a template is about.
pub struct Dot<'a> {
    pub value: &'a Json,
    pub missing: Missing,
    pub methods: Option<Methods<'a>>,
    pub dialect: Dialect,
}

impl<'a> Dot<'a> {
    pub fn of(value: &'a Json) -> Self {
        Self {
            value,
            missing: Missing::Key,
            methods: None,
            dialect: Dialect::Object,
        }
    }
}

/// Output of one template; more is a mistake.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

pub fn run(template: &str, nodes: &[Node], dot: &Dot<'_>) -> Result<String, String> {
    let mut state = State {
        template,
        root: dot,
        variables: HashMap::from([("$".to_owned(), dot.value.clone())]),
        out: String::new(),
    };
    state.nodes(nodes, dot.value)?;
    Ok(state.out)
}

/// How a list of nodes ended.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct State<'a> {
    template: &'a str,
    root: &'a Dot<'a>,
    variables: HashMap<String, Json>,
    out: String,
}

impl State<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Json) -> Result<Flow, String> {
        for node in nodes {
            if self.out.len() > OUTPUT_BYTES_MAX {
                return Err("template output is too long".to_owned());
            }
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::Next
                }
                Node::Print(pipe) => {
                    let printed = self.printed(pipe, dot)?;
                    self.out.push_str(&printed);
                    Flow::Next
                }
                Node::If {
                    test,
                    then,
                    otherwise,
                } => {
                    let value = self.pipe_or_missing(test, dot)?;
                    self.nodes(if truth(&value) { then } else { otherwise }, dot)?
                }
                Node::With {
                    value,
                    then,
                    otherwise,
                } => {
                    let value = self.pipe_or_missing(value, dot)?;
                    if truth(&value) {
                        self.nodes(then, &value)?
                    } else {
                        self.nodes(otherwise, dot)?
                    }
                }
                Node::Range {
                    over,
                    body,
                    otherwise,
                } => self.range(over, body, otherwise, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn range(
        &mut self,
        over: &Pipe,
        body: &[Node],
        otherwise: &[Node],
        dot: &Json,
    ) -> Result<Flow, String> {
        let bare = Pipe {
            variables: Vec::new(),
            commands: over.commands.clone(),
        };
        let items: Vec<(Json, Json)> = match self.pipe_or_missing(&bare, dot)? {
            Json::List(values) => values
                .into_iter()
                .enumerate()
                .map(|(index, value)| (Json::from(index as u64), value))
                .collect(),
            Json::Object(mut fields) => {
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                fields
                    .into_iter()
                    .map(|(name, value)| (Json::Text(name), value))
                    .collect()
            }
            Json::Null => Vec::new(),
            Json::Number(number) => (0..number.as_u64().unwrap_or(0).min(1 << 20))
                .map(|index| (Json::from(index), Json::from(index)))
                .collect(),
            other => {
                return Err(self.failed(
                    0,
                    "",
                    &format!("range can't iterate over {}", functions::show(&other)),
                ));
            }
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, value) in items {
            match &over.variables[..] {
                [] => {}
                [one] => {
                    self.variables.insert(one.clone(), value.clone());
                }
                [first, second, ..] => {
                    self.variables.insert(first.clone(), key);
                    self.variables.insert(second.clone(), value.clone());
                }
            }
            if self.nodes(body, &value)? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    /// A pipeline's value for printing; nothing for a declaration.
    fn printed(&mut self, pipe: &Pipe, dot: &Json) -> Result<String, String> {
        let value = self.pipe(pipe, dot)?;
        if !pipe.variables.is_empty() {
            return Ok(String::new());
        }
        Ok(match (&value, last_field(pipe)) {
            (Json::Null, Some(name)) => functions::show_null_field(name).to_owned(),
            _ => functions::show(&value),
        })
    }

    /// Where only truth counts, a field that is not there is as good as an empty one: the daemon
    /// leaves empty fields out.
    fn pipe_or_missing(&mut self, pipe: &Pipe, dot: &Json) -> Result<Json, String> {
        if let ([Command { words }], Missing::Key) = (&pipe.commands[..], self.root.missing)
            && let [Expr::Fields { base, names, .. }] = &words[..]
        {
            let (last, path) = names.split_last().expect("a chain has a field");
            let mut value = self.expression(base, dot)?;
            for name in path {
                value = value.get(name).cloned().unwrap_or_default();
            }
            let value = value.get(last).cloned().unwrap_or_default();
            self.assign(pipe, &value);
            return Ok(value);
        }
        self.pipe(pipe, dot)
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Json) -> Result<Json, String> {
        let mut value: Option<Json> = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        let value = value.unwrap_or_default();
        self.assign(pipe, &value);
        Ok(value)
    }

    fn assign(&mut self, pipe: &Pipe, value: &Json) {
        if let [.., name] = &pipe.variables[..] {
            self.variables.insert(name.clone(), value.clone());
        }
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Json,
        piped: Option<Json>,
    ) -> Result<Json, String> {
        let (first, rest) = command.words.split_first().expect("a command has a word");
        match first {
            Expr::Call { name, at } => {
                // `and` and `or` look no further than they must.
                if matches!(name.as_str(), "and" | "or") {
                    return self.logic(name == "and", rest, dot, piped);
                }
                let mut arguments = Vec::with_capacity(rest.len() + 1);
                for word in rest {
                    arguments.push(match name.as_str() {
                        "not" => self.lenient(word, dot)?,
                        _ => self.expression(word, dot)?,
                    });
                }
                arguments.extend(piped);
                functions::call(name, &arguments, self.root.dialect)
                    .map_err(|why| self.failed(*at, name, &format!("error calling {name}: {why}")))
            }
            Expr::Fields {
                base,
                names,
                at,
                shown,
            } if !rest.is_empty() || piped.is_some() => {
                let mut arguments = Vec::new();
                for word in rest {
                    arguments.push(self.expression(word, dot)?);
                }
                arguments.extend(piped);
                let method = match (&**base, &names[..], self.root.methods) {
                    (Expr::Dot, [name], Some(methods)) => methods(name, &arguments),
                    _ => None,
                };
                method.ok_or_else(|| {
                    let name = names.last().map_or("", String::as_str);
                    self.failed(
                        *at,
                        shown,
                        &format!("{name} has arguments but cannot be invoked as function"),
                    )
                })
            }
            _ if !rest.is_empty() || piped.is_some() => {
                Err(self.failed(0, "", "can't give argument to non-function"))
            }
            other => self.expression(other, dot),
        }
    }

    fn logic(
        &mut self,
        all: bool,
        words: &[Expr],
        dot: &Json,
        piped: Option<Json>,
    ) -> Result<Json, String> {
        let mut value = Json::Null;
        for word in words {
            value = self.lenient(word, dot)?;
            if truth(&value) != all {
                return Ok(value);
            }
        }
        Ok(piped.unwrap_or(value))
    }

    /// A value whose absence is the same as its being empty.
    fn lenient(&mut self, word: &Expr, dot: &Json) -> Result<Json, String> {
        let command = Command {
            words: vec![word.clone()],
        };
        self.pipe_or_missing(
            &Pipe {
                variables: Vec::new(),
                commands: vec![command],
            },
            dot,
        )
    }

    fn expression(&mut self, expression: &Expr, dot: &Json) -> Result<Json, String> {
        match expression {
            Expr::Dot => Ok(dot.clone()),
            Expr::Nil => Ok(Json::Null),
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Variable(name) => self.variables.get(name).cloned().ok_or_else(|| {
                format!(
                    "template: :1: undefined variable {}",
                    crate::human::quote(name)
                )
            }),
            Expr::Call { .. } => self.command(
                &Command {
                    words: vec![expression.clone()],
                },
                dot,
                None,
            ),
            Expr::Pipe(pipe) => self.pipe(pipe, dot),
            Expr::Fields {
                base,
                names,
                at,
                shown,
            } => {
                let mut value = self.expression(base, dot)?;
                for name in names {
                    value = self.field(value, name, *at, shown)?;
                }
                Ok(value)
            }
        }
    }

    fn field(&self, value: Json, name: &str, at: usize, shown: &str) -> Result<Json, String> {
        let quoted = crate::human::quote(name);
        match value {
            Json::Object(fields) => match find(fields, name) {
                Some(value) => Ok(value),
                None => Err(match self.root.missing {
                    Missing::Key => {
                        self.failed(at, shown, &format!("map has no entry for key {quoted}"))
                    }
                    Missing::FieldOf(kind) => self.failed(
                        at,
                        shown,
                        &format!("can't evaluate field {name} in type {kind}"),
                    ),
                }),
            },
            Json::Null => {
                Err(self.failed(at, shown, &format!("nil data; no entry for key {quoted}")))
            }
            _ => Err(self.failed(
                at,
                shown,
                &format!("can't evaluate field {name} in type interface {{}}"),
            )),
        }
    }

    fn failed(&self, at: usize, shown: &str, why: &str) -> String {
        let before = &self.template[..at.min(self.template.len())];
        let line = before.matches('\n').count() + 1;
        let column = at - before.rfind('\n').map_or(0, |end| end);
        format!("template: :{line}:{column}: executing \"\" at <{shown}>: {why}")
    }
}

/// Whether `if` takes its first branch.
pub fn truth(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(value) => *value,
        Json::Number(number) => number.as_f64() != Some(0.0),
        Json::Text(text) => !text.is_empty(),
        Json::List(values) => !values.is_empty(),
        Json::Object(fields) => !fields.is_empty(),
    }
}

/// The field of this name. Docker's client evaluates templates over Go structs, whose fields are
/// called as in JSON but for their case: `APIVersion` is `ApiVersion` there, `ID` often `Id`.
fn find(fields: Vec<(String, Json)>, name: &str) -> Option<Json> {
    let exact = fields.iter().position(|(field, _)| field == name);
    let alike = || {
        let mut named = fields.iter();
        named.position(|(field, _)| field.eq_ignore_ascii_case(name))
    };
    let at = exact.or_else(alike)?;
    fields.into_iter().nth(at).map(|(_, value)| value)
}

/// The last field that a pipeline of one chain names.
fn last_field(pipe: &Pipe) -> Option<&str> {
    match &pipe.commands[..] {
        [Command { words }] => match &words[..] {
            [Expr::Fields { names, .. }] => names.last().map(String::as_str),
            _ => None,
        },
        _ => None,
    }
}
