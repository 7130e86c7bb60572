//! Images as the API shows them, and the progress of pulls and pushes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skep_model::Timestamp;

use super::container::{Empty, StrSlice};
use super::{HealthConfig, is_default};

docker_json! {
    /// The `config` part of an image's configuration.
    #[serde(rename_all = "PascalCase")]
    pub struct ImageConfig {
        #[serde(skip_serializing_if = "String::is_empty")]
        pub user: String,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub exposed_ports: BTreeMap<String, Empty>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub env: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub entrypoint: Option<StrSlice>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cmd: Option<StrSlice>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub healthcheck: Option<HealthConfig>,
        #[serde(skip_serializing_if = "is_default")]
        pub args_escaped: bool,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub volumes: BTreeMap<String, Empty>,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub working_dir: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub on_build: Option<Vec<String>>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub labels: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub stop_signal: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub shell: Option<Vec<String>>,
    }

    /// `GET /images/{name}/json`.
    #[serde(rename_all = "PascalCase")]
    pub struct ImageInspect {
        pub id: String,
        pub repo_tags: Vec<String>,
        pub repo_digests: Vec<String>,
        pub parent: String,
        pub comment: String,
        pub created: Timestamp,
        pub docker_version: String,
        pub author: String,
        pub config: ImageConfig,
        pub architecture: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub variant: String,
        pub os: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub os_version: String,
        /// Bytes of all layers, unpacked.
        pub size: i64,
        pub graph_driver: DriverData,
        #[serde(rename = "RootFS")]
        pub root_fs: RootFs,
        pub metadata: ImageMetadata,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct DriverData {
        pub name: String,
        pub data: Option<BTreeMap<String, String>>,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct RootFs {
        #[serde(rename = "Type")]
        pub kind: String,
        /// Digests of the unpacked layers, base first.
        pub layers: Vec<String>,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct ImageMetadata {
        pub last_tag_time: Timestamp,
    }

    /// One line of `GET /images/json`.
    #[serde(rename_all = "PascalCase")]
    pub struct ImageSummary {
        pub id: String,
        pub parent_id: String,
        pub repo_tags: Vec<String>,
        pub repo_digests: Vec<String>,
        /// Unix seconds.
        pub created: i64,
        pub size: i64,
        /// -1: not computed.
        pub shared_size: i64,
        pub labels: Option<BTreeMap<String, String>>,
        /// -1: not computed.
        pub containers: i64,
    }

    /// One line of `GET /images/{name}/history`, newest first.
    #[serde(rename_all = "PascalCase")]
    pub struct HistoryItem {
        /// `<missing>` for all but the newest.
        pub id: String,
        /// Unix seconds.
        pub created: i64,
        pub created_by: String,
        pub tags: Option<Vec<String>>,
        pub size: i64,
        pub comment: String,
    }

    /// What removing an image did.
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct DeleteItem {
        #[serde(skip_serializing_if = "String::is_empty")]
        pub untagged: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub deleted: String,
    }

    /// What builds keep, in `GET /system/df`.
    #[serde(rename_all = "PascalCase")]
    pub struct BuildCache {
        #[serde(rename = "ID")]
        pub id: String,
        #[serde(rename = "Type")]
        pub kind: String,
        pub description: String,
        pub in_use: bool,
        pub shared: bool,
        /// Bytes.
        pub size: i64,
        pub created_at: Timestamp,
        pub last_used_at: Timestamp,
        pub usage_count: i64,
    }

    /// `GET /distribution/{name}/json`.
    #[serde(rename_all = "PascalCase")]
    pub struct DistributionInspect {
        pub descriptor: Descriptor,
        pub platforms: Vec<Platform>,
    }

    /// An OCI content descriptor.
    #[derive(Eq)]
    #[serde(rename_all = "camelCase")]
    pub struct Descriptor {
        #[serde(skip_serializing_if = "String::is_empty")]
        pub media_type: String,
        pub digest: String,
        pub size: i64,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub urls: Vec<String>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub annotations: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub platform: Option<Platform>,
    }

    /// What an image runs on.
    #[derive(Eq)]
    pub struct Platform {
        #[serde(skip_serializing_if = "String::is_empty")]
        pub architecture: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub os: String,
        #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
        pub os_version: String,
        #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
        pub os_features: Vec<String>,
        #[serde(skip_serializing_if = "String::is_empty")]
        pub variant: String,
    }
}

/// One line of a pull's, push's, load's or import's progress stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressEvent {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    /// A drawn bar, for terminals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Short layer id, or the tag of the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

/// Bytes done and bytes in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    #[serde(skip_serializing_if = "is_default")]
    pub current: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub total: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorDetail {
    #[serde(skip_serializing_if = "is_default")]
    pub code: i64,
    pub message: String,
}

impl ProgressEvent {
    /// A line with a status only.
    pub fn status(text: impl Into<String>) -> Self {
        Self {
            status: Some(text.into()),
            ..Self::default()
        }
    }

    /// A line about one layer or tag.
    pub fn about(id: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            status: Some(text.into()),
            id: Some(id.into()),
            progress_detail: Some(ProgressDetail::default()),
            ..Self::default()
        }
    }

    /// A line that says how far one layer is.
    pub fn progress(id: impl Into<String>, text: impl Into<String>, done: i64, of: i64) -> Self {
        Self {
            progress: Some(bar(done, of)),
            progress_detail: Some(ProgressDetail {
                current: done,
                total: of,
            }),
            ..Self::about(id, text)
        }
    }

    /// A line of plain output.
    pub fn stream(text: impl Into<String>) -> Self {
        Self {
            stream: Some(text.into()),
            ..Self::default()
        }
    }

    /// The line that ends a stream that failed.
    pub fn error(text: impl Into<String>) -> Self {
        let message = text.into();
        Self {
            error: Some(message.clone()),
            error_detail: Some(ErrorDetail { code: 0, message }),
            ..Self::default()
        }
    }
}

/// `[====>      ]  1.2MB/3.4MB`, the bar docker draws.
fn bar(done: i64, of: i64) -> String {
    const WIDTH: i64 = 50;
    if of <= 0 {
        return human_size(done);
    }
    let filled = (done.clamp(0, of) * WIDTH / of).clamp(0, WIDTH);
    let mut text = String::from("[");
    for at in 0..WIDTH {
        text.push(match at.cmp(&filled) {
            std::cmp::Ordering::Less => '=',
            std::cmp::Ordering::Equal => '>',
            std::cmp::Ordering::Greater => ' ',
        });
    }
    format!("{text}]  {}/{}", human_size(done), human_size(of))
}

/// Decimal units with four significant digits, as docker prints sizes.
pub(crate) fn human_size(bytes: i64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB", "PB"] {
        if value < 1000.0 {
            let digits = if value >= 100.0 {
                1
            } else if value >= 10.0 {
                2
            } else {
                3
            };
            let text = format!("{value:.digits$}");
            let text = if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.')
            } else {
                text.as_str()
            };
            return format!("{text}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.0}EB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_like_dockers() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1_500, "1.5kB"),
            (27_400_000, "27.4MB"),
            (1_234_567_890, "1.235GB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
