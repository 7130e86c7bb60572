//! A whole Dockerfile: arguments before the first stage, then stages.

use crate::error::ParseError;
use crate::instruction::{Instruction, Pair};
use crate::lines;
use crate::parse::{self, Parsed};

/// Longest file read; real ones are a thousandth of it.
pub const DOCKERFILE_BYTES_MAX: usize = 8 << 20;
/// Most instructions of one file: an image has fewer layers than that.
const STEPS_MAX: usize = 10_000;

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub escape: char,
    /// `# syntax=`: a frontend, which is only noted.
    pub syntax: Option<String>,
    /// `ARG`s before the first `FROM`.
    pub arguments: Vec<Step>,
    /// At least one.
    pub stages: Vec<Stage>,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub line: usize,
    pub original: String,
    /// An image, a stage before, or `scratch`; not expanded.
    pub base: String,
    pub name: Option<String>,
    pub platform: Option<String>,
    pub steps: Vec<Step>,
}

/// One instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub line: usize,
    /// As people are shown it.
    pub original: String,
    pub instruction: Instruction,
    /// Values are taken as they are.
    pub literal: bool,
}

impl Dockerfile {
    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > DOCKERFILE_BYTES_MAX {
            return Err(ParseError::at(
                1,
                format!("the Dockerfile is larger than {DOCKERFILE_BYTES_MAX} bytes"),
            ));
        }
        let (directives, nodes) = lines::split(text)?;
        let mut file = Self {
            escape: directives.escape,
            syntax: directives.syntax,
            arguments: Vec::new(),
            stages: Vec::new(),
        };
        if nodes.len() > STEPS_MAX {
            let line = nodes[STEPS_MAX].line;
            return Err(ParseError::at(
                line,
                format!("the Dockerfile has more than {STEPS_MAX} instructions"),
            ));
        }
        for node in nodes {
            let wrong = |message: String| ParseError::at(node.line, message);
            match (
                parse::parse(&node, file.escape).map_err(wrong)?,
                file.stages.last_mut(),
            ) {
                (
                    Parsed::From {
                        base,
                        name,
                        platform,
                    },
                    _,
                ) => {
                    let taken = file.stages.iter().any(|stage| stage.name == name);
                    if let (Some(name), true) = (&name, taken) {
                        return Err(wrong(format!("duplicate name {name}")));
                    }
                    file.stages.push(Stage {
                        line: node.line,
                        original: node.original,
                        base,
                        name,
                        platform,
                        steps: Vec::new(),
                    });
                }
                (Parsed::Instruction(instruction), Some(stage)) => stage.steps.push(Step {
                    line: node.line,
                    original: node.original,
                    instruction,
                    literal: false,
                }),
                (Parsed::Instruction(instruction @ Instruction::Arg(_)), None) => {
                    file.arguments.push(Step {
                        line: node.line,
                        original: node.original,
                        instruction,
                        literal: false,
                    });
                }
                (Parsed::Instruction(_), None) => {
                    return Err(wrong("no build stage in current context".into()));
                }
            }
        }
        if file.stages.is_empty() {
            return Err(ParseError::at(1, "no build stage in current context"));
        }
        Ok(file)
    }

    /// The stage a name or number means.
    pub fn stage(&self, given: &str) -> Option<usize> {
        let by_name = self.stages.iter().position(|stage| {
            stage
                .name
                .as_deref()
                .is_some_and(|name| name.eq_ignore_ascii_case(given))
        });
        by_name.or_else(|| {
            given
                .parse::<usize>()
                .ok()
                .filter(|index| *index < self.stages.len())
        })
    }

    /// Adds a label to the last stage, as `--label` does.
    pub fn add_label(&mut self, key: &str, value: &str) {
        if let Some(stage) = self.stages.last_mut() {
            stage.steps.push(Step {
                line: stage.line,
                original: format!("LABEL {key}={value}"),
                instruction: Instruction::Label(vec![Pair {
                    key: key.to_owned(),
                    value: value.to_owned(),
                }]),
                literal: true,
            });
        }
    }
}

/// Reads one instruction of an `ONBUILD` or of `--change`.
pub fn parse_trigger(text: &str) -> Result<Step, ParseError> {
    let node = lines::single(text, '\\')?;
    let line = node.line;
    match parse::parse(&node, '\\').map_err(|message| ParseError::at(line, message))? {
        Parsed::Instruction(instruction) => Ok(Step {
            line,
            original: node.original,
            instruction,
            literal: false,
        }),
        Parsed::From { .. } => Err(ParseError::at(
            line,
            "FROM isn't allowed as an ONBUILD trigger",
        )),
    }
}
