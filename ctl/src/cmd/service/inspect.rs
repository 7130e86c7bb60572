//! `service inspect`.

use super::pretty;
use crate::client::{Call, segment};
use crate::cmd::{inspect, zero};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::json::Json;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    if args.flag("pretty") && args.given("format") {
        return Err(Failure::message(
            "--format is incompatible with human friendly format",
        ));
    }
    let fetch = |name: String| async move {
        let call =
            Call::get(format!("/services/{}", segment(&name))).query("insertDefaults", "true");
        session.client.text(call).await.map_err(|failure| {
            if failure.is_not_found() {
                Failure::message(format!("Error: no such service: {name}"))
            } else {
                failure
            }
        })
    };
    if !args.flag("pretty") {
        let (format, names) = (args.text("format"), args.positionals());
        return inspect::each_filled(session, format, names, fetch, zero::SERVICE).await;
    }
    // Names of networks are looked up before anything is printed.
    let networks = session
        .client
        .json(Call::get("/networks"))
        .await
        .unwrap_or(Json::Null);
    inspect::pretty(session, args.positionals(), fetch, |service| {
        pretty::text(service, &networks)
    })
    .await
}
