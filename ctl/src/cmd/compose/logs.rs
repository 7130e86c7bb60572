//! `compose logs`.

use futures_util::future::try_join_all;

use super::observed;
use super::project;
use super::watch::{Range, Watch};
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::grammar::moment;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let (project, _) = project::target(session, named)?;
    let moment = |flag: &str| match args.text(flag) {
        "" => Ok(String::new()),
        text => moment::parse(text, now())
            .map_err(|why| Failure::message(format!("invalid value for \"{flag}\": {why}"))),
    };
    let range = Range {
        follow: args.flag("follow"),
        since: moment("since")?,
        until: moment("until")?,
        tail: args.maybe("tail").unwrap_or("all").to_owned(),
    };
    let mut watch = Watch::new(session, &project);
    watch.timestamps = args.flag("timestamps");
    watch.prefix = !args.flag("no-log-prefix");
    watch.color &= !args.flag("no-color");
    let index = args.uint("index").unwrap_or(0);
    let all = observed::of_services(observed::containers(session, &project).await?, named, true);
    let all: Vec<_> = all
        .into_iter()
        .filter(|one| index == 0 || one.number == index)
        .collect();
    for one in &all {
        watch.know(&one.name);
    }
    if !range.follow {
        for one in &all {
            watch.logs(&one.id, &one.name, &range).await?;
        }
        return Ok(());
    }
    let each = all.iter().map(|one| watch.logs(&one.id, &one.name, &range));
    try_join_all(each).await.map(drop)
}
