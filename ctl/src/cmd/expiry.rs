//! When secrets expire: `--expires` and `--remind`, and how it is shown.

use skep_model::expiry::{Expiry, Stage};
use skep_model::job::length;
use skep_model::{Secret, Timestamp};

use super::inspect;
use super::task::now;
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;

/// What is wished for; nothing where nothing is said.
pub fn wish(args: &Args) -> Outcome<Option<Expiry>> {
    let mut wish = Expiry::default();
    match args.maybe("expires") {
        None => (),
        Some("never") if args.given("remind") => {
            return Err(Failure::message(
                "--remind: what never expires has no reminder",
            ));
        }
        Some("never") => wish.never = true,
        Some(text) => match (length(text), Timestamp::parse(text)) {
            (Some(length), _) => wish.after = length.into(),
            (None, Ok(at)) if !at.is_zero() => wish.at = at,
            _ => {
                let why = "want a length of time such as 90d, a moment such as 2027-01-31T00:00:00Z, or never";
                return Err(args.invalid("expires", text, why));
            }
        },
    }
    if let Some(text) = args.maybe("remind") {
        let length = length(text);
        let length = length
            .ok_or_else(|| args.invalid("remind", text, "want a length of time such as 14d"))?;
        wish.remind = Some(length.into());
    }
    Ok((wish != Expiry::default()).then_some(wish))
}

/// Gives the present version of a secret another time, or none any more.
pub async fn set(session: &Session, args: &Args, wish: Expiry) -> Outcome {
    let name = segment(args.positional(0));
    let secret: Secret = session
        .client
        .typed(Call::get(format!("/secrets/{name}")))
        .await?;
    let mut spec = secret.spec;
    let had = spec.expiry.take();
    if had.is_none() && wish.at.is_zero() && wish.after.0 == 0 && !wish.never {
        return Err(Failure::message(format!(
            "--remind: secret {} does not expire: say when with --expires",
            spec.name
        )));
    }
    spec.expiry = Some(begun(wish, had, now()));
    let path = format!(
        "/secrets/{}/update?version={}",
        secret.id, secret.version.index
    );
    session.client.done(Call::post(path).json(&spec)).await?;
    session.say(secret.id.as_str())
}

/// A wish for a version that is there already: its time begins now, also where it is as long as before.
fn begun(mut wish: Expiry, had: Option<Expiry>, now: Timestamp) -> Expiry {
    if wish.after.0 > 0 {
        wish.at = now.plus(wish.after.duration());
    }
    if wish.remind.is_none() && !wish.never {
        wish.remind = had.and_then(|had| had.remind);
    }
    wish
}

fn of(secret: &Json) -> Option<Timestamp> {
    let at = Timestamp::parse(secret.str("Spec.Expiry.At")).ok()?;
    (!at.is_zero()).then_some(at)
}

/// Whether a secret expires at some time.
pub fn expires(secret: &Json) -> bool {
    of(secret).is_some()
}

/// `in 3 weeks`, `2 days ago`, nothing.
pub fn shown(secret: &Json, now: Timestamp) -> String {
    match of(secret) {
        None => String::new(),
        Some(at) if at <= now => human::ago(at, now),
        Some(at) => format!("in {}", human::age(at.since(now)).to_lowercase()),
    }
}

/// The lines of `secret inspect --pretty`.
pub fn pretty(secret: &Json) -> String {
    let Some(at) = of(secret) else {
        return String::new();
    };
    let nanos = |field: &str| skep_model::Nanos(secret.int(field));
    let expiry = Expiry {
        after: nanos("Spec.Expiry.After"),
        at,
        remind: Some(nanos("Spec.Expiry.Remind")).filter(|remind| remind.0 != 0),
        never: false,
    };
    let each = match expiry.after.0 {
        0 => String::new(),
        _ => format!(
            ", each version after {}",
            human::age(expiry.after.duration()).to_lowercase()
        ),
    };
    let stage = match expiry.stage(now()) {
        Stage::Good => "",
        Stage::Expiring => " (soon)",
        Stage::Expired => " (over)",
    };
    let remind = human::age(expiry.remind()).to_lowercase();
    format!(
        "Expires:           {}{stage}{each}\nReminder:          {remind} before\n",
        inspect::time(&at.to_string())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn days(days: i64) -> Timestamp {
        Timestamp::from_secs(days * 24 * 3600)
    }

    #[test]
    fn a_time_that_is_given_anew_begins_anew() {
        let wish = Expiry {
            after: skep_model::Nanos(days(90).0),
            ..Expiry::default()
        };
        let had = Expiry {
            at: days(7),
            remind: Some(skep_model::Nanos(5)),
            ..wish.clone()
        };
        let begun = begun(wish, Some(had), days(1000));
        assert_eq!(
            (begun.at, begun.remind),
            (days(1090), Some(skep_model::Nanos(5)))
        );
    }

    #[test]
    fn a_row_says_how_long_it_is_good() {
        let shown_at = |text: &str| {
            let secret = format!(r#"{{"Spec":{{"Expiry":{{"At":"{text}"}}}}}}"#);
            shown(&Json::parse(secret.as_bytes()).unwrap(), days(1000))
        };
        assert_eq!(shown_at(&days(1090).to_string()), "in 3 months");
        assert_eq!(shown_at(&days(998).to_string()), "2 days ago");
        assert_eq!(shown_at("0001-01-01T00:00:00Z"), "");
        assert_eq!(shown(&Json::parse(b"{}").unwrap(), days(1)), "");
    }
}
