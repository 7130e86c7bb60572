//! `service ls` and `stack services`.

use super::schedule;
use crate::client::Call;
use crate::cmd::task::now;
use crate::failure::Outcome;
use crate::filter::Filters;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::reference;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const SERVICES: Listing = Listing {
    kind: "*service.serviceContext",
    columns: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Mode", "MODE"),
        ("Replicas", "REPLICAS"),
        ("Image", "IMAGE"),
        ("Ports", "PORTS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Mode}}\t{{.Replicas}}\t{{.Image}}\t{{.Ports}}",
    quiet: "{{.ID}}",
    raw: &[
        ("id", "ID"),
        ("name", "Name"),
        ("mode", "Mode"),
        ("replicas", "Replicas"),
        ("image", "Image"),
        ("ports", "Ports"),
    ],
};

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let services = list(session, &Filters::of(args)?).await?;
    print(session, args, services)
}

/// Services with their task counts.
pub async fn list(session: &Session, filters: &Filters) -> Outcome<Vec<Json>> {
    let call = Call::get("/services")
        .query_text("filters", &filters.to_query())
        .query("status", "true");
    Ok(session.client.json(call).await?.list("").to_vec())
}

pub fn print(session: &Session, args: &Args, mut services: Vec<Json>) -> Outcome {
    services.sort_by(|a, b| human::natural(a.str("Spec.Name"), b.str("Spec.Name")));
    let format = crate::cmd::format_of(session, args, "servicesFormat");
    let rows = services.iter().map(row).collect();
    session.print(&table::render(
        &SERVICES,
        &format,
        args.flag("quiet"),
        rows,
    )?)
}

fn row(service: &Json) -> Row {
    Row::new([
        ("ID", human::short_id(service.str("ID")).into()),
        ("Name", service.str("Spec.Name").into()),
        ("Mode", mode(service).into()),
        (
            "Replicas",
            (replicas(service) + &schedule::note(service, now())).into(),
        ),
        (
            "Image",
            reference::without_digest(service.str("Spec.TaskTemplate.ContainerSpec.Image")).into(),
        ),
        ("Ports", ports(service).into()),
    ])
}

/// What the MODE column says.
pub fn mode(service: &Json) -> &'static str {
    let mode = service.at("Spec.Mode");
    let has = |name: &str| mode.get(name).is_some_and(|value| *value != Json::Null);
    if has("Global") {
        "global"
    } else if has("ReplicatedJob") {
        "replicated job"
    } else if has("GlobalJob") {
        "global job"
    } else if has("Replicated") {
        "replicated"
    } else {
        ""
    }
}

fn replicas(service: &Json) -> String {
    let status = |field: &str| service.int(&format!("ServiceStatus.{field}"));
    let (running, desired, completed) = (
        status("RunningTasks"),
        status("DesiredTasks"),
        status("CompletedTasks"),
    );
    match mode(service) {
        "replicated job" => {
            let total = service.int("Spec.Mode.ReplicatedJob.TotalCompletions");
            format!("{running}/{desired} ({completed}/{total} completed)")
        }
        "global job" => format!(
            "{running}/{desired} ({completed}/{} completed)",
            desired + completed
        ),
        mode => match service.int("Spec.TaskTemplate.Placement.MaxReplicas") {
            most if most > 0 && mode == "replicated" => {
                format!("{running}/{desired} (max {most} per node)")
            }
            _ => format!("{running}/{desired}"),
        },
    }
}

/// Ports of the routing mesh, consecutive ones as ranges.
fn ports(service: &Json) -> String {
    struct Range<'a> {
        host: String,
        protocol: &'a str,
        published: (i64, i64),
        target: (i64, i64),
    }
    let show = |(first, last): (i64, i64)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    let mut ports: Vec<&Json> = service
        .list("Endpoint.Ports")
        .iter()
        .filter(|port| port.str("PublishMode") == "ingress")
        .collect();
    ports.sort_by_key(|port| {
        let (protocol, published) = (port.str("Protocol"), port.int("PublishedPort"));
        (host(port), protocol, published)
    });
    let mut ranges: Vec<Range<'_>> = Vec::new();
    for port in ports {
        let (protocol, published, target) = (
            port.str("Protocol"),
            port.int("PublishedPort"),
            port.int("TargetPort"),
        );
        let host = host(port);
        if let Some(range) = ranges.last_mut() {
            let widened = range.target.0 != range.target.1;
            let follows = |next: i64, last: i64| next >= last && next - last <= 1;
            if (range.protocol, &range.host) == (protocol, &host)
                && follows(published, range.published.1)
                && follows(target, range.target.1)
                && !(widened && target <= range.target.1)
            {
                range.published.1 = published;
                range.target.1 = target;
                continue;
            }
        }
        ranges.push(Range {
            host,
            protocol,
            published: (published, published),
            target: (target, target),
        });
    }
    let shown: Vec<String> = ranges
        .iter()
        .filter(|range| range.published.0 > 0)
        .map(|range| {
            format!(
                "{}:{}->{}/{}",
                range.host,
                show(range.published),
                show(range.target),
                range.protocol
            )
        })
        .collect();
    shown.join(", ")
}

/// Where a port answers: `*`, an address or an interface.
pub fn host(port: &Json) -> String {
    match (port.str("HostIP"), port.str("HostInterface")) {
        ("", "") => "*".to_owned(),
        ("", interface) => interface.to_owned(),
        (ip, _) if ip.contains(':') => format!("[{ip}]"),
        (ip, _) => ip.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_ports_are_folded() {
        let of = |ports: &[(u16, u16, &str)]| {
            let ports: Vec<_> = ports
                .iter()
                .map(|(published, target, protocol)| {
                    serde_json::json!({"Protocol": protocol, "PublishedPort": published, "TargetPort": target, "PublishMode": "ingress"})
                })
                .collect();
            self::ports(&Json::of(
                &serde_json::json!({"Endpoint": {"Ports": ports}}),
            ))
        };
        assert_eq!(of(&[(80, 80, "tcp")]), "*:80->80/tcp");
        assert_eq!(
            of(&[(81, 81, "tcp"), (80, 80, "tcp"), (82, 82, "tcp")]),
            "*:80-82->80-82/tcp"
        );
        assert_eq!(of(&[(80, 80, "tcp"), (81, 80, "tcp")]), "*:80-81->80/tcp");
        assert_eq!(
            of(&[(80, 80, "tcp"), (90, 90, "tcp")]),
            "*:80->80/tcp, *:90->90/tcp"
        );
        assert_eq!(
            of(&[(53, 53, "udp"), (53, 53, "tcp")]),
            "*:53->53/tcp, *:53->53/udp"
        );
    }

    #[test]
    fn replicas_say_how_far_a_service_is() {
        let of = |json: serde_json::Value| replicas(&Json::of(&json));
        let status = serde_json::json!({"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 3});
        assert_eq!(
            of(serde_json::json!({"Spec": {"Mode": {"Replicated": {}}}, "ServiceStatus": status})),
            "1/2"
        );
        assert_eq!(
            of(
                serde_json::json!({"Spec": {"Mode": {"Replicated": {}}, "TaskTemplate": {"Placement": {"MaxReplicas": 4}}}, "ServiceStatus": status})
            ),
            "1/2 (max 4 per node)"
        );
        assert_eq!(
            of(
                serde_json::json!({"Spec": {"Mode": {"ReplicatedJob": {"TotalCompletions": 9}}}, "ServiceStatus": status})
            ),
            "1/2 (3/9 completed)"
        );
        assert_eq!(
            of(serde_json::json!({"Spec": {"Mode": {"GlobalJob": {}}}, "ServiceStatus": status})),
            "1/2 (3/5 completed)"
        );
    }
}
