//! Services that are scaled by what they use, or by what a Prometheus server says.

use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const NODES: [&str; 2] = ["n1", "n2"];
const CREATE: &str = "service create --detach --no-resolve-image --stop-signal KILL";
const UPDATE: &str =
    "service update --detach --no-resolve-image --update-parallelism 0 --update-monitor 500ms";

#[test]
fn replicas_follow_what_is_used() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(2, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in NODES {
        c.skep_given(node, "load", &archive).ok();
        c.wait_ready("n1", node, secs(10));
    }
    let mut checks = Checks::new();
    checks.check("what makes no sense is refused by name", || mistakes(c));
    checks.check("busy tasks get company, and idle ones lose it", || cpu(c));
    checks.check("the value of an expression is followed", || query(c));
    checks.end();
}

fn mistakes(c: &Cluster) {
    let refused = |line: &str, why: &str| {
        c.skep("n1", &format!("{CREATE} --name wrong {line} busy:1 true"))
            .fails(why);
    };
    refused(
        "--autoscale-max 0 --autoscale-cpu 50",
        r#"invalid argument "0" for "--autoscale-max" flag"#,
    );
    refused(
        "--autoscale-max 3 --autoscale-memory 80",
        r#"for "--autoscale-memory" flag: a percentage takes a memory reservation or limit"#,
    );
    refused(
        "--label skep.autoscale.max=3 --label skep.autoscale.cpu=much",
        "label skep.autoscale.cpu: `much` is not a percentage",
    );
    refused(
        "--mode global --autoscale-max 3 --autoscale-cpu 50",
        "only replicated services are scaled",
    );
}

fn wait_replicas(c: &Cluster, service: &str, wanted: u64) {
    let sentence = format!("{service} has {wanted} replicas");
    eventually(&sentence, secs(90), || {
        let found = c.try_api("n1", "GET", &format!("/services/{service}"), None)?;
        let replicas = found["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64();
        holds(replicas == Some(wanted), found["Autoscale"].to_string())
    });
}

fn cpu(c: &Cluster) {
    let scale = "--autoscale-max 3 --autoscale-cpu 20 --autoscale-window 15s --limit-cpu 0.2";
    let busy = "sh -c 'while true; do true; done'";
    c.skep("n1", &format!("{CREATE} {scale} --name loop busy:1 {busy}"))
        .ok();
    wait_replicas(c, "loop", 3);
    c.wait_running("n1", "loop", 3, secs(30));
    let why = c.skep("n1", "why loop").ok();
    assert!(
        why.contains("; scaled by itself from 1 to 3; cpu: "),
        "{why}"
    );
    assert!(why.contains("; last from 1 to 3 "), "{why}");
    let pretty = c.skep("n1", "service inspect --pretty loop").ok();
    for part in ["Autoscale:", "1 to 3", "CPUs wanted", "Last Change:"] {
        assert!(pretty.contains(part), "{part}: {pretty}");
    }
    let history = || c.skep("n1", "service history -q loop").ok();
    assert_eq!(history(), "1\n", "replicas begin no revision");
    c.skep("n1", &format!("{UPDATE} --args 'sleep 10000' loop"))
        .ok();
    wait_replicas(c, "loop", 1);
    c.wait_running("n1", "loop", 1, secs(30));
    assert_eq!(history(), "2\n1\n");
    // By hand it is adapted again.
    c.skep("n1", "service scale -d loop=2").ok();
    wait_replicas(c, "loop", 1);
    c.remove_service("n1", "loop");
}

fn query(c: &Cluster) {
    // What stands in for a Prometheus server says the same whatever it is asked.
    let says = |value: &str| {
        let json = format!(
            r#"{{"status":"success","data":{{"resultType":"scalar","result":[1,"{value}"]}}}}"#
        );
        format!(
            "'mkdir -p /w/api/v1; echo \"$0\" > /w/api/v1/query; exec httpd -f -p 8000 -h /w' '{json}'"
        )
    };
    let server = format!(
        "{CREATE} --name prometheus --publish 9090:8000 busy:1 sh -c {}",
        says("25")
    );
    c.skep("n1", &server).ok();
    c.wait_running("n1", "prometheus", 1, secs(30));
    let url = format!("http://{}:9090", c.address("n1"));
    let scale = format!(
        "--autoscale-max 4 --autoscale-min 2 --autoscale-query up --autoscale-query-target 10 --autoscale-query-url {url} --autoscale-window 5s"
    );
    c.skep(
        "n1",
        &format!("{CREATE} {scale} --name web busy:1 sleep 10000"),
    )
    .ok();
    wait_replicas(c, "web", 3);
    c.skep("n1", "service rm prometheus").ok();
    let other = server.replace("\"25\"", "\"0\"");
    eventually("another server is there", secs(30), || {
        let made = c.skep("n1", &other);
        holds(made.status == 0, made.err)
    });
    wait_replicas(c, "web", 2);
    c.skep("n1", "service rm prometheus web").ok();
}
