//! `docker top`, without a ps(1) on the host.

use std::fs;

use super::shim_link;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::streams::blocking;
use crate::types::Top;

/// One process as /proc shows it.
#[derive(Debug, Default)]
struct Process {
    pid: i32,
    ppid: i64,
    uid: u32,
    state: char,
    tty: i64,
    /// Clock ticks.
    cpu: u64,
    start: u64,
    threads: i64,
    vsize: u64,
    rss_pages: i64,
    command: String,
    name: String,
}

/// What times are counted in and from.
#[derive(Debug, Clone, Copy)]
struct Clock {
    ticks: u64,
    /// Seconds since boot.
    uptime: f64,
    page: u64,
    memory: u64,
    /// Unix time.
    now: i64,
}

impl Engine {
    /// The processes of a running container. `args` as for ps(1): `-ef` (the
    /// default), `aux`, `-o pid,cmd,…`.
    pub async fn container_top(&self, name: &str, args: &str) -> Result<Top> {
        let container = self.containers.find(name)?;
        container.must_live()?;
        let columns = columns(args)?;
        let found = shim_link::call(container.shim(), |shim| shim.processes()).await?;
        let titles = columns.iter().map(|(title, _)| title.clone()).collect();
        let processes = blocking(move || {
            let clock = read_clock();
            let mut pids: Vec<i32> = found.iter().map(|process| process.pid).collect();
            pids.sort_unstable();
            let row = |process: Process| {
                let shown = columns
                    .iter()
                    .map(|(_, column)| show(*column, &process, clock));
                shown.collect::<Vec<String>>()
            };
            // One that ended meanwhile is not there any more.
            Ok(pids.into_iter().filter_map(read_process).map(row).collect())
        })
        .await?;
        self.container_event(&container, "top", &[]);
        Ok(Top { titles, processes })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User,
    Pid,
    Ppid,
    Cpu,
    CpuShare,
    MemoryShare,
    Vsz,
    Rss,
    Tty,
    Stat,
    Start,
    Time,
    Command,
    Name,
    Threads,
}

/// The columns that ps(1) shows for these arguments.
fn columns(args: &str) -> Result<Vec<(String, Column)>> {
    use Column::*;
    let named = |columns: &[(&str, Column)]| {
        columns
            .iter()
            .map(|(title, column)| ((*title).to_owned(), *column))
            .collect::<Vec<_>>()
    };
    let words: Vec<&str> = args.split_whitespace().collect();
    match words[..] {
        [] | ["-ef" | "-fe" | "ef"] => {
            return Ok(named(&[
                ("UID", User),
                ("PID", Pid),
                ("PPID", Ppid),
                ("C", Cpu),
                ("STIME", Start),
                ("TTY", Tty),
                ("TIME", Time),
                ("CMD", Command),
            ]));
        }
        ["aux" | "-aux" | "axu" | "au"] => {
            return Ok(named(&[
                ("USER", User),
                ("PID", Pid),
                ("%CPU", CpuShare),
                ("%MEM", MemoryShare),
                ("VSZ", Vsz),
                ("RSS", Rss),
                ("TTY", Tty),
                ("STAT", Stat),
                ("START", Start),
                ("TIME", Time),
                ("COMMAND", Command),
            ]));
        }
        _ => {}
    }
    let list: String = match &words[..] {
        ["-o" | "-eo" | "-eopid", list @ ..] if !list.is_empty() => list.join(","),
        [one] => one
            .strip_prefix("-eo")
            .or_else(|| one.strip_prefix("-o"))
            .unwrap_or_default()
            .to_owned(),
        _ => String::new(),
    };
    let mut chosen = Vec::new();
    for name in list.split(',').filter(|name| !name.is_empty()) {
        let (name, title) = name
            .split_once('=')
            .map_or((name, None), |(n, t)| (n, Some(t)));
        let (default, column) = match name.to_ascii_lowercase().as_str() {
            "user" | "uid" | "euser" | "euid" | "ruser" | "uname" => ("USER", User),
            "pid" | "tgid" => ("PID", Pid),
            "ppid" => ("PPID", Ppid),
            "c" => ("C", Cpu),
            "pcpu" | "%cpu" => ("%CPU", CpuShare),
            "pmem" | "%mem" => ("%MEM", MemoryShare),
            "vsz" | "vsize" => ("VSZ", Vsz),
            "rss" | "rssize" | "rsz" => ("RSS", Rss),
            "tty" | "tt" | "tname" => ("TTY", Tty),
            "stat" | "s" | "state" => ("STAT", Stat),
            "start" | "stime" | "lstart" | "bsdstart" => ("START", Start),
            "time" | "cputime" | "bsdtime" => ("TIME", Time),
            "cmd" | "args" | "command" => ("COMMAND", Command),
            "comm" | "ucmd" | "ucomm" => ("COMMAND", Name),
            "nlwp" | "thcount" => ("NLWP", Threads),
            _ => return Err(unknown(args)),
        };
        chosen.push((title.unwrap_or(default).to_owned(), column));
    }
    if chosen.is_empty() {
        return Err(unknown(args));
    }
    if !chosen.iter().any(|(_, column)| *column == Column::Pid) {
        return Err(EngineError::invalid("Couldn't find PID field in ps output"));
    }
    Ok(chosen)
}

fn unknown(args: &str) -> EngineError {
    EngineError::invalid(format!(
        "ps: unsupported arguments \"{args}\": -ef, aux and -o LIST are"
    ))
}

fn read_clock() -> Clock {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(1);
    let ask = |name| nix::unistd::sysconf(name).ok().flatten();
    Clock {
        ticks: ask(nix::unistd::SysconfVar::CLK_TCK).map_or(100, |ticks| ticks as u64),
        page: ask(nix::unistd::SysconfVar::PAGE_SIZE).map_or(4096, |page| page as u64),
        uptime: text
            .split_whitespace()
            .next()
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or(0.0),
        memory: memory * 1024,
        now: crate::clock::now().0 / 1_000_000_000,
    }
}

fn read_process(pid: i32) -> Option<Process> {
    use std::os::unix::fs::MetadataExt as _;
    let directory = format!("/proc/{pid}");
    let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
    // The name is in parentheses and may hold anything, parentheses too.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<i64>().ok());
    let command = fs::read(format!("{directory}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command)
        .trim_end_matches('\0')
        .replace('\0', " ");
    Some(Process {
        pid,
        state: fields.first()?.chars().next()?,
        ppid: number(1)?,
        tty: number(4)?,
        cpu: u64::try_from(number(11)? + number(12)?).unwrap_or(0),
        threads: number(17)?,
        start: u64::try_from(number(19)?).unwrap_or(0),
        vsize: u64::try_from(number(20)?).unwrap_or(0),
        rss_pages: number(21)?,
        uid: fs::metadata(&directory).ok()?.uid(),
        command: match command.is_empty() {
            true => format!("[{name}]"),
            false => command,
        },
        name: name.to_owned(),
    })
}

fn show(column: Column, process: &Process, clock: Clock) -> String {
    let cpu_seconds = process.cpu / clock.ticks;
    let lived = (clock.uptime - process.start as f64 / clock.ticks as f64).max(0.01);
    let share = 100.0 * process.cpu as f64 / clock.ticks as f64 / lived;
    let rss = u64::try_from(process.rss_pages).unwrap_or(0) * clock.page;
    match column {
        Column::User => user_name(process.uid),
        Column::Pid => process.pid.to_string(),
        Column::Ppid => process.ppid.to_string(),
        Column::Cpu => (share as u64).min(99).to_string(),
        Column::CpuShare => format!("{share:.1}"),
        Column::MemoryShare => format!("{:.1}", 100.0 * rss as f64 / clock.memory as f64),
        Column::Vsz => (process.vsize / 1024).to_string(),
        Column::Rss => (rss / 1024).to_string(),
        Column::Tty => match (process.tty >> 8) & 0xfff {
            0 => "?".into(),
            136..=143 => format!("pts/{}", process.tty & 0xff),
            4 => format!("tty{}", process.tty & 0xff),
            _ => "?".into(),
        },
        Column::Stat => process.state.to_string(),
        Column::Start => {
            let started = clock.now - lived as i64;
            let moment = jiff::Timestamp::from_second(started)
                .map(|moment| moment.to_zoned(jiff::tz::TimeZone::UTC));
            match moment {
                Ok(moment) if lived < 86_400.0 => moment.strftime("%H:%M").to_string(),
                Ok(moment) => moment.strftime("%b%d").to_string(),
                Err(_) => "?".into(),
            }
        }
        Column::Time => format!(
            "{:02}:{:02}:{:02}",
            cpu_seconds / 3600,
            cpu_seconds / 60 % 60,
            cpu_seconds % 60
        ),
        Column::Command => process.command.clone(),
        Column::Name => process.name.clone(),
        Column::Threads => process.threads.to_string(),
    }
}

/// The host's name for a user, as ps(1) shows it.
fn user_name(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_choose_columns() {
        let titles = |args: &str| -> Vec<String> {
            columns(args)
                .unwrap()
                .into_iter()
                .map(|(title, _)| title)
                .collect()
        };
        assert_eq!(titles("")[0], "UID");
        assert_eq!(titles("aux")[10], "COMMAND");
        assert_eq!(titles("-o pid,comm"), ["PID", "COMMAND"]);
        assert_eq!(titles("-eo pid=P,args"), ["P", "COMMAND"]);
        assert!(columns("-o comm").is_err());
        assert!(columns("--forest").is_err());
    }

    #[test]
    fn our_own_process_can_be_read() {
        let process = read_process(std::process::id() as i32).unwrap();
        assert!(process.threads >= 1);
        assert!(!process.command.is_empty());
        let shown = show(Column::Time, &process, read_clock());
        assert_eq!(shown.len(), 8);
    }
}
