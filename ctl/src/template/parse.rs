//! Templates as trees.

use super::functions;
use super::lex::{self, Piece, Token, Word};
use crate::json::Json;

#[derive(Debug, Clone)]
pub enum Node {
    Text(String),
    Print(Pipe),
    If {
        test: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        over: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

/// Commands, each given the result of the one before it.
#[derive(Debug, Clone)]
pub struct Pipe {
    /// Variables that take the result.
    pub variables: Vec<String>,
    pub commands: Vec<Command>,
}

/// A value, or a function with its arguments.
#[derive(Debug, Clone)]
pub struct Command {
    pub words: Vec<Expr>,
}

#[derive(Debug, Clone)]
pub enum Expr {
    Dot,
    /// A chain of fields of what `base` is; `shown` is how errors name it.
    Fields {
        base: Box<Expr>,
        names: Vec<String>,
        at: usize,
        shown: String,
    },
    Variable(String),
    Call {
        name: String,
        at: usize,
    },
    Literal(Json),
    Nil,
    Pipe(Box<Pipe>),
}

pub fn parse(template: &str) -> Result<Vec<Node>, String> {
    let pieces = lex::pieces(template)?;
    let mut parser = Parser {
        template,
        pieces,
        next: 0,
        depth: 0,
        ranges: 0,
    };
    let (nodes, end) = parser.nodes()?;
    match end {
        Stop::Eof => Ok(nodes),
        Stop::End(at) => Err(lex::error(template, at, "unexpected {{end}}")),
        Stop::Else(_, at) => Err(lex::error(template, at, "unexpected {{else}}")),
    }
}

/// Blocks within blocks; a bound on mistakes.
const DEPTH_MAX: usize = 64;

struct Parser<'a> {
    template: &'a str,
    pieces: Vec<Piece>,
    next: usize,
    depth: usize,
    /// `range` blocks we are in.
    ranges: usize,
}

/// What ended a list of nodes.
enum Stop {
    Eof,
    End(usize),
    /// `else`, and the words that follow it.
    Else(Vec<Token>, usize),
}

impl Parser<'_> {
    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), String> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.get(self.next).cloned() {
            self.next += 1;
            let (words, at) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { words, at } => (words, at),
            };
            let keyword = match words.first().map(|token| &token.word) {
                Some(Word::Name(name)) => name.clone(),
                None => return Err(self.error(at, "missing value for command")),
                _ => String::new(),
            };
            match keyword.as_str() {
                "end" => return Ok((nodes, Stop::End(at))),
                "else" => return Ok((nodes, Stop::Else(words[1..].to_vec(), at))),
                "if" | "with" | "range" => nodes.push(self.block(&keyword, &words[1..], at)?),
                "break" | "continue" if self.ranges > 0 => nodes.push(if keyword == "break" {
                    Node::Break
                } else {
                    Node::Continue
                }),
                "break" | "continue" => {
                    return Err(self.error(at, &format!("{{{{{keyword}}}}} outside {{{{range}}}}")));
                }
                "define" | "template" | "block" => {
                    return Err(self.error(at, &format!("{{{{{keyword}}}}} is not supported")));
                }
                _ => nodes.push(Node::Print(self.pipe(&words, at)?)),
            }
        }
        Ok((nodes, Stop::Eof))
    }

    fn block(&mut self, keyword: &str, head: &[Token], at: usize) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error(at, "blocks are nested too deep"));
        }
        if head.is_empty() {
            return Err(self.error(at, &format!("missing value for {keyword}")));
        }
        let pipe = self.pipe(head, at)?;
        if keyword == "range" {
            self.ranges += 1;
        }
        let (then, end) = self.nodes()?;
        if keyword == "range" {
            self.ranges -= 1;
        }
        let otherwise = match end {
            Stop::End(_) => Vec::new(),
            Stop::Eof => return Err(self.error(self.template.len(), "unexpected EOF")),
            Stop::Else(words, at) => match words.first().map(|token| &token.word) {
                None => match self.nodes()? {
                    (nodes, Stop::End(_)) => nodes,
                    (_, Stop::Eof) => return Err(self.error(self.template.len(), "unexpected EOF")),
                    (_, Stop::Else(_, at)) => {
                        return Err(self.error(at, "expected end; found {{else}}"));
                    }
                },
                Some(Word::Name(name)) if name == keyword && keyword != "range" => {
                    vec![self.block(keyword, &words[1..], at)?]
                }
                Some(_) => return Err(self.error(at, "unexpected words after else")),
            },
        };
        self.depth -= 1;
        Ok(match keyword {
            "if" => Node::If {
                test: pipe,
                then,
                otherwise,
            },
            "with" => Node::With {
                value: pipe,
                then,
                otherwise,
            },
            _ => Node::Range {
                over: pipe,
                body: then,
                otherwise,
            },
        })
    }

    fn pipe(&self, words: &[Token], at: usize) -> Result<Pipe, String> {
        let (variables, words) = declaration(words);
        let mut commands = Vec::new();
        for part in split_top(words) {
            commands.push(self.command(part, at)?);
        }
        Ok(Pipe {
            variables,
            commands,
        })
    }

    fn command(&self, words: &[Token], at: usize) -> Result<Command, String> {
        let mut expressions: Vec<Expr> = Vec::new();
        let mut index = 0;
        while let Some(token) = words.get(index) {
            index += 1;
            let expression = match &token.word {
                Word::Dot => Expr::Dot,
                Word::Field(name, spaced) => {
                    // A field right behind a value belongs to it.
                    let base = if *spaced || expressions.is_empty() {
                        None
                    } else {
                        expressions.pop()
                    };
                    chain(base, name, token.at)
                }
                Word::Variable(name) => Expr::Variable(name.clone()),
                Word::Name(name) => match name.as_str() {
                    "true" => Expr::Literal(Json::Bool(true)),
                    "false" => Expr::Literal(Json::Bool(false)),
                    "nil" => Expr::Nil,
                    name if functions::exists(name) => Expr::Call {
                        name: name.to_owned(),
                        at: token.at,
                    },
                    name => {
                        let why = format!("function {} not defined", crate::human::quote(name));
                        return Err(self.error(token.at, &why));
                    }
                },
                Word::Text(text) => Expr::Literal(Json::Text(text.clone())),
                Word::Number(text) => Expr::Literal(number(text).ok_or_else(|| {
                    self.error(
                        token.at,
                        &format!("bad number syntax: {}", crate::human::quote(text)),
                    )
                })?),
                Word::Open => {
                    let close = closing(words, index)
                        .ok_or_else(|| self.error(token.at, "unclosed left paren"))?;
                    let inner = self.pipe(&words[index..close], token.at)?;
                    index = close + 1;
                    Expr::Pipe(Box::new(inner))
                }
                Word::Close => return Err(self.error(token.at, "unexpected right paren")),
                Word::Pipe | Word::Comma | Word::Declare | Word::Assign => {
                    return Err(self.error(token.at, "unexpected word in operand"));
                }
            };
            expressions.push(expression);
        }
        if expressions.is_empty() {
            return Err(self.error(at, "missing value for command"));
        }
        Ok(Command { words: expressions })
    }

    fn error(&self, at: usize, why: &str) -> String {
        lex::error(self.template, at, why)
    }
}

fn chain(base: Option<Expr>, name: &str, at: usize) -> Expr {
    match base {
        None => Expr::Fields {
            base: Box::new(Expr::Dot),
            names: vec![name.to_owned()],
            at,
            shown: format!(".{name}"),
        },
        // Errors in a longer chain point at its second field, as Go's do.
        Some(Expr::Fields {
            base,
            mut names,
            at: first,
            shown,
        }) => {
            let at = if names.len() == 1 { at } else { first };
            names.push(name.to_owned());
            Expr::Fields {
                base,
                names,
                at,
                shown: format!("{shown}.{name}"),
            }
        }
        Some(Expr::Variable(variable)) => {
            let shown = format!("{variable}.{name}");
            Expr::Fields {
                base: Box::new(Expr::Variable(variable)),
                names: vec![name.to_owned()],
                at,
                shown,
            }
        }
        Some(other) => Expr::Fields {
            base: Box::new(other),
            names: vec![name.to_owned()],
            at,
            shown: format!(".{name}"),
        },
    }
}

/// `$a, $b :=` at the start of a pipeline.
fn declaration(words: &[Token]) -> (Vec<String>, &[Token]) {
    let mut variables = Vec::new();
    let mut index = 0;
    while let Some(Word::Variable(name)) = words.get(index).map(|token| &token.word) {
        variables.push(name.clone());
        match words.get(index + 1).map(|token| &token.word) {
            Some(Word::Declare | Word::Assign) => return (variables, &words[index + 2..]),
            Some(Word::Comma) => index += 2,
            _ => break,
        }
    }
    (Vec::new(), words)
}

/// The commands of a pipeline: words between `|` that are not in parentheses.
fn split_top(words: &[Token]) -> Vec<&[Token]> {
    let mut parts = Vec::new();
    let mut depth = 0;
    let mut from = 0;
    for (index, token) in words.iter().enumerate() {
        match token.word {
            Word::Open => depth += 1,
            Word::Close => depth -= 1,
            Word::Pipe if depth == 0 => {
                parts.push(&words[from..index]);
                from = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&words[from..]);
    parts
}

/// Where the parenthesis that was opened before `from` closes.
fn closing(words: &[Token], from: usize) -> Option<usize> {
    let mut depth = 1;
    for (index, token) in words.iter().enumerate().skip(from) {
        match token.word {
            Word::Open => depth += 1,
            Word::Close => {
                depth -= 1;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

fn number(text: &str) -> Option<Json> {
    let plain = text.replace('_', "");
    if let Ok(number) = plain.parse::<i64>() {
        return Some(Json::from(number));
    }
    if let Some(digits) = plain.strip_prefix("0x") {
        return i64::from_str_radix(digits, 16).ok().map(Json::from);
    }
    let number = serde_json::Number::from_f64(plain.parse().ok()?)?;
    Some(Json::Number(number))
}
