//! Requests to published ports, as fast as they are answered, and what became of each: for looking
//! at updates, drains and failures under load.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Losses that are printed in full.
const SHOWN: usize = 40;

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
    let began = Instant::now();
    let end = began + Duration::from_secs(seconds);
    let lost = Mutex::new(Vec::new());
    let times = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for visitor in 0..visitors {
            let (addresses, lost, times) = (&addresses, &lost, &times);
            scope.spawn(move || {
                let keeps = visitor % 2 == 1;
                let mut own = Vec::new();
                let mut kept: Option<TcpStream> = None;
                for turn in visitor.. {
                    if Instant::now() >= end {
                        break;
                    }
                    let asked = Instant::now();
                    let address = addresses[if keeps { visitor } else { turn } % addresses.len()];
                    match ask(address, &mut kept, keeps) {
                        Ok(()) => own.push(asked.elapsed()),
                        Err(error) => {
                            kept = None;
                            lost.lock().expect("nobody panics").push((
                                asked.duration_since(began),
                                asked.elapsed(),
                                keeps,
                                address,
                                error,
                            ));
                        }
                    }
                }
                times.lock().expect("nobody panics").extend(own);
            });
        }
    });
    let mut times = times.into_inner().expect("nobody panics");
    let lost = lost.into_inner().expect("nobody panics");
    times.sort();
    let at = |part: f64| {
        let index = (times.len() as f64 * part) as usize;
        times.get(index).copied().unwrap_or_default()
    };
    println!(
        "{} answered, {} lost; p50 {:.1?} p99 {:.1?} p99.9 {:.1?} max {:.1?}",
        times.len(),
        lost.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        times.last().copied().unwrap_or_default(),
    );
    for (when, took, kept, address, error) in lost.iter().take(SHOWN) {
        let kind = if *kept { "kept" } else { "new" };
        println!("  after {when:.3?} ({took:.1?}) {address} {kind} connection: {error:#}");
    }
    Ok(())
}

/// One request. On a kept connection that the server has ended between two requests, as it may,
/// the request is sent again over a new one.
fn ask(address: SocketAddr, kept: &mut Option<TcpStream>, keep: bool) -> Result<()> {
    if let Some(stream) = kept.take()
        && !has_ended(&stream)
    {
        return exchange(stream, kept, keep);
    }
    let stream = TcpStream::connect_timeout(&address, TIMEOUT).context("connect")?;
    exchange(stream, kept, keep)
}

/// Whether the server has said that no answer will come on this connection.
fn has_ended(stream: &TcpStream) -> bool {
    let mut byte = [0];
    stream.set_nonblocking(true).is_err()
        || matches!(stream.peek(&mut byte), Ok(0))
        || stream.set_nonblocking(false).is_err()
}

fn exchange(mut stream: TcpStream, kept: &mut Option<TcpStream>, keep: bool) -> Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    let connection = if keep { "keep-alive" } else { "close" };
    let request = format!("GET / HTTP/1.1\r\nHost: bench\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).context("write")?;
    let mut bytes = Vec::with_capacity(512);
    let mut buffer = [0; 4096];
    let port = stream.local_addr().map_or(0, |local| local.port());
    loop {
        if let Some((whole, ends)) = answer(&bytes)? {
            ensure!(whole, "status");
            if keep && !ends {
                *kept = Some(stream);
            }
            return Ok(());
        }
        let count = stream
            .read(&mut buffer)
            .with_context(|| format!("from port {port}, after {} bytes", bytes.len()))?;
        ensure!(
            count > 0,
            "from port {port}, cut off after {} bytes",
            bytes.len()
        );
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// Whether the answer is a good one and whether the connection ends with it; `None` while it is
/// not all there.
fn answer(bytes: &[u8]) -> Result<Option<(bool, bool)>> {
    let Some(split) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..split]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .context("an answer without a length")?;
    let length: usize = length.trim().parse().context("length")?;
    if bytes.len() < split + 4 + length {
        return Ok(None);
    }
    let ok = head.starts_with("http/1.1 200") || head.starts_with("http/1.0 200");
    Ok(Some((ok, head.contains("connection: close"))))
}
