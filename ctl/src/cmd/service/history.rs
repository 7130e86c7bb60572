//! `service history`.

use skep_model::Timestamp;
use skep_model::difference::differences;
use skep_model::revision::{PastRevision, ServiceHistory};

use crate::client::{Call, segment};
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::reference;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const REVISIONS: Listing = Listing {
    kind: "*service.revisionContext",
    columns: &[
        ("Revision", "REVISION"),
        ("Since", "SINCE"),
        ("Image", "IMAGE"),
        ("Status", "STATUS"),
        ("Reason", "REASON"),
        ("Changes", "CHANGES"),
    ],
    table: "{{.Revision}}\t{{.Since}}\t{{.Image}}\t{{.Status}}\t{{.Reason}}\t{{.Changes}}",
    quiet: "{{.Revision}}",
    raw: &[],
};

/// Longest list of changes in a table, in characters.
const CHANGES_LEN_MAX: usize = 60;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let name = args.positional(0);
    let call = Call::get(format!("/skep/v1/services/{}/history", segment(name)));
    let history: ServiceHistory = match session.client.typed(call).await {
        Err(Failure::Daemon { message, .. }) if message == "page not found" => {
            return Err(Failure::message(
                "this daemon keeps no revisions of services",
            ));
        }
        answer => answer?,
    };
    let whole = args.flag("no-trunc");
    let format = crate::cmd::format_of(session, args, "");
    let rows = rows(&history.revisions, whole, now());
    let quiet = args.flag("quiet");
    session.print(&table::render(&REVISIONS, &format, quiet, rows)?)
}

/// A row each, the newest first. The last one has nothing to be compared with.
fn rows(revisions: &[PastRevision], whole: bool, now: Timestamp) -> Vec<Row> {
    let older = revisions.iter().skip(1).map(Some).chain([None]);
    let pairs = revisions.iter().zip(older).enumerate();
    pairs
        .map(|(at, (past, older))| {
            let changes = older.map_or(Vec::new(), |older| differences(&older.spec, &past.spec));
            let changes = changes.join("; ");
            let image = past.spec.task_template.image();
            let (image, changes) = match whole {
                true => (image.to_owned(), changes),
                false => (
                    reference::without_digest(image),
                    human::ellipsis(&changes, CHANGES_LEN_MAX),
                ),
            };
            let status = match (at, past.revision.failed) {
                (0, _) => "present",
                (_, true) => "failed",
                _ => "",
            };
            Row::new([
                ("Revision", past.revision.number.to_string().as_str().into()),
                ("Since", human::ago(past.revision.since, now).into()),
                ("Image", image.into()),
                ("Status", status.into()),
                ("Reason", past.revision.because.as_str().into()),
                ("Changes", changes.into()),
            ])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::revision::Revision;

    #[test]
    fn revisions_tell_what_they_changed() {
        let past = |number, image: &str, because: &str, failed| {
            let mut past = PastRevision {
                revision: Revision {
                    number,
                    because: because.to_owned(),
                    failed,
                    since: Timestamp::from_secs(1000),
                    ..Revision::default()
                },
                ..PastRevision::default()
            };
            let container = past
                .spec
                .task_template
                .container_spec
                .get_or_insert_default();
            container.image = image.to_owned();
            past
        };
        let digested = format!("b:2@sha256:{}", "0".repeat(64));
        let revisions = [
            past(3, "a:1", "rolled back to 1", false),
            past(2, &digested, "updated", true),
            past(1, "a:1", "created", false),
        ];
        let now = Timestamp::from_secs(1060);
        let rows = rows(&revisions, false, now);
        let shown = table::render(&REVISIONS, "", false, rows).unwrap();
        let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "REVISION   SINCE                IMAGE     STATUS    REASON             CHANGES",
                "3          About a minute ago   a:1       present   rolled back to 1   Image: b:2@sha256:00000000000000000000000000000000000000000…",
                "2          About a minute ago   b:2       failed    updated            Image: a:1 -> b:2@sha256:0000000000000000000000000000000000…",
                "1          About a minute ago   a:1                 created",
            ]
        );
    }
}
