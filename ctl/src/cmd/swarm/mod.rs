//! `skep swarm`: the cluster as a whole.

pub mod backup;
pub mod ca;
pub mod issued;
pub mod token;

use serde_json::{Value, json};
use skep_model::cluster::NODE_EXPIRY_LABEL;

use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::help;
use crate::human;
use crate::session::Session;

/// Port that managers listen on when none is named.
const PORT_DEFAULT: &str = "2377";

/// What an update rotates besides changing the spec.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rotate {
    pub worker_token: bool,
    pub manager_token: bool,
    pub unlock_key: bool,
    pub data_keys: bool,
}

/// Stores the spec of an inspected swarm.
pub async fn store(session: &Session, swarm: &Value, rotate: Rotate) -> Outcome {
    let version = swarm["Version"]["Index"].as_u64().unwrap_or(0);
    session
        .client
        .done(
            Call::post("/swarm/update")
                .query("version", version)
                .query("rotateWorkerToken", rotate.worker_token)
                .query("rotateManagerToken", rotate.manager_token)
                .query("rotateManagerUnlockKey", rotate.unlock_key)
                .query_if("rotateDataKeys", rotate.data_keys)
                .json(&swarm["Spec"]),
        )
        .await
}

pub async fn fetch(session: &Session) -> Outcome<Value> {
    session.client.typed(Call::get("/swarm")).await
}

pub async fn init(session: &Session, args: &Args) -> Outcome {
    let mut spec = json!({
        "Labels": null,
        "Orchestration": {},
        "Raft": {"ElectionTick": 0, "HeartbeatTick": 0},
        "Dispatcher": {},
        "CAConfig": {},
        "TaskDefaults": {},
        "EncryptionConfig": {"AutoLockManagers": false},
    });
    merge_spec(&mut spec, args, "")?;
    let pool = args.each("default-addr-pool", subnet)?;
    let mask = args.uint("default-addr-pool-mask-length").unwrap_or(24);
    let request = json!({
        "ListenAddr": listen_address(args),
        "AdvertiseAddr": args.text("advertise-addr"),
        "DataPathAddr": args.text("data-path-addr"),
        "DataPathPort": args.uint("data-path-port").unwrap_or(0),
        "ForceNewCluster": args.flag("force-new-cluster"),
        "Spec": spec,
        "AutoLockManagers": args.flag("autolock"),
        "Availability": availability(args)?,
        "DefaultAddrPool": if pool.is_empty() { Value::Null } else { json!(pool) },
        "SubnetSize": mask,
    });
    let answer = session
        .client
        .json(Call::post("/swarm/init").json(&request))
        .await;
    let node = answer.map_err(name_the_flag)?;
    let node = node.str("").to_owned();
    session.say(format!(
        "Swarm initialized: current node ({node}) is now a manager.\n"
    ))?;
    token::print_join_command(session, &node, true, false).await?;
    session.say(
        "To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions.",
    )?;
    if args.flag("autolock") {
        let key = token::fetch_unlock_key(session).await?;
        token::print_unlock_command(session, &key)?;
    }
    Ok(())
}

/// A daemon that cannot choose an address is told one with a flag.
fn name_the_flag(failure: Failure) -> Failure {
    let text = failure.to_string();
    if text.contains("could not choose an IP address to advertise")
        || text.contains("could not find the system's IP address")
    {
        Failure::message(format!("{text} - specify one with --advertise-addr"))
    } else {
        failure
    }
}

pub async fn join(session: &Session, args: &Args) -> Outcome {
    let request = json!({
        "JoinToken": args.text("token"),
        "ListenAddr": listen_address(args),
        "AdvertiseAddr": args.text("advertise-addr"),
        "DataPathAddr": args.text("data-path-addr"),
        "RemoteAddrs": [args.positional(0)],
        "Availability": if args.given("availability") { availability(args)? } else { "" },
    });
    session
        .client
        .done(Call::post("/swarm/join").json(&request))
        .await?;
    let info = session.client.json(Call::get("/info")).await?;
    let role = if info.bool("Swarm.ControlAvailable") {
        "manager"
    } else {
        "worker"
    };
    session.say(format!("This node joined a swarm as a {role}."))
}

pub async fn leave(session: &Session, args: &Args) -> Outcome {
    session
        .client
        .done(Call::post("/swarm/leave").query_if("force", args.flag("force")))
        .await?;
    session.say("Node left the swarm.")
}

/// Replaces this node's certificate, which has run out.
pub async fn rescue(session: &Session, args: &Args) -> Outcome {
    let call = Call::post("/skep/v1/swarm/rescue").json(&json!({"Token": args.text("token")}));
    let answer = session.client.json(call).await?;
    session.say(format!(
        "This node has a certificate again, which is good until {}.",
        answer.str("Until")
    ))
}

pub async fn update(session: &Session, args: &Args) -> Outcome {
    if !args.def().flags.iter().any(|flag| args.given(&flag.long)) {
        return session.print(&help::command(
            args.def(),
            args.path(),
            session.streams.width,
        ));
    }
    let mut swarm = fetch(session).await?;
    let locks =
        |swarm: &Value| swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"] == json!(true);
    let locked_before = locks(&swarm);
    let root = swarm["TLSInfo"]["TrustRoot"]
        .as_str()
        .unwrap_or("")
        .to_owned();
    merge_spec(&mut swarm["Spec"], args, &root)?;
    let rotate = Rotate {
        data_keys: args.flag("rotate-data-keys"),
        ..Rotate::default()
    };
    store(session, &swarm, rotate).await?;
    session.say("Swarm updated.")?;
    if locks(&swarm) && !locked_before {
        let key = token::fetch_unlock_key(session).await?;
        token::print_unlock_command(session, &key)?;
    }
    Ok(())
}

/// Changes what the flags name. `root` is the certificate that external authorities sign with
/// when they name none.
pub fn merge_spec(spec: &mut Value, args: &Args, root: &str) -> Outcome {
    if let Some(limit) = args.int("task-history-limit") {
        spec["Orchestration"]["TaskHistoryRetentionLimit"] = json!(limit);
    }
    if let Some(period) = args.duration("dispatcher-heartbeat") {
        spec["Dispatcher"]["HeartbeatPeriod"] = json!(period);
    }
    if let Some(expiry) = args.duration("cert-expiry") {
        spec["CAConfig"]["NodeCertExpiry"] = json!(expiry);
    }
    if let Some(expiry) = args.duration("node-expiry") {
        set_node_expiry(spec, args, expiry)?;
    }
    if args.given("external-ca") {
        let authorities = args.each("external-ca", |value| external_ca(value, root))?;
        spec["CAConfig"]["ExternalCAs"] = json!(authorities);
    }
    if let Some(count) = args.uint("max-snapshots") {
        spec["Raft"]["KeepOldSnapshots"] = json!(count);
    }
    if let Some(interval) = args.uint("snapshot-interval") {
        spec["Raft"]["SnapshotInterval"] = json!(interval);
    }
    if args.given("autolock") {
        spec["EncryptionConfig"]["AutoLockManagers"] = json!(args.flag("autolock"));
    }
    if args.given("encrypt-networks") {
        spec["EncryptionConfig"]["EncryptNetworks"] = json!(args.flag("encrypt-networks"));
    }
    Ok(())
}

/// A label: clients of others have no field for it.
fn set_node_expiry(spec: &mut Value, args: &Args, expiry: i64) -> Outcome {
    const SECOND: i64 = 1_000_000_000;
    if expiry < 0 || expiry % SECOND != 0 {
        let why = "it must be 0 for never, or whole seconds, such as 72h";
        return Err(args.invalid("node-expiry", args.text("node-expiry"), why));
    }
    if !spec["Labels"].is_object() {
        spec["Labels"] = json!({});
    }
    match (expiry, spec["Labels"].as_object_mut()) {
        (0, Some(labels)) => drop(labels.remove(NODE_EXPIRY_LABEL)),
        (_, labels) => {
            let text = crate::duration::format(expiry);
            labels.map(|labels| labels.insert(NODE_EXPIRY_LABEL.to_owned(), json!(text)));
        }
    }
    Ok(())
}

/// `protocol=cfssl,url=https://…,cacert=FILE,option=value`.
fn external_ca(value: &str, root: &str) -> Result<Value, String> {
    let mut authority = json!({"Protocol": "", "URL": "", "CACert": root});
    let mut options = serde_json::Map::new();
    for field in crate::grammar::csv::fields(value)? {
        let (key, value) = field
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key.to_lowercase().as_str() {
            "protocol" if value.eq_ignore_ascii_case("cfssl") => {
                authority["Protocol"] = json!("cfssl")
            }
            "protocol" => return Err(format!("unrecognized external CA protocol {value}")),
            "url" => authority["URL"] = json!(value),
            "cacert" => {
                let pem = crate::files::read(value, 1 << 20)
                    .map_err(|why| format!("unable to read CA cert for external CA: {why}"))?;
                authority["CACert"] = json!(String::from_utf8_lossy(&pem));
            }
            key => {
                options.insert(key.to_owned(), json!(value));
            }
        }
    }
    if authority["Protocol"] == json!("") {
        return Err("the external-ca option needs a protocol= parameter".to_owned());
    }
    if authority["URL"] == json!("") {
        return Err("the external-ca option needs a url= parameter".to_owned());
    }
    if !options.is_empty() {
        authority["Options"] = Value::Object(options);
    }
    Ok(authority)
}

/// An address to listen on, its port filled in.
fn listen_address(args: &Args) -> String {
    let given = args.text("listen-addr");
    let given = given.strip_prefix("tcp://").unwrap_or(given);
    let has_port = given.rsplit_once(':').is_some_and(|(host, port)| {
        !port.is_empty() && !port.contains(']') && (!host.contains(':') || host.ends_with(']'))
    });
    match given {
        "" => format!("0.0.0.0:{PORT_DEFAULT}"),
        given if has_port && given.starts_with(':') => format!("0.0.0.0{given}"),
        given if has_port => given.to_owned(),
        given if given.contains(':') && !given.starts_with('[') => {
            format!("[{given}]:{PORT_DEFAULT}")
        }
        given => format!("{given}:{PORT_DEFAULT}"),
    }
}

fn availability(args: &Args) -> Outcome<&str> {
    match args.maybe("availability").unwrap_or("active") {
        known @ ("active" | "pause" | "drain") => Ok(known),
        other => Err(Failure::message(format!(
            "invalid availability {}, only active, pause and drain are supported",
            human::quote(other)
        ))),
    }
}

fn subnet(value: &str) -> Result<String, String> {
    let sound = value.split_once('/').is_some_and(|(address, bits)| {
        let bits = bits.parse::<u8>().unwrap_or(u8::MAX);
        match address.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => bits <= 32,
            Ok(std::net::IpAddr::V6(_)) => bits <= 128,
            Err(_) => false,
        }
    });
    if sound {
        Ok(value.to_owned())
    } else {
        Err(format!("invalid string being converted to CIDR: {value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_authorities() {
        let read = |value: &str| external_ca(value, "ROOT").map(|value| value.to_string());
        assert_eq!(
            read("protocol=cfssl,url=https://ca.example,name=x").unwrap(),
            r#"{"CACert":"ROOT","Options":{"name":"x"},"Protocol":"cfssl","URL":"https://ca.example"}"#
        );
        assert_eq!(
            read("url=x").unwrap_err(),
            "the external-ca option needs a protocol= parameter"
        );
        assert_eq!(
            read("protocol=cfssl").unwrap_err(),
            "the external-ca option needs a url= parameter"
        );
        assert_eq!(
            read("protocol=x").unwrap_err(),
            "unrecognized external CA protocol x"
        );
    }

    #[test]
    fn pools_are_networks() {
        assert!(subnet("10.0.0.0/8").is_ok() && subnet("fd00::/48").is_ok());
        assert_eq!(
            subnet("10.0.0.0").unwrap_err(),
            "invalid string being converted to CIDR: 10.0.0.0"
        );
        assert!(subnet("10.0.0.0/33").is_err());
    }
}
