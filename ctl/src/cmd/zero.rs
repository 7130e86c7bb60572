//! What a template finds where the daemon leaves a field out: docker's client reads answers into
//! structures, whose fields are there in any case.

use crate::json::Json;

/// Fields of services that are lists, mappings, texts or numbers, and not behind a pointer.
pub const SERVICE: &str = r#"{
    "Spec": {"Name": "", "Labels": {}, "Mode": {}, "TaskTemplate": {
        "Networks": [], "ForceUpdate": 0, "Runtime": "", "ContainerSpec?": {
            "Image": "", "Labels": {}, "Command": [], "Args": [], "Hostname": "", "Env": [], "Dir": "",
            "User": "", "Groups": [], "StopSignal": "", "TTY": false, "OpenStdin": false, "ReadOnly": false,
            "Mounts": [], "Hosts": [], "Secrets": [], "Configs": [], "Isolation": "", "Sysctls": {},
            "CapabilityAdd": [], "CapabilityDrop": [], "Ulimits": []}},
        "EndpointSpec?": {"Mode": "", "Ports": []}},
    "Endpoint": {"Spec": {"Mode": "", "Ports": []}, "Ports": [], "VirtualIPs": []}}"#;

/// The same of nodes.
pub const NODE: &str = r#"{
    "Spec": {"Name": "", "Labels": {}, "Role": "", "Availability": ""},
    "Description": {"Hostname": "", "Platform": {"Architecture": "", "OS": ""},
        "Resources": {"NanoCPUs": 0, "MemoryBytes": 0, "GenericResources": []},
        "Engine": {"EngineVersion": "", "Labels": {}, "Plugins": []},
        "TLSInfo": {"TrustRoot": ""}},
    "Status": {"State": "", "Message": "", "Addr": ""}}"#;

/// Puts what is missing into `value`. A name with `?` is behind a pointer: filled only where it is.
pub fn fill(value: &mut Json, zeros: &str) {
    if !zeros.is_empty()
        && let Ok(zeros) = Json::parse(zeros.as_bytes())
    {
        merge(value, &zeros);
    }
}

fn merge(value: &mut Json, zeros: &Json) {
    let (Json::Object(fields), Json::Object(zeros)) = (value, zeros) else {
        return;
    };
    for (name, zero) in zeros {
        let (name, may_be_absent) = match name.strip_suffix('?') {
            Some(name) => (name, true),
            None => (name.as_str(), false),
        };
        let found = fields.iter_mut().find(|(known, _)| known == name);
        match found {
            Some((_, Json::Null)) | None if may_be_absent => {}
            Some((_, known @ Json::Null)) => *known = bare(zero),
            Some((_, known)) => merge(known, zero),
            None => fields.push((name.to_owned(), bare(zero))),
        }
    }
}

/// A zero without what is behind its pointers.
fn bare(zero: &Json) -> Json {
    match zero {
        Json::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| !name.ends_with('?'));
            Json::Object(
                fields
                    .map(|(name, zero)| (name.clone(), bare(zero)))
                    .collect(),
            )
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_there_and_the_rest_stays() {
        let mut service = Json::parse(
            br#"{"Spec":{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"a","Env":null}}}}"#,
        )
        .unwrap();
        fill(&mut service, SERVICE);
        assert_eq!(service.str("Spec.TaskTemplate.ContainerSpec.Image"), "a");
        for list in [
            "Spec.TaskTemplate.ContainerSpec.Env",
            "Endpoint.Ports",
            "Endpoint.VirtualIPs",
        ] {
            assert_eq!(*service.at(list), Json::List(Vec::new()), "{list}");
        }
        assert!(service.get("Spec").unwrap().get("EndpointSpec").is_none());
        let mut node = Json::Object(Vec::new());
        fill(&mut node, NODE);
        assert_eq!(
            *node.at("Description.Engine.Labels"),
            Json::Object(Vec::new())
        );
    }
}
