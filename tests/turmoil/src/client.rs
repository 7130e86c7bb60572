//! A client that writes and reads registers at any member, and notes what it was told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_linear::{Answer, Asked, Call, Operation};

use crate::machine;
use crate::member::{DONE, REFUSED};
use crate::shared::{Shared, now};
use crate::wire::{self, Kind};

/// Registers that there are.
pub const KEYS: u8 = 3;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two requests, in milliseconds.
const PACE: std::ops::Range<u64> = 5..60;
/// Requests of each client in peace; members are found out who leads meanwhile.
const LAST: usize = 20;

/// Who asks, and of whom.
#[derive(Clone)]
pub struct Client {
    pub number: usize,
    pub members: u64,
    pub seed: u64,
    pub shared: Arc<Shared>,
}

/// Asks until there is peace, and a little longer.
pub async fn live(client: Client) -> turmoil::Result {
    let mut random = StdRng::seed_from_u64(client.seed ^ (client.number as u64 + 1));
    while !client.shared.is_ready.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut last = 0;
    // Clients stay with a member that answers, as they do in life.
    let mut at = random.random_range(1..=client.members);
    while last < LAST {
        if client.shared.is_peace.load(Ordering::Relaxed) {
            last += 1;
        }
        let key = random.random_range(0..KEYS);
        let is_answered = match random.random_bool(0.5) {
            true => client.write(at, key).await,
            false => client.read(at, key).await,
        };
        if !is_answered || random.random_bool(0.1) {
            at = random.random_range(1..=client.members);
        }
        let pause = Duration::from_millis(random.random_range(PACE));
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

impl Client {
    async fn ask(&self, at: u64, kind: Kind, question: &[u8]) -> Option<Vec<u8>> {
        let host = wire::host(at);
        let asked = wire::ask(&host, kind, question);
        tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()
    }

    /// Whether it was acknowledged.
    async fn write(&self, at: u64, key: u8) -> bool {
        let value = self.shared.next_value();
        let command = machine::command(key, value);
        let invoked = now();
        let heard = self.ask(at, Kind::Write, &command).await;
        let returned = now();
        let answer = match heard.as_deref().and_then(<[u8]>::split_first) {
            Some((&DONE, index)) => {
                let index: [u8; 8] = index.try_into().unwrap_or_default();
                let version = u64::from_be_bytes(index);
                self.shared.acknowledge(version, command);
                Answer::DoneAs { version }
            }
            // Whoever reads it all the same reads what nobody wrote.
            Some((&REFUSED, _)) => return false,
            _ => Answer::Unknown,
        };
        let asked = Asked::Write { value };
        self.note(key, (invoked, returned), asked, answer);
        answer != Answer::Unknown
    }

    async fn read(&self, at: u64, key: u8) -> bool {
        let invoked = now();
        let heard = self.ask(at, Kind::Read, &[key]).await;
        let returned = now();
        let Some((&DONE, found)) = heard.as_deref().and_then(<[u8]>::split_first) else {
            return false;
        };
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap_or_default());
        let answer = match found.split_at_checked(8) {
            None => Answer::Absent,
            Some((value, version)) => Answer::Found {
                value: number(value),
                version: number(version),
            },
        };
        self.note(key, (invoked, returned), Asked::Read, answer);
        true
    }

    fn note(&self, key: u8, (invoked, returned): (u64, u64), asked: Asked, answer: Answer) {
        let operation = Operation {
            client: self.number,
            invoked,
            returned: (answer != Answer::Unknown).then_some(returned),
            call: Call { asked, answer },
        };
        self.shared.note(key, operation);
    }
}
