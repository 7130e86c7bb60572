//! What packets cost on each way through a cluster's network: samples of all ways are taken in turn,
//! so that they are compared under the same weather.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use skep_e2e::station::{Outsider, Station};
use skep_e2e::{Cluster, eventually, secs};

use crate::table::Table;

const ROUNDS: usize = 9;
/// How long a sample is.
const SAMPLE: Duration = Duration::from_millis(150);
const ECHO: u16 = 5000;
const ACCEPT: u16 = 5001;
const SINK: u16 = 5002;
/// What is added to a port of the service where it is published, seen as it is and by the node.
const SEEN: u16 = 3000;
const HIDDEN: u16 = 3100;

/// A way from a client to the server.
struct Way {
    name: &'static str,
    from: Station,
    to: SocketAddr,
}

/// One measurement.
type Measure = fn(&Way) -> io::Result<f64>;
/// What is measured: name, unit, whether more is better.
const MEASURES: [(&str, &str, bool, Measure); 3] = [
    ("round trip", "us", false, round_trip),
    ("connections", "1/s", true, connections),
    ("bulk", "Mb/s", true, bulk),
];

/// Runs the ways through a cluster of three nodes.
pub fn run(table: &mut Table, c: &Cluster) -> Result<()> {
    let outsiders = [101, 102].map(|number| Outsider::plug(c, number));
    let ends = [1, 2].map(|number| ([192, 0, 2, number].into(), 24));
    outsiders[0].join(&outsiders[1], ends);
    let ways = ways(c, &outsiders)?;
    let mut samples = vec![vec![Vec::new(); ways.len()]; MEASURES.len()];
    for _ in 0..ROUNDS {
        for (way, index) in ways.iter().zip(0..) {
            for (measure, kind) in MEASURES.iter().zip(0..) {
                let sample = measure.3(way).with_context(|| format!("{}, {}", way.name, measure.0));
                samples[kind][index].push(sample?);
            }
        }
    }
    for ((name, unit, more_is_better, _), samples) in MEASURES.iter().zip(&mut samples) {
        for which in ["best", "median"] {
            for (way, samples) in ways.iter().zip(&mut *samples) {
                samples.sort_by(f64::total_cmp);
                let at = match (which, more_is_better) {
                    ("best", true) => samples.len() - 1,
                    ("best", false) => 0,
                    _ => samples.len() / 2,
                };
                table.add(&format!("{name}, {which}"), way.name, samples[at], unit);
            }
        }
    }
    Ok(())
}

fn ways(c: &Cluster, outsiders: &[Outsider; 2]) -> Result<Vec<Way>> {
    c.skep("n1", "network create -d overlay bench").ok();
    c.skep("n1", "network create -d overlay --opt encrypted secret")
        .ok();
    let published: String = [ECHO, ACCEPT, SINK]
        .map(|port| {
            let (seen, hidden) = (port + SEEN, port + HIDDEN);
            format!(
                "--publish {seen}:{port} --publish published={hidden},target={port},source=snat "
            )
        })
        .concat();
    let task = |name: &str, node: &str, more: &str| {
        c.skep(
            "n1",
            &format!(
                "service create -d --no-resolve-image --name {name} --network bench \
                 --network secret --constraint node.hostname=={node} {more} skep/hello:latest"
            ),
        )
        .ok();
        c.wait_running("n1", name, 1, secs(60)).remove(0)
    };
    let server = task("server", "n3", &published);
    let client = task("client", "n1", "");
    serve(&c.inside_task(&server));
    serve(&outsiders[1].station);
    let inside = c.inside_task(&client);
    let outside = &outsiders[0].station;
    let own = |network: &str| {
        let found = c.task_addresses("n1", &server, network).into_iter().next();
        found.context("the server's address")
    };
    let vip = c.vips("n1", "server", "bench").into_iter().next();
    let all = [
        ("raw veth", outside, [192, 0, 2, 2].into(), 0),
        ("overlay, the task's address", &inside, own("bench")?, 0),
        (
            "overlay, the service's address",
            &inside,
            vip.context("no address")?,
            0,
        ),
        ("mesh, client seen", outside, c.address("n1").into(), SEEN),
        ("mesh, source=snat", outside, c.address("n1").into(), HIDDEN),
        (
            "published, task on that node",
            outside,
            c.address("n3").into(),
            SEEN,
        ),
        ("encrypted overlay (userspace)", &inside, own("secret")?, 0),
    ];
    let ways = all.map(|(name, from, ip, more)| Way {
        name,
        from: from.clone(),
        to: SocketAddr::new(ip, ECHO + more),
    });
    for way in &ways {
        for port in 0..3 {
            eventually(way.name, secs(20), || way.connect(port));
        }
    }
    Ok(ways.into())
}

impl Way {
    /// Connects to the first, second or third of the server's ports.
    fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let to = SocketAddr::new(self.to.ip(), self.to.port() + port);
        self.from
            .inside(|| TcpStream::connect_timeout(&to, secs(3)))
    }
}

/// Half the time of a question and its answer would be one way; this is both.
fn round_trip(way: &Way) -> io::Result<f64> {
    let mut stream = way.connect(0)?;
    stream.set_nodelay(true)?;
    let mut times = Vec::new();
    let began = Instant::now();
    let mut byte = [0];
    while began.elapsed() < SAMPLE {
        let asked = Instant::now();
        stream.write_all(&[1])?;
        stream.read_exact(&mut byte)?;
        times.push(asked.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2].as_secs_f64() * 1e6)
}

/// Connections a second, one after the other.
fn connections(way: &Way) -> io::Result<f64> {
    let to = SocketAddr::new(way.to.ip(), way.to.port() + 1);
    way.from.inside(|| {
        let began = Instant::now();
        let mut count = 0;
        while began.elapsed() < SAMPLE {
            let mut stream = TcpStream::connect_timeout(&to, secs(3))?;
            // Its ports are free again at once: the server ends it first.
            let _ = stream.read(&mut [0]);
            count += 1;
        }
        Ok(f64::from(count) / began.elapsed().as_secs_f64())
    })
}

fn bulk(way: &Way) -> io::Result<f64> {
    let mut stream = way.connect(2)?;
    let buffer = vec![0; 128 << 10];
    let began = Instant::now();
    let mut sent = 0_u64;
    while began.elapsed() < SAMPLE {
        stream.write_all(&buffer)?;
        sent += buffer.len() as u64;
    }
    // What the server has said is what arrived.
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok(sent as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e6)
}

/// Serves all three until the process ends.
fn serve(at: &Station) {
    let listen = |port: u16| {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        at.inside(|| TcpListener::bind(any).expect("a free port"))
    };
    let (echo, accept, sink) = (listen(ECHO), listen(ACCEPT), listen(SINK));
    thread::spawn(move || accept.incoming().flatten().for_each(drop));
    let each = |listener: TcpListener, answer: fn(TcpStream) -> io::Result<()>| {
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(stream));
            }
        });
    };
    each(echo, |mut stream| {
        stream.set_nodelay(true)?;
        let mut byte = [0];
        loop {
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
        }
    });
    each(sink, |mut stream| {
        let mut buffer = vec![0; 128 << 10];
        while stream.read(&mut buffer)? > 0 {}
        stream.write_all(&[1])
    });
}
