//! The table of figures.

/// Figures in groups; each is shown beside the first of its group.
pub struct Table {
    rows: Vec<(String, String, f64, &'static str)>,
}

impl Table {
    pub fn new() -> Self {
        Self { rows: Vec::new() }
    }

    pub fn add(&mut self, group: &str, figure: impl Into<String>, value: f64, unit: &'static str) {
        let figure = figure.into();
        eprintln!("{group}: {figure}: {value:.1} {unit}");
        self.rows.push((group.to_owned(), figure, value, unit));
    }

    pub fn print(&self) {
        println!("machine: {}", machine());
        println!(
            "{:<18} {:<52} {:>12} {:<5} {:>7}",
            "GROUP", "FIGURE", "VALUE", "UNIT", "RATIO"
        );
        for (group, figure, value, unit) in &self.rows {
            let first = self
                .rows
                .iter()
                .find(|row| row.0 == *group)
                .map_or(*value, |row| row.2);
            println!(
                "{group:<18} {figure:<52} {value:>12.1} {unit:<5} {:>7.2}",
                value / first
            );
        }
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let load = read("/proc/loadavg");
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cpus} x {model}, kernel {}, load {}",
        kernel.trim(),
        load.split_whitespace().next().unwrap_or_default()
    )
}
