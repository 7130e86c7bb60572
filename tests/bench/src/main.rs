//! Prints one table of figures, with ratios within the run.

mod cluster;
mod placements;
mod table;

use table::Table;

fn main() -> anyhow::Result<()> {
    let wanted = std::env::args().nth(1);
    let runs = |name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    let mut table = Table::new();
    if runs("placements") {
        placements::run(&mut table);
    }
    if runs("cluster") {
        cluster::run(&mut table)?;
    }
    table.print();
    Ok(())
}
