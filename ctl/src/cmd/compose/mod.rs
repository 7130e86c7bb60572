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
mod names;
mod observed;
mod order;
mod plan;
mod project;
mod pull;
mod push;
mod rehearsal;
mod run;
mod single;
mod stop;
mod together;
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
    let id = format!("{kind} {name}");
    say(session, &id, what, &format!("{id}  {what}"));
}

/// Says what else happens to a service.
fn tell_line(session: &Session, key: &str, what: &str) {
    say(session, key, what.trim_end(), &format!("{key} {what}"));
}

fn say(session: &Session, id: &str, text: &str, line: &str) {
    match project::progress(session).as_str() {
        "quiet" => {}
        "json" => {
            let mut line = serde_json::json!({"id": id, "text": text});
            if rehearsal::is_on(session) {
                line["dry-run"] = true.into();
            }
            session.warn(line.to_string());
        }
        _ => session.warn(format!("{} {line}", rehearsal::mark(session))),
    }
}

/// As [`tell`], of a container.
fn tell_container(session: &Session, name: &str, what: &str) {
    tell(session, "Container", name, what);
}
