//! `image history`.

use skep_model::Timestamp;

use crate::client::{Call, segment};
use crate::cmd::task::now;
use crate::failure::Outcome;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const HISTORY: Listing = Listing {
    kind: "*image.historyContext",
    columns: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    quiet: "{{.ID}}",
    raw: &[],
};

const HISTORY_EXACT: Listing = Listing {
    kind: HISTORY.kind,
    columns: HISTORY.columns,
    table: "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    quiet: HISTORY.quiet,
    raw: &[],
};

/// Characters of a command that a cut table shows.
const COMMAND_LEN_MAX: usize = 45;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let platform = super::platform_query(args.text("platform"))?;
    let call = Call::get(format!("/images/{}/history", segment(args.positional(0))))
        .query_text("platform", &platform);
    let history = session.client.json(call).await?;
    let human = args.flag_or("human", true);
    let cut = !args.flag("no-trunc");
    let rows = history
        .list("")
        .iter()
        .map(|entry| row(entry, human, cut))
        .collect();
    let listing = if human { &HISTORY } else { &HISTORY_EXACT };
    session.print(&table::render(
        listing,
        args.text("format"),
        args.flag("quiet"),
        rows,
    )?)
}

fn row(entry: &Json, human: bool, cut: bool) -> Row {
    let created = entry.int("Created");
    let at = jiff::Timestamp::from_second(created)
        .map(|at| at.to_string())
        .unwrap_or_default();
    let command = entry.str("CreatedBy").replace('\t', " ");
    let size = entry.int("Size");
    Row::new([
        (
            "ID",
            if cut {
                human::short_id(entry.str("Id"))
            } else {
                entry.str("Id")
            }
            .into(),
        ),
        ("CreatedAt", at.into()),
        (
            "CreatedSince",
            if created <= 0 {
                "N/A".to_owned()
            } else {
                human::ago(Timestamp::from_secs(created), now())
            }
            .into(),
        ),
        (
            "CreatedBy",
            if cut {
                human::ellipsis(&command, COMMAND_LEN_MAX)
            } else {
                command
            }
            .into(),
        ),
        (
            "Size",
            if human {
                human::size3(size as f64)
            } else {
                size.to_string()
            }
            .into(),
        ),
        ("Comment", entry.str("Comment").into()),
    ])
}
