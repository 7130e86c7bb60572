//! Registers, driven from the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_consensus::StateMachine;

use crate::shared::Shared;

/// Bytes of a command: the register's number, the value.
const COMMAND_BYTES: usize = 9;

/// A command that sets a register.
pub fn command(key: u8, value: u64) -> Vec<u8> {
    let mut command = vec![key];
    command.extend_from_slice(&value.to_be_bytes());
    command
}

fn read_command(command: &[u8]) -> Option<(u8, u64)> {
    let (key, value) = command.split_first()?;
    let value: [u8; COMMAND_BYTES - 1] = value.try_into().ok()?;
    Some((*key, u64::from_be_bytes(value)))
}

/// Registers, and every command that made them so.
pub struct Registers {
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    commands: Vec<Vec<u8>>,
    /// Value, and the index of the command that set it.
    values: BTreeMap<u8, (u64, u64)>,
}

impl Inner {
    fn apply(&mut self, command: &[u8]) -> Result<u64, String> {
        let (key, value) =
            read_command(command).ok_or_else(|| format!("a command came as {command:?}"))?;
        self.commands.push(command.to_vec());
        let index = self.commands.len() as u64;
        self.values.insert(key, (value, index));
        Ok(index)
    }
}

impl Registers {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            inner: Mutex::default(),
        }
    }

    pub fn read(&self, key: u8) -> Option<(u64, u64)> {
        self.lock().values.get(&key).copied()
    }

    pub fn commands(&self) -> Vec<Vec<u8>> {
        self.lock().commands.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateMachine for Registers {
    fn apply(&self, index: u64, command: &[u8]) -> Vec<u8> {
        match self.lock().apply(command) {
            Ok(own) if own == index => (),
            Ok(own) => self
                .shared
                .fail(format!("command {own} was given the index {index}")),
            Err(why) => self.shared.fail(why),
        }
        index.to_be_bytes().to_vec()
    }

    fn dump(&self) -> Box<dyn Iterator<Item = Vec<u8>> + Send> {
        Box::new(self.commands().into_iter())
    }

    fn restore(&self, index: u64, chunks: &mut dyn Iterator<Item = Vec<u8>>) -> Result<(), String> {
        let mut restored = Inner::default();
        for command in chunks {
            restored.apply(&command)?;
        }
        match restored.commands.len() as u64 {
            count if count == index => *self.lock() = restored,
            count => return Err(format!("{count} commands for index {index}")),
        }
        Ok(())
    }
}
