//! `why`: what something waits for, what went wrong, and what can be done.

use skep_model::Timestamp;
use skep_model::why::{Cause, Why};

use crate::client::Call;
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table;
use crate::template::{Dot, Template};

/// Nodes that are told one by one; of more, only their number and reasons.
const REFUSALS_MAX: usize = 20;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let mut call = Call::get("/skep/v1/why").query_text("type", args.text("type"));
    if let Some(object) = args.positionals().first() {
        call = call.query_text("object", object);
    }
    let format = args.text("format");
    let template = match format {
        "" | "json" => None,
        format => Some(Template::parse(format).map_err(Failure::Message)?),
    };
    let why: Why = match session.client.typed(call).await {
        Err(Failure::Daemon { message, .. }) if message == "page not found" => {
            return Err(Failure::message("this daemon gives no reasons"));
        }
        answer => answer?,
    };
    if let Some(template) = template {
        let text = template
            .run(&Dot::of(&Json::of(&why)))
            .map_err(Failure::Message)?;
        return session.say(text);
    }
    if format == "json" {
        return session.say(Json::of(&why).compact(false));
    }
    session.print(&text(&why, now()))
}

fn text(why: &Why, now: Timestamp) -> String {
    let mut text = format!("{}: {}\n", why.object, why.summary);
    if why.causes.is_empty() {
        text.push_str("Nothing is waited for, and nothing is wrong.\n");
    }
    for cause in &why.causes {
        text.push('\n');
        text.push_str(&of_cause(cause, now));
    }
    if !why.transitions.is_empty() {
        text.push_str("\nLast transitions:\n");
        let mut rows = String::new();
        for one in &why.transitions {
            let ago = human::ago(one.at, now);
            let (task, node, what) = (&one.subject, &one.node, &one.what);
            rows.push_str(&format!("  {ago}\t{task}\t{node}\t{what}\n"));
        }
        text.push_str(&table::align(&rows));
    }
    text
}

fn of_cause(cause: &Cause, now: Timestamp) -> String {
    let since = match cause.since.is_zero() {
        true => String::new(),
        false => format!(" ({})", human::ago(cause.since, now)),
    };
    let mut text = format!("{}: {}{since}\n", cause.subject, cause.message);
    if cause.next > now {
        let wait = cause.next.since(now).as_secs_f64().ceil();
        text.push_str(&format!("  next try in {wait} s\n"));
    }
    let told = cause.refusals.iter().take(REFUSALS_MAX);
    let mut rows = String::new();
    for refusal in told.filter(|refusal| !refusal.reasons.is_empty()) {
        let reasons = refusal.reasons.join("; ");
        rows.push_str(&format!("  {}\t{reasons}\n", refusal.node));
    }
    text.push_str(&table::align(&rows));
    let more = cause.refusals.len().saturating_sub(REFUSALS_MAX);
    if more > 0 {
        text.push_str(&format!("  and {more} more nodes\n"));
    }
    if !cause.advice.is_empty() {
        text.push_str(&format!("  -> {}\n", cause.advice));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::why::{Refusal, Transition, Trouble};

    #[test]
    fn a_cause_says_what_where_and_what_to_do() {
        let now = Timestamp::from_secs(1000);
        let refusal = |node: &str, reason: &str| Refusal {
            node: node.to_owned(),
            reasons: vec![reason.to_owned()],
            ..Refusal::default()
        };
        let why = Why {
            object: "service web".to_owned(),
            summary: "0 of 1 tasks run".to_owned(),
            causes: vec![Cause {
                subject: "web.1".to_owned(),
                trouble: Trouble::NoRoom,
                message: "no suitable node (insufficient resources on 2 nodes)".to_owned(),
                advice: "add a node".to_owned(),
                since: Timestamp::from_secs(940),
                next: Timestamp::from_secs(1003),
                refusals: vec![
                    refusal("n1", "4 CPUs wanted, 1.5 of 2 free"),
                    refusal("n22", "is down"),
                ],
            }],
            transitions: vec![Transition {
                at: Timestamp::from_secs(940),
                subject: "web.1".to_owned(),
                node: String::new(),
                what: "made".to_owned(),
            }],
        };
        assert_eq!(
            text(&why, now),
            "service web: 0 of 1 tasks run\n\
             \n\
             web.1: no suitable node (insufficient resources on 2 nodes) (About a minute ago)\n  \
               next try in 3 s\n  \
               n1      4 CPUs wanted, 1.5 of 2 free\n  \
               n22     is down\n  \
               -> add a node\n\
             \n\
             Last transitions:\n  \
               About a minute ago   web.1               made\n"
        );
    }

    #[test]
    fn where_all_is_well_it_says_so() {
        let why = Why {
            object: "service web".to_owned(),
            summary: "1 of 1 tasks run".to_owned(),
            ..Why::default()
        };
        assert_eq!(
            text(&why, Timestamp::from_secs(1)),
            "service web: 1 of 1 tasks run\nNothing is waited for, and nothing is wrong.\n"
        );
    }
}
