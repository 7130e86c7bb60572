//! Volumes.

use std::collections::BTreeMap;

use skep_model::Timestamp;

docker_json! {
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct Volume {
        pub created_at: Timestamp,
        pub driver: String,
        pub labels: Option<BTreeMap<String, String>>,
        pub mountpoint: String,
        pub name: String,
        pub options: Option<BTreeMap<String, String>>,
        pub scope: String,
        /// Only in `system df`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub usage_data: Option<VolumeUsage>,
    }

    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct VolumeUsage {
        pub size: i64,
        pub ref_count: i64,
    }

    /// Body of `POST /volumes/create`.
    #[derive(Eq)]
    #[serde(rename_all = "PascalCase")]
    pub struct VolumeCreate {
        /// Empty: a random name.
        pub name: String,
        /// Empty: `local`.
        pub driver: String,
        pub driver_opts: BTreeMap<String, String>,
        pub labels: BTreeMap<String, String>,
    }
}
