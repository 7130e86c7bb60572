//! What goes on at once, as far as `--parallel` lets it.

use futures_util::{StreamExt, stream};

use super::project;
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// Stands for `--parallel`.
pub const VARIABLE: &str = "COMPOSE_PARALLEL_LIMIT";

/// How many things may go on at once, once flags and variables are read.
pub fn limit(session: &Session) -> usize {
    session.parallel.get().copied().unwrap_or(usize::MAX)
}

/// Keeps what [`limit`] answers with: the flag, or the variable that stands for it, of the shell or
/// a file. Anything below one is no bound, as for compose.
pub fn set_limit(session: &Session, variable: Option<&str>) -> Outcome {
    let given = project::flag(session, "parallel");
    let Some(text) = given.as_deref().or(variable) else {
        return Ok(());
    };
    let number: i64 = text.parse().map_err(|_| {
        Failure::Message(format!("{VARIABLE} must be an integer (found: {text:?})"))
    })?;
    let limit = usize::try_from(number).ok().filter(|number| *number > 0);
    // Flags and variables are the same all through a command.
    let _ = session.parallel.set(limit.unwrap_or(usize::MAX));
    Ok(())
}

/// Does all of it, at most `limit` at once; goes on when one fails and tells of all that did.
pub async fn all<W>(limit: usize, work: impl IntoIterator<Item = W>) -> Outcome
where
    W: Future<Output = Outcome>,
{
    let results: Vec<Outcome> = stream::iter(work).buffer_unordered(limit).collect().await;
    Failure::join(results.into_iter().filter_map(Result::err).collect())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn no_more_goes_on_at_once_than_may() {
        for (limit, wanted) in [(1, 1), (3, 3), (usize::MAX, 10)] {
            let (now, most) = (Cell::new(0), Cell::new(0));
            let work = (0..10).map(|number| {
                let (now, most) = (&now, &most);
                async move {
                    now.set(now.get() + 1);
                    most.set(most.get().max(now.get()));
                    tokio::task::yield_now().await;
                    now.set(now.get() - 1);
                    match number {
                        4 => Err(Failure::message("the fifth")),
                        _ => Ok(()),
                    }
                }
            });
            let failed = all(limit, work).await.unwrap_err();
            assert_eq!(
                (most.get(), failed.to_string().as_str()),
                (wanted, "the fifth")
            );
        }
    }
}
