//! Devices, graphics processors and limits per device, as flags name them.

use serde_json::{Value, json};

use crate::grammar::csv;
use crate::human;

/// `/dev/host[:/dev/container][:rwm]`; `vendor/class=name` is left to the runtime.
pub fn device(value: &str) -> Result<Value, String> {
    let parts: Vec<&str> = value.split(':').collect();
    let is_mode = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let (source, target, mode) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, mode] if is_mode(mode) => (source, source, mode),
        [source, target] => (source, target, "rwm"),
        [source, target, mode] if is_mode(mode) => (source, target, mode),
        _ => return Err(format!("invalid device specification: {value}")),
    };
    if !source.starts_with('/') {
        return Err(format!("{source} is not an absolute path"));
    }
    Ok(json!({"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode}))
}

/// Whether a device is named by a CDI specification.
pub fn is_cdi(value: &str) -> bool {
    !value.starts_with('/') && value.contains('/') && value.contains('=')
}

/// Devices of CDI specifications as a request.
pub fn cdi_request(names: &[String]) -> Value {
    json!({"Driver": "cdi", "DeviceIDs": names})
}

/// `all`, a count, or `device=0,driver=…,capabilities=…,options=…`.
pub fn gpus(value: &str) -> Result<Value, String> {
    let mut request = json!({"Driver": "", "Count": 0, "DeviceIDs": null, "Capabilities": [["gpu"]], "Options": {}});
    let count = |text: &str| match text {
        "all" => Ok(-1),
        text => text.parse::<i64>().map_err(|_| {
            format!(
                "invalid count ({text}): value must be either \"all\" or an integer: invalid syntax"
            )
        }),
    };
    let mut counted = false;
    for field in csv::fields(value)? {
        match field.split_once('=') {
            None => {
                request["Count"] = json!(count(&field)?);
                counted = true;
            }
            Some(("count", text)) => {
                request["Count"] = json!(count(text)?);
                counted = true;
            }
            Some(("driver", name)) => request["Driver"] = json!(name),
            Some(("device", ids)) => {
                request["DeviceIDs"] = json!(ids.split(',').collect::<Vec<_>>())
            }
            Some(("capabilities", names)) => {
                let mut names: Vec<&str> = names.split(',').collect();
                names.push("gpu");
                request["Capabilities"] = json!([names]);
            }
            Some(("options", pairs)) => {
                request["Options"] = json!(crate::grammar::environment::pairs(pairs.split(',')));
            }
            Some((key, _)) => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if !counted && request["DeviceIDs"].is_null() {
        request["Count"] = json!(1);
    }
    Ok(request)
}

/// `path:weight`.
pub fn weight(value: &str) -> Result<Value, String> {
    let (path, weight) = split(value, "<path>:<weight>")?;
    match weight.parse::<u16>() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => {
            Ok(json!({"Path": path, "Weight": weight}))
        }
        _ => Err(format!("invalid weight for device: {value}")),
    }
}

/// `path:bytes` a second.
pub fn rate_bytes(value: &str) -> Result<Value, String> {
    let (path, rate) = split(value, "<device-path>:<number>[<unit>]")?;
    let wrong = || {
        format!(
            "invalid rate for device: {value}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    };
    let rate = human::parse_bytes(rate).map_err(|_| wrong())?;
    Ok(json!({"Path": path, "Rate": rate}))
}

/// `path:operations` a second.
pub fn rate_operations(value: &str) -> Result<Value, String> {
    let (path, rate) = split(value, "<device-path>:<number>")?;
    let rate: u64 = rate
        .parse()
        .map_err(|_| format!("invalid rate for device: {value}. The correct format is <device-path>:<number>. Number must be a positive integer"))?;
    Ok(json!({"Path": path, "Rate": rate}))
}

fn split<'a>(value: &'a str, form: &str) -> Result<(&'a str, &'a str), String> {
    let (path, rest) = value
        .split_once(':')
        .filter(|(path, rest)| !path.is_empty() && !rest.is_empty())
        .ok_or_else(|| format!("bad format: {value}: want {form}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {value}"));
    }
    Ok((path, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let of = |value: &str| device(value).map(|device| device.to_string());
        assert_eq!(
            of("/dev/a").unwrap(),
            r#"{"CgroupPermissions":"rwm","PathInContainer":"/dev/a","PathOnHost":"/dev/a"}"#
        );
        assert_eq!(
            of("/dev/a:/dev/b:r").unwrap(),
            r#"{"CgroupPermissions":"r","PathInContainer":"/dev/b","PathOnHost":"/dev/a"}"#
        );
        assert_eq!(
            of("/dev/a:rw").unwrap(),
            r#"{"CgroupPermissions":"rw","PathInContainer":"/dev/a","PathOnHost":"/dev/a"}"#
        );
        assert!(of("a").is_err() && of("/dev/a:/b:x").is_err());
        assert!(is_cdi("vendor.com/gpu=0") && !is_cdi("/dev/a=b"));
        assert_eq!(gpus("all").unwrap()["Count"], -1);
        assert_eq!(gpus("2").unwrap()["Count"], 2);
        assert_eq!(
            gpus("\"device=0,1\"").unwrap()["DeviceIDs"],
            json!(["0", "1"])
        );
        assert!(gpus("x").is_err());
        assert_eq!(rate_bytes("/dev/sda:1mb").unwrap()["Rate"], 1 << 20);
        assert!(rate_operations("/dev/sda:x").is_err() && weight("/dev/sda:5").is_err());
    }
}
