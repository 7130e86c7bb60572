//! A task that is to stop goes on for the clients that it has, and for no new ones.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, secs};

const PORT: u16 = 8080;

#[test]
fn clients_have_their_time() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    // Longer than any test: what ends earlier, ends because nobody is connected.
    let line = "service create -d --no-resolve-image --name web --replicas 1 --publish 8080:8080 \
                --drain 1h skep/hello:latest";
    c.skep("n1", line).ok();
    let task = c.wait_running("n1", "web", 1, secs(30)).remove(0);
    for node in ["n1", "n2", "n3"] {
        eventually("the port answers", secs(5), || c.page(node, PORT, "/"));
    }
    let is_running = || c.container_pid(&task.node, &task.container).is_some();
    let mut client = connect(c, "n2");
    checks.check(
        "a task with a client goes on, and nobody new is led to it",
        || {
            assert_eq!(ask(&mut client), "HTTP/1.1 200 OK");
            c.skep("n1", "service scale -d web=0").ok();
            for node in ["n1", "n2", "n3"] {
                eventually("new clients are refused", secs(10), || {
                    match c.page(node, PORT, "/") {
                        Err(why) => holds(why.contains("refused"), why),
                        Ok(page) => Err(page),
                    }
                });
            }
            // Every node has followed, so the stop waits for nothing but this client.
            for _ in 0..20 {
                assert_eq!(ask(&mut client), "HTTP/1.1 200 OK");
                assert!(is_running());
            }
        },
    );
    checks.check("it stops when the last client has gone", || {
        drop(client);
        eventually("the container has ended", secs(15), || {
            holds(!is_running(), "it runs")
        });
    });
    checks.check("a task without a client stops at once", || {
        c.skep("n1", "service scale -d web=3").ok();
        let tasks = c.wait_running("n1", "web", 3, secs(30));
        c.skep("n1", "service scale -d web=0").ok();
        for task in tasks {
            eventually("the container has ended", secs(15), || {
                let pid = c.container_pid(&task.node, &task.container);
                holds(pid.is_none(), format!("{task:?}"))
            });
        }
    });
    checks.check("a period that cannot be is refused", || {
        c.skep("n1", "service update -d --drain 25h web")
            .fails("drain period must be between 0s and 24h");
        let shown = c.get("n1", "/services/web");
        assert_eq!(
            shown["Spec"]["TaskTemplate"]["DrainPeriod"],
            3_600_000_000_000_u64
        );
    });
    checks.end();
}

fn connect(c: &Cluster, node: &str) -> TcpStream {
    let address = SocketAddr::new(c.address(node).into(), PORT);
    let stream = TcpStream::connect_timeout(&address, secs(5)).unwrap();
    stream.set_read_timeout(Some(secs(5))).unwrap();
    stream
}

/// One request on a connection that is kept; the first line of the answer.
fn ask(stream: &mut TcpStream) -> String {
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    let mut bytes = [0; 1024];
    while !answer.ends_with("ok\n") {
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "the connection has ended: {answer}");
        answer.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    answer.lines().next().unwrap_or_default().to_owned()
}
