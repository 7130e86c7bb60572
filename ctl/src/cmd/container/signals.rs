//! What happens to this process that a container should feel: signals and the terminal's size.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::session::Session;
use crate::tty;

/// Signals that are passed on, with their numbers.
const FORWARDED: [(&str, i32); 6] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("USR1", 10),
    ("USR2", 12),
    ("TERM", 15),
];
/// So many interrupts end the client, whatever the container does.
const INTERRUPTS_MAX: u32 = 3;

/// Passes signals on to a container; ends only when the user insists.
pub async fn forward(session: &Session, container: &str) -> Outcome {
    let mut listeners: Vec<(&str, Signal)> = Vec::new();
    for (name, number) in FORWARDED {
        let listener = signal(SignalKind::from_raw(number))
            .map_err(|error| Failure::message(format!("cannot listen for signals: {error}")))?;
        listeners.push((name, listener));
    }
    let mut interrupts = 0;
    loop {
        let name = {
            let waits = listeners.iter_mut().map(|(name, listener)| {
                Box::pin(async move {
                    listener.recv().await;
                    *name
                })
            });
            futures_util::future::select_all(waits).await.0
        };
        if matches!(name, "INT" | "TERM") {
            interrupts += 1;
            if interrupts >= INTERRUPTS_MAX {
                return Err(Failure::message(
                    "got 3 SIGTERM/SIGINTs, forcefully exiting",
                ));
            }
        }
        // The container may have ended meanwhile.
        let _ = session
            .client
            .done(Call::post(super::path(container, "/kill")).query("signal", name))
            .await;
    }
}

/// Tells the terminal's size now and whenever it changes. `path` ends in `/resize`.
pub async fn follow_size(session: &Session, path: &str) {
    let mut last = None;
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return std::future::pending().await;
    };
    loop {
        let size = tty::size();
        if let Some((rows, columns)) = size
            && size != last
        {
            let call = Call::post(path).query("h", rows).query("w", columns);
            if session.client.done(call).await.is_ok() {
                last = size;
            } else {
                // Not started yet: look again soon.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        }
        changes.recv().await;
    }
}
