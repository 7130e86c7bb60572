//! Exec: additional processes in running containers.

use serde::Deserialize;
use skep_engine::ExecStart;
use skep_engine::types::ExecConfig;

use crate::containers::window;
use crate::hijack;
use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

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
    if body.detach {
        call.engine().exec_start(&id, options).await?;
        return reply::ok();
    }
    let wants_input = call.engine().exec_inspect(&id).await?.open_stdin;
    let seat = hijack::reserve(&call, wants_input)?;
    match call.engine().exec_start(&id, options).await {
        Ok(Some(attachment)) => hijack::attached(call, seat, attachment),
        Ok(None) => reply::ok(),
        // A program that cannot be run is said on the stream, and its status (126, 127) is read
        // from the exec afterwards, if the engine has kept one.
        Err(error) => match call.engine().exec_inspect(&id).await {
            Ok(exec) if !exec.running && exec.exit_code.is_some_and(|code| code != 0) => {
                hijack::said(call, seat, exec.process_config.tty, &error)
            }
            _ => Err(error.into()),
        },
    }
}

/// `POST /exec/{id}/resize`
pub(crate) async fn resize(call: Call, id: String) -> Outcome {
    let (height, width) = window(&call)?;
    call.engine().exec_resize(&id, height, width).await?;
    reply::ok()
}

/// `GET /exec/{id}/json`
pub(crate) async fn inspect(call: Call, id: String) -> Outcome {
    reply::json(&call.engine().exec_inspect(&id).await?)
}
