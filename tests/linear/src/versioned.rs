//! An object with a value and a version, as the control API has them: made, read, changed if its
//! version is still the one that was read, removed.
//!
//! Answers to changes do not tell the new version, so the model knows it only from the next read; until
//! then it knows that it is above the one before.

use std::fmt;

use crate::Model;

/// What was asked. Values are told apart by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Read,
    Create {
        value: u64,
    },
    /// Only if the version is still this one.
    Update {
        value: u64,
        version: u64,
    },
    /// Whatever is there, also if there is nothing.
    Write {
        value: u64,
    },
    Remove,
}

/// What was said to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Found {
        value: u64,
        version: u64,
    },
    Done,
    /// Done, and the object has this version now.
    DoneAs {
        version: u64,
    },
    /// There is no such object.
    Absent,
    /// There is one of this name already.
    Exists,
    /// It has another version.
    Stale,
    /// Nothing, or that it may have been done.
    Unknown,
}

/// A request with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub asked: Asked,
    pub answer: Answer,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.asked {
            Asked::Read => write!(f, "read")?,
            Asked::Create { value } => write!(f, "create with {value}")?,
            Asked::Update { value, version } => write!(f, "update {version} to {value}")?,
            Asked::Write { value } => write!(f, "write {value}")?,
            Asked::Remove => write!(f, "remove")?,
        }
        match self.answer {
            Answer::Found { value, version } => write!(f, " -> {value} in version {version}"),
            Answer::Done => write!(f, " -> done"),
            Answer::DoneAs { version } => write!(f, " -> done in version {version}"),
            Answer::Absent => write!(f, " -> there is none"),
            Answer::Exists => write!(f, " -> there is one already"),
            Answer::Stale => write!(f, " -> it has another version"),
            Answer::Unknown => write!(f, " -> unknown"),
        }
    }
}

/// What is known of the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Known {
    Exactly(u64),
    Above(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Inner {
    /// Nothing is known of it.
    Any,
    Absent,
    Present {
        value: u64,
        version: Known,
    },
}

/// The object between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State(Inner);

/// The model of such an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Versioned {
    /// The value that it has before the history; without one there is no object.
    pub value: Option<u64>,
    /// Its version also moves without anybody asking, as a node's does with its status.
    pub moves: bool,
}

impl Versioned {
    /// Whether an object of which so much is known can have this version.
    fn admits(self, known: Known, version: u64) -> bool {
        match known {
            Known::Exactly(known) if self.moves => version >= known,
            Known::Exactly(known) => version == known,
            Known::Above(known) => version > known,
        }
    }

    fn found(self, state: Inner, found: (u64, u64)) -> Option<Inner> {
        let is_right = match state {
            Inner::Any => true,
            Inner::Absent => false,
            Inner::Present { value, version } => value == found.0 && self.admits(version, found.1),
        };
        is_right.then_some(Inner::Present {
            value: found.0,
            version: Known::Exactly(found.1),
        })
    }

    fn refused(self, state: Inner, call: Call) -> Option<Inner> {
        let absent = matches!(state, Inner::Any | Inner::Absent).then_some(Inner::Absent);
        match (call.asked, call.answer) {
            (Asked::Create { .. }, Answer::Exists) => (state != Inner::Absent).then_some(state),
            (Asked::Read | Asked::Update { .. } | Asked::Remove, Answer::Absent) => absent,
            (Asked::Update { version, .. }, Answer::Stale) => match state {
                Inner::Absent => None,
                Inner::Present {
                    version: Known::Exactly(known),
                    ..
                } if known == version && !self.moves => None,
                state => Some(state),
            },
            _ => None,
        }
    }

    /// The object after a change that was made; `None` when it could not be.
    fn changed(self, state: Inner, asked: Asked) -> Option<Inner> {
        let above = |value, version| {
            let version = Known::Above(version);
            Some(Inner::Present { value, version })
        };
        match (asked, state) {
            (Asked::Create { value }, Inner::Any | Inner::Absent) => above(value, 0),
            (Asked::Update { value, version }, Inner::Any) => above(value, version),
            (Asked::Update { value, version }, Inner::Present { version: known, .. })
                if self.admits(known, version) =>
            {
                above(value, version)
            }
            (Asked::Write { value }, Inner::Any | Inner::Absent) => above(value, 0),
            (Asked::Write { value }, Inner::Present { version, .. }) => match version {
                Known::Exactly(version) | Known::Above(version) => above(value, version),
            },
            (Asked::Remove, Inner::Any | Inner::Present { .. }) => Some(Inner::Absent),
            _ => None,
        }
    }
}

impl Model for Versioned {
    type Call = Call;
    type State = State;

    fn initial(&self) -> State {
        State(match self.value {
            None => Inner::Absent,
            Some(value) => Inner::Present {
                value,
                version: Known::Above(0),
            },
        })
    }

    fn any(&self) -> State {
        State(Inner::Any)
    }

    fn step(&self, state: &State, call: &Call) -> Option<State> {
        let next = match call.answer {
            Answer::Found { value, version } if call.asked == Asked::Read => {
                self.found(state.0, (value, version))
            }
            Answer::Found { .. } => None,
            Answer::Done | Answer::Unknown => self.changed(state.0, call.asked),
            Answer::DoneAs { version } => match self.changed(state.0, call.asked) {
                Some(Inner::Present {
                    value,
                    version: known,
                }) => self.admits(known, version).then_some(Inner::Present {
                    value,
                    version: Known::Exactly(version),
                }),
                _ => None,
            },
            Answer::Absent | Answer::Exists | Answer::Stale => self.refused(state.0, *call),
        };
        next.map(State)
    }

    fn only_looks(&self, call: &Call) -> bool {
        !matches!(
            call.answer,
            Answer::Done | Answer::DoneAs { .. } | Answer::Unknown
        )
    }
}
