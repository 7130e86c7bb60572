//! Prints one table of figures, with ratios within the run.

mod agents;
mod api;
mod cluster;
mod creates;
mod dockerd;
mod faults;
mod host;
mod network;
mod paths;
mod placements;
mod requests;
mod runtime;
mod scale;
mod services;
mod table;
mod writes;

use table::Table;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = args.split_first()
        && first == "requests"
    {
        return requests::run(rest);
    }
    // By itself only: it takes minutes and gigabytes.
    if let Some((first, rest)) = args.split_first()
        && first == "scale"
    {
        let mut table = Table::new();
        scale::run(rest, &mut table)?;
        table.print();
        return Ok(());
    }
    let wanted = args.into_iter().next();
    let runs = |name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    let mut table = Table::new();
    if runs("placements") {
        placements::run(&mut table);
    }
    if runs("writes") {
        writes::run(&mut table)?;
    }
    if runs("cluster") {
        cluster::run(&mut table)?;
        dockerd::run(&mut table)?;
    }
    if runs("runtime") {
        runtime::run(&mut table)?;
    }
    if runs("host") {
        host::run(&mut table)?;
    }
    if runs("creates") {
        creates::run(&mut table)?;
    }
    if runs("faults") {
        faults::run(&mut table)?;
    }
    if runs("agents") {
        agents::run(&mut table)?;
    }
    if runs("network") {
        network::run(&mut table)?;
    }
    table.print();
    Ok(())
}
