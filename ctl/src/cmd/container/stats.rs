//! `container stats`.

use std::time::Duration;

use super::path;
use crate::client::Call;
use crate::failure::Outcome;
use crate::filter::Filters;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const STATS: Listing = Listing {
    kind: "*container.statsContext",
    columns: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    quiet: "{{.ID}}",
    raw: &[],
};

/// How often the table is drawn again.
const DRAW_PERIOD: Duration = Duration::from_millis(500);
/// So many containers are asked at a time.
const ASKED_AT_ONCE_MAX: usize = 16;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let names = args.positionals();
    let which = match names.is_empty() {
        true => Which::Listed(Filters::default()),
        false => Which::Named(names.to_vec()),
    };
    show(session, args, &which).await
}

/// Whose use is shown.
pub enum Which {
    Named(Vec<String>),
    /// Those that are let through, listed each time anew; `--all` with those that do not run.
    Listed(Filters),
}

/// Shows use once or again and again, as the flags `format`, `no-stream` and `no-trunc` say.
pub async fn show(session: &Session, args: &Args, which: &Which) -> Outcome {
    let format = match args.text("format") {
        "" => session.config.text("statsFormat").to_owned(),
        given => given.to_owned(),
    };
    if args.flag("no-stream") {
        let rows = collect(session, args, which).await?;
        return session.print(&table::render(&STATS, &format, false, rows)?);
    }
    loop {
        let rows = collect(session, args, which).await?;
        let text = table::render(&STATS, &format, false, rows)?;
        if session.streams.out_is_terminal {
            // Top left, draw each line over the old one, clear what is below.
            session.print(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))?;
        } else {
            session.print(&text)?;
        }
        tokio::select! {
            () = tokio::time::sleep(DRAW_PERIOD) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// One row for each container.
async fn collect(session: &Session, args: &Args, which: &Which) -> Outcome<Vec<Row>> {
    let named = matches!(which, Which::Named(_));
    let names: Vec<String> = match which {
        Which::Named(names) => names.clone(),
        Which::Listed(filters) => {
            let call = Call::get("/containers/json")
                .query_if("all", args.flag("all"))
                .query_text("filters", &filters.to_query());
            let containers = session.client.json(call).await?;
            let ids = containers.list("").iter();
            ids.map(|container| container.str("Id").to_owned())
                .collect()
        }
    };
    let cut = !args.flag("no-trunc");
    let mut rows = Vec::new();
    for part in names.chunks(ASKED_AT_ONCE_MAX) {
        let calls = part.iter().map(|name| {
            session
                .client
                .json(Call::get(path(name, "/stats")).query("stream", "false"))
        });
        for (name, stats) in part.iter().zip(futures_util::future::join_all(calls).await) {
            match stats {
                Ok(stats) => rows.push(row(name, &stats, cut)),
                // A container that went meanwhile is no mistake, one that was asked for is.
                Err(failure) if named => return Err(failure),
                Err(_) => {}
            }
        }
    }
    Ok(rows)
}

fn row(name: &str, stats: &Json, cut: bool) -> Row {
    let id = stats.str("id");
    let (used, limit) = memory(stats);
    let share = if limit > 0.0 {
        used / limit * 100.0
    } else {
        0.0
    };
    let networks = |field: &str| -> f64 {
        stats
            .fields("networks")
            .iter()
            .map(|(_, network)| network.float(field))
            .sum()
    };
    let blocks = |operation: &str| -> f64 {
        stats
            .list("blkio_stats.io_service_bytes_recursive")
            .iter()
            .filter(|entry| entry.str("op").eq_ignore_ascii_case(operation))
            .map(|entry| entry.float("value"))
            .sum()
    };
    let pair = |a: String, b: String| Json::from(format!("{a} / {b}"));
    Row::new([
        ("Container", name.into()),
        ("ID", if cut { human::short_id(id) } else { id }.into()),
        ("Name", stats.str("name").trim_start_matches('/').into()),
        ("CPUPerc", format!("{:.2}%", processor(stats)).into()),
        (
            "MemUsage",
            pair(human::size_binary(used), human::size_binary(limit)),
        ),
        ("MemPerc", format!("{share:.2}%").into()),
        (
            "NetIO",
            pair(
                human::size3(networks("rx_bytes")),
                human::size3(networks("tx_bytes")),
            ),
        ),
        (
            "BlockIO",
            pair(human::size3(blocks("read")), human::size3(blocks("write"))),
        ),
        ("PIDs", stats.int("pids_stats.current").to_string().into()),
    ])
}

/// Share of the machine's processors since the look before, one processor being 100.
fn processor(stats: &Json) -> f64 {
    let used = stats.float("cpu_stats.cpu_usage.total_usage")
        - stats.float("precpu_stats.cpu_usage.total_usage");
    let passed =
        stats.float("cpu_stats.system_cpu_usage") - stats.float("precpu_stats.system_cpu_usage");
    let mut count = stats.float("cpu_stats.online_cpus");
    if count == 0.0 {
        count = stats.list("cpu_stats.cpu_usage.percpu_usage").len() as f64;
    }
    if passed > 0.0 && used > 0.0 {
        used / passed * count * 100.0
    } else {
        0.0
    }
}

/// Bytes used and allowed; cache that can be given back does not count.
fn memory(stats: &Json) -> (f64, f64) {
    let usage = stats.float("memory_stats.usage");
    let inside = stats.at("memory_stats.stats");
    let idle = match (
        inside.get("total_inactive_file"),
        inside.get("inactive_file"),
    ) {
        (Some(_), _) => inside.float("total_inactive_file"),
        (None, Some(_)) => inside.float("inactive_file"),
        (None, None) => 0.0,
    };
    let used = if idle < usage { usage - idle } else { usage };
    (used, stats.float("memory_stats.limit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_counted_as_docker_counts_it() {
        let stats = Json::parse(
            br#"{"cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":2000,"online_cpus":2},
                "precpu_stats":{"cpu_usage":{"total_usage":200},"system_cpu_usage":1000},
                "memory_stats":{"usage":1000,"limit":4000,"stats":{"total_inactive_file":200}}}"#,
        )
        .unwrap();
        assert!((processor(&stats) - 20.0).abs() < 1e-9);
        assert_eq!(memory(&stats), (800.0, 4000.0));
    }
}
