//! `skep compose`: a compose file's services as plain containers, networks and volumes of one
//! host, as docker's compose plugin makes them.

mod attached;
mod body;
mod build;
mod config;
mod develop;
mod down;
mod ended;
mod exec;
mod foreground;
mod hooks;
mod image;
mod labels;
mod lifecycle;
mod lists;
mod logs;
mod make;
mod observed;
mod order;
mod plan;
mod project;
mod pull;
mod push;
mod run;
mod single;
mod stop;
mod up;
mod wait;
mod watch;

pub use build::run as build;
pub use config::run as config;
pub use config::version;
pub use develop::run as watch;
pub use down::run as down;
pub use ended::run as wait;
pub use exec::{cp, exec};
pub use lifecycle::{kill, pause, remove, restart, start, stop, unpause};
pub use lists::{events, images, ls, port, ps, stats, top, volumes};
pub use logs::run as logs;
pub use pull::run as pull;
pub use push::{publish, push};
pub use run::run;
pub use single::{attach, commit, export};
pub use up::{create, scale, up};

use crate::session::Session;

/// Says what happened to an object, as compose does where nobody watches; `--progress` says
/// otherwise.
fn tell(session: &Session, kind: &str, name: &str, what: &str) {
    match project::progress(session).as_str() {
        "quiet" => {}
        "json" => {
            let line = serde_json::json!({"id": format!("{kind} {name}"), "text": what});
            session.warn(line.to_string());
        }
        _ => session.warn(format!(" {kind} {name}  {what}")),
    }
}

/// As [`tell`], of a container.
fn tell_container(session: &Session, name: &str, what: &str) {
    tell(session, "Container", name, what);
}
