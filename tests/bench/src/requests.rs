//! Requests to published ports, as fast as they are answered, and what became of each: for looking
//! at updates, drains and failures under load.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skep_e2e::station::Station;
use skep_e2e::visitor::{Manner, Visits};

/// `requests SECONDS VISITORS ADDRESS…`: each visitor asks the addresses in turn, over new
/// connections and over kept ones by turns of visitors.
pub fn run(args: &[String]) -> Result<()> {
    let [seconds, visitors, addresses @ ..] = args else {
        anyhow::bail!("usage: requests SECONDS VISITORS ADDRESS:PORT…");
    };
    let seconds: u64 = seconds.parse().context("SECONDS")?;
    let visitors: usize = visitors.parse().context("VISITORS")?;
    ensure!(
        (1..=120).contains(&seconds) && (1..=256).contains(&visitors),
        "at most 120 s and 256 visitors"
    );
    let addresses: Vec<SocketAddr> = addresses
        .iter()
        .map(|address| address.parse().with_context(|| address.clone()))
        .collect::<Result<_>>()?;
    ensure!(!addresses.is_empty(), "no address");
    let here = Station::of(std::process::id());
    let mut visits = Visits::default();
    for visitor in 0..visitors {
        let manner = [Manner::New, Manner::Kept][visitor % 2];
        visits.add(&here, &addresses, visitor, manner);
    }
    std::thread::sleep(Duration::from_secs(seconds));
    println!("{}", visits.end());
    Ok(())
}
