//! Services created per second through the whole API: HTTP, checks, the log on three managers, the
//! answer.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::cluster::Cluster;
use crate::table::Table;

const CLIENTS: [usize; 3] = [1, 8, 32];
const LENGTH: Duration = Duration::from_secs(4);

/// A connection that is kept.
struct Client(BufReader<UnixStream>);

impl Client {
    fn open(socket: &Path) -> Result<Self> {
        Ok(Self(BufReader::new(UnixStream::connect(socket)?)))
    }

    fn create(&mut self, name: &str) -> Result<()> {
        let spec = format!(
            r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"skep/hello@sha256:0000000000000000000000000000000000000000000000000000000000000000"}}}},"Mode":{{"Replicated":{{"Replicas":0}}}}}}"#
        );
        let head = format!(
            "POST /v1.50/services/create HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            spec.len()
        );
        self.0.get_mut().write_all((head + &spec).as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("no status")?.to_owned();
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(text) = line.strip_prefix("content-length:") {
                length = text.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        ensure!(
            status == "201",
            "{status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(())
    }
}

pub fn run(table: &mut Table) -> Result<()> {
    let cluster = Cluster::up()?;
    let api = cluster.api();
    for clients in CLIENTS {
        let began = Instant::now();
        let created: usize = thread::scope(|scope| {
            let work = |client: usize| {
                let socket = &api.socket;
                scope.spawn(move || -> Result<usize> {
                    let mut connection = Client::open(socket)?;
                    let mut count = 0;
                    while began.elapsed() < LENGTH {
                        connection.create(&format!("s{clients}-{client}-{count}"))?;
                        count += 1;
                    }
                    Ok(count)
                })
            };
            let all: Vec<_> = (0..clients).map(work).collect();
            all.into_iter()
                .map(|one| one.join().expect("asking does not panic"))
                .sum::<Result<usize>>()
        })?;
        let rate = created as f64 / began.elapsed().as_secs_f64();
        table.add("services created", format!("{clients} clients"), rate, "/s");
    }
    Ok(())
}
