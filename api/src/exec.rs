//! Exec: additional processes in running containers.

use serde::Deserialize;
use skep_engine::ExecStart;
use skep_engine::types::ExecConfig;

use crate::containers::window;
use crate::hijack;
use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};
use crate::task_exec;

/// `POST /containers/{id}/exec`
pub(crate) async fn create(mut call: Call, container: String) -> Outcome {
    let config: ExecConfig = call.json().await?;
    if config.cmd.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    let id = call.engine().exec_create(&container, config).await?;
    reply::created(&serde_json::json!({ "Id": id }))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartBody {
    detach: bool,
    tty: bool,
    console_size: Option<(u32, u32)>,
}

/// `POST /exec/{id}/start`
pub(crate) async fn start(mut call: Call, id: String) -> Outcome {
    let body: StartBody = call.json_or_default().await?;
    if body.console_size.is_some() && !body.tty {
        return Err(ApiError::invalid(
            "console size is only supported when using a TTY",
        ));
    }
    let options = ExecStart {
        detach: body.detach,
        tty: body.tty,
        console_size: body.console_size,
    };
    if let Some(exec) = call.state.task_execs.get(&id) {
        return task_exec::start(call, exec, options).await;
    }
    if body.detach {
        call.engine().exec_start(&id, options).await?;
        return reply::ok();
    }
    let exec = call.engine().exec_inspect(&id).await?;
    let seat = hijack::reserve(&call, exec.open_stdin)?;
    let reserved = call.engine().exec_reserve(&id)?;
    let start = reserved.start(options);
    // As dockerd: whether the output is framed is what this request says of a terminal, whatever the
    // process has; clients read it that way.
    hijack::started(call, seat, body.tty, start).await
}

/// `POST /exec/{id}/resize`
pub(crate) async fn resize(call: Call, id: String) -> Outcome {
    let (height, width) = window(&call)?;
    if let Some(exec) = call.state.task_execs.get(&id) {
        return task_exec::resize(&exec, height, width);
    }
    call.engine().exec_resize(&id, height, width).await?;
    reply::ok()
}

/// `GET /exec/{id}/json`
pub(crate) async fn inspect(call: Call, id: String) -> Outcome {
    if let Some(exec) = call.state.task_execs.get(&id) {
        return task_exec::inspect(&exec);
    }
    reply::json(&call.engine().exec_inspect(&id).await?)
}
