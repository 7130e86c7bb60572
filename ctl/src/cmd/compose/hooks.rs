//! Commands run in a container after its start and before its stop.

use serde_json::json;
use skep_compose::ProjectHook;
use tokio::io::AsyncReadExt;

use super::rehearsal;
use crate::client::{Call, segment};
use crate::cmd::container::path;
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// Runs hooks one after the other; the first that fails ends it.
pub async fn run(session: &Session, name: &str, id: &str, hooks: &[ProjectHook]) -> Outcome {
    if rehearsal::is_on(session) {
        return Ok(());
    }
    for hook in hooks {
        let body = json!({
            "Cmd": hook.command,
            "User": hook.user,
            "Privileged": hook.privileged,
            "WorkingDir": hook.working_dir,
            "Env": hook.environment,
            "AttachStdout": true,
            "AttachStderr": true,
        });
        let made = session
            .client
            .json(Call::post(path(id, "/exec")).json(&body))
            .await?;
        let exec = segment(made.str("Id"));
        let call =
            Call::post(format!("/exec/{exec}/start")).json(&json!({"Detach": false, "Tty": false}));
        let mut stream = session.client.hijack(call).await?;
        let mut buffer = vec![0; 8 << 10];
        while matches!(stream.read(&mut buffer).await, Ok(length) if length > 0) {}
        let state = session
            .client
            .json(Call::get(format!("/exec/{exec}/json")))
            .await?;
        let code = state.int("ExitCode");
        if code != 0 {
            return Err(Failure::message(format!(
                "{name} hook exited with status {code}: {}",
                hook.command.join(" ")
            )));
        }
    }
    Ok(())
}
