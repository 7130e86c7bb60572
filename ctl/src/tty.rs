//! The terminal the client runs on.

use rustix::termios::{self, OptionalActions, Termios};

use crate::failure::{Failure, Outcome};

/// Puts stdin's terminal back as it was when dropped.
pub struct Saved(Termios);

impl Drop for Saved {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

fn attributes() -> Outcome<Termios> {
    termios::tcgetattr(rustix::stdio::stdin())
        .map_err(|error| Failure::message(format!("cannot read the terminal's mode: {error}")))
}

fn set(attributes: &Termios) -> Outcome {
    termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, attributes)
        .map_err(|error| Failure::message(format!("cannot change the terminal's mode: {error}")))
}

/// Every key goes to the container as it is.
pub fn raw_mode() -> Outcome<Saved> {
    let saved = attributes()?;
    let mut raw = saved.clone();
    raw.make_raw();
    set(&raw)?;
    Ok(Saved(saved))
}

/// What is typed is not shown.
pub fn no_echo() -> Outcome<Saved> {
    let saved = attributes()?;
    let mut silent = saved.clone();
    silent.local_modes.remove(termios::LocalModes::ECHO);
    set(&silent)?;
    Ok(Saved(saved))
}

/// Rows and columns.
pub fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
