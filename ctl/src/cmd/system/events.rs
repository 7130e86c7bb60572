//! `events`.

use crate::client::{Call, JsonLines};
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::flags::Args;
use crate::grammar::moment;
use crate::json::Json;
use crate::session::Session;
use crate::template::{Dot, Template};

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let template = match args.text("format") {
        "" => None,
        "json" => Some("{{json .}}"),
        template => Some(template),
    };
    let template = template
        .map(|text| {
            Template::parse(text)
                .map_err(|why| Failure::message(format!("template parsing error: {why}")))
        })
        .transpose()?;
    let moment = |flag: &str| match args.text(flag) {
        "" => Ok(String::new()),
        text => moment::parse(text, now()).map_err(Failure::Message),
    };
    let call = Call::get("/events")
        .query_text("since", &moment("since")?)
        .query_text("until", &moment("until")?)
        .query_text("filters", &Filters::of(args)?.to_query());
    let mut events = JsonLines::of(session.client.send(call).await?);
    while let Some(event) = events.next().await? {
        match &template {
            None => session.say(show(&event))?,
            Some(template) => {
                let text = template.run(&Dot::of(&event)).map_err(Failure::Message)?;
                session.say(text)?;
            }
        }
    }
    Ok(())
}

/// `TIME type action id (key=value, …)`.
fn show(event: &Json) -> String {
    let nanos = match event.int("timeNano") {
        0 => event.int("time").saturating_mul(1_000_000_000),
        nanos => nanos,
    };
    let at = jiff::Timestamp::from_nanosecond(i128::from(nanos))
        .map(|at| {
            at.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%dT%H:%M:%S.%9f%:z")
                .to_string()
        })
        .unwrap_or_default();
    let at = match at.strip_suffix("+00:00") {
        Some(utc) => format!("{utc}Z"),
        None => at,
    };
    let attributes = event.text_map("Actor.Attributes");
    let shown: Vec<String> = attributes
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let shown = if shown.is_empty() {
        String::new()
    } else {
        format!(" ({})", shown.join(", "))
    };
    format!(
        "{at} {} {} {}{shown}",
        event.str("Type"),
        event.str("Action"),
        event.str("Actor.ID")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event = Json::parse(
            br#"{"Type":"container","Action":"start","Actor":{"ID":"abc","Attributes":{"name":"web","image":"x"}},"timeNano":1700000000000000001}"#,
        )
        .unwrap();
        let line = show(&event);
        assert!(line.contains(".000000001"), "{line}");
        assert!(
            line.ends_with(" container start abc (image=x, name=web)"),
            "{line}"
        );
    }
}
