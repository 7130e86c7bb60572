//! Progress by id: each id has a line, which is written again when something changes.

use crate::failure::{Failure, Outcome};
use crate::human;
use crate::json::Json;
use crate::session::Session;

/// Characters between the brackets of a bar.
const BAR_LEN: usize = 50;
/// A narrower terminal gets no bars.
const BAR_TERMINAL_WIDTH_MIN: usize = 110;

/// One thing to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Line {
    /// What it is about; empty for a line of its own.
    pub id: String,
    pub text: String,
    /// How far it is; a line without is written where nobody watches, too.
    pub progress: Option<Amount>,
    /// Whether later lines with this id replace it.
    pub replaces: bool,
}

/// So much of so much.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Amount {
    pub current: i64,
    pub total: i64,
    pub hides_counts: bool,
    /// Empty: bytes.
    pub unit: String,
}

impl Amount {
    fn show(&self, width: usize) -> String {
        if self.current <= 0 && self.total <= 0 {
            return String::new();
        }
        if self.total <= 0 {
            return if self.unit.is_empty() {
                format!("{:>8}", human::size(self.current as f64))
            } else {
                format!("{} {}", self.current, self.unit)
            };
        }
        let share = (self.current.max(0) as f64 / self.total as f64 * 100.0) as usize / 2;
        let done = share.min(BAR_LEN);
        let mut text = String::new();
        if width > BAR_TERMINAL_WIDTH_MIN {
            text.push_str(&format!(
                "[{}>{}] ",
                "=".repeat(done),
                " ".repeat(BAR_LEN - done)
            ));
        }
        if self.hides_counts {
            return text;
        }
        if self.unit.is_empty() {
            text.push_str(&format!("{:>8}", human::size(self.current as f64)));
            if self.current <= self.total {
                text.push_str(&format!("/{}", human::size(self.total as f64)));
            }
        } else {
            text.push_str(&format!("{}/{} {}", self.current, self.total, self.unit));
        }
        text
    }
}

/// Where progress is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    Out,
    /// Where stdout belongs to what comes after, as in `run`.
    Err,
}

/// Writes lines.
pub struct Lines<'a> {
    session: &'a Session,
    sink: Sink,
    /// Ids in the order of their lines on the terminal.
    ids: Vec<String>,
    /// What was said last of each id, where nobody watches.
    said: Vec<(String, String)>,
}

impl<'a> Lines<'a> {
    pub fn new(session: &'a Session, sink: Sink) -> Self {
        Self {
            session,
            sink,
            ids: Vec::new(),
            said: Vec::new(),
        }
    }

    fn print(&self, text: &str) -> Outcome {
        match self.sink {
            Sink::Out => self.session.print(text),
            Sink::Err => self.session.print_error_bytes(text.as_bytes()),
        }
    }

    pub fn write(&mut self, line: &Line) -> Outcome {
        let watched = match self.sink {
            Sink::Out => self.session.streams.out_is_terminal,
            Sink::Err => self.session.streams.err_is_terminal,
        };
        if watched {
            self.write_terminal(line)
        } else {
            self.write_plain(line)
        }
    }

    fn write_plain(&mut self, line: &Line) -> Outcome {
        let shown = line
            .progress
            .as_ref()
            .map(|amount| amount.show(0))
            .unwrap_or_default();
        let moves = line
            .progress
            .as_ref()
            .is_some_and(|amount| amount.current > 0 || amount.total > 0);
        if !shown.is_empty() || moves {
            return Ok(());
        }
        if line.replaces {
            match self.said.iter_mut().find(|(id, _)| *id == line.id) {
                Some((_, text)) if *text == line.text => return Ok(()),
                Some((_, text)) => text.clone_from(&line.text),
                None => self.said.push((line.id.clone(), line.text.clone())),
            }
        }
        let id = if line.id.is_empty() {
            String::new()
        } else {
            format!("{}: ", line.id)
        };
        self.print(&format!("{id}{}\n", line.text))
    }

    fn write_terminal(&mut self, line: &Line) -> Outcome {
        let mut text = String::new();
        let mut up = 0;
        if !line.id.is_empty() && line.replaces {
            let at = match self.ids.iter().position(|id| *id == line.id) {
                Some(at) => at,
                None => {
                    self.ids.push(line.id.clone());
                    text.push('\n');
                    self.ids.len() - 1
                }
            };
            up = self.ids.len() - at;
            text.push_str(&format!("\x1b[{up}A"));
        } else {
            self.ids.clear();
        }
        if line.replaces {
            text.push_str("\x1b[2K\r");
        }
        if !line.id.is_empty() {
            text.push_str(&format!("{}: ", line.id));
        }
        let shown = line
            .progress
            .as_ref()
            .map(|amount| amount.show(self.session.streams.width))
            .unwrap_or_default();
        if line.replaces {
            text.push_str(&format!("{} {shown}\r", line.text));
        } else {
            text.push_str(&format!("{}\n", line.text));
        }
        if up > 0 {
            text.push_str(&format!("\x1b[{up}B"));
        }
        self.print(&text)
    }
}

/// Shows the progress stream of a pull, push, load or import. `Err` is what the stream reports.
pub async fn show_stream(
    session: &Session,
    sink: Sink,
    mut stream: crate::client::JsonLines,
    mut aux: impl FnMut(&Json),
) -> Outcome {
    let mut lines = Lines::new(session, sink);
    while let Some(message) = stream.next().await? {
        if let Some(detail) = message
            .get("errorDetail")
            .filter(|detail| !detail.str("message").is_empty())
        {
            let message = detail.str("message").to_owned();
            // A command of a build that failed: its status is ours.
            return Err(match u8::try_from(detail.int("code")) {
                Ok(status) if status > 0 => Failure::Exit { status, message },
                _ => Failure::Message(message),
            });
        }
        if !message.str("error").is_empty() {
            return Err(Failure::message(message.str("error")));
        }
        if let Some(value) = message.get("aux") {
            aux(value);
            continue;
        }
        if !message.str("stream").is_empty() {
            lines.print(message.str("stream"))?;
            continue;
        }
        let progress = message
            .get("progressDetail")
            .filter(|detail| **detail != Json::Null)
            .map(|detail| Amount {
                current: detail.int("current"),
                total: detail.int("total"),
                hides_counts: detail.bool("hidecounts"),
                unit: detail.str("units").to_owned(),
            });
        lines.write(&Line {
            id: message.str("id").to_owned(),
            text: message.str("status").to_owned(),
            replaces: progress.is_some() && !message.str("id").is_empty(),
            progress,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_dockers() {
        let amount = Amount {
            current: 500,
            total: 1000,
            ..Amount::default()
        };
        assert_eq!(amount.show(80), "    500B/1kB");
        assert_eq!(
            amount.show(200),
            format!("[{}>{}]     500B/1kB", "=".repeat(25), " ".repeat(25))
        );
        let unknown = Amount {
            current: 1_500_000,
            ..Amount::default()
        };
        assert_eq!(unknown.show(80), "   1.5MB");
        assert_eq!(Amount::default().show(80), "");
    }
}
