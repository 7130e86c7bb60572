//! Devices of containers on one host: those of the host by path, and those asked for by what they
//! can do.

use crate::context::Context;
use crate::field::Field;
use crate::file::unique_by;
use crate::report::Placed;
use crate::tree::Value;

/// `devices`: `source:target:permissions` each.
pub(crate) fn read(field: &Field<'_>, cx: &mut Context<'_>) -> Vec<Placed<String>> {
    let mut devices = Vec::new();
    for item in field.items(cx) {
        let at = item.at();
        if let Value::Map(_) = &item.node.value {
            let Some(mut fields) = item.fields(cx) else {
                continue;
            };
            let source = fields.string("source", cx);
            let target = fields.string("target", cx);
            let permissions = fields.string("permissions", cx);
            fields.finish(cx);
            let Some(source) = source else {
                cx.error(at, format!("{} source is required", item.path));
                continue;
            };
            let target = target.unwrap_or_else(|| source.clone());
            let permissions = permissions.unwrap_or_else(|| "rwm".to_owned());
            let value = format!("{source}:{target}:{permissions}");
            devices.push(Placed { at, value });
        } else {
            devices.extend(item.placed_string(cx));
        }
    }
    unique_by(devices, |device| {
        let mut parts = device.value.split(':');
        let source = parts.next().unwrap_or_default();
        parts.next().unwrap_or(source).to_owned()
    })
}

/// Requests of devices, as those below `deploy.resources.reservations.devices`.
pub(crate) fn read_requests(
    field: &Field<'_>,
    capability: Option<&str>,
    cx: &mut Context<'_>,
) -> Vec<serde_json::Value> {
    let mut requests = Vec::new();
    for item in field.items(cx) {
        let Some(mut fields) = item.fields(cx) else {
            continue;
        };
        let mut capabilities: Vec<String> = fields
            .take("capabilities")
            .map(|field| field.words(cx))
            .unwrap_or_default();
        capabilities.extend(capability.map(str::to_owned));
        if capabilities.is_empty() {
            cx.error(item.at(), format!("{} capabilities is required", item.path));
        }
        let count = match fields.take("count") {
            Some(field) if field.scalar().is_some_and(|scalar| scalar.text == "all") => Some(-1),
            Some(field) => field.integer(cx),
            None => None,
        };
        let ids = fields
            .take("device_ids")
            .map(|field| field.words(cx))
            .unwrap_or_default();
        if count.is_some() && !ids.is_empty() {
            item.wrong("may have one of count and device_ids", cx);
        }
        let default = if ids.is_empty() { -1 } else { 0 };
        requests.push(serde_json::json!({
            "Driver": fields.string("driver", cx).unwrap_or_default(),
            "Count": count.unwrap_or(default),
            "DeviceIDs": ids,
            "Capabilities": [capabilities],
            "Options": fields.map("options", cx).unwrap_or_default(),
        }));
        fields.finish(cx);
    }
    requests
}
