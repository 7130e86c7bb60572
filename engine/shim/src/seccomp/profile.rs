//! Docker's JSON form of a seccomp profile.

use serde::Deserialize;

/// A profile as `--security-opt seccomp=FILE` gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Profile {
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    /// Architectures by name; all that this host runs when absent.
    pub architectures: Vec<String>,
    pub arch_map: Vec<ArchitectureMap>,
    pub syscalls: Vec<CallRule>,
    pub listener_path: String,
}

/// A native architecture and those that run beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchitectureMap {
    pub architecture: String,
    pub sub_architectures: Vec<String>,
}

/// One action for some calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallRule {
    /// The old form with one name.
    pub name: String,
    pub names: Vec<String>,
    pub action: String,
    pub errno_ret: Option<u32>,
    pub args: Option<Vec<Argument>>,
    pub includes: Filter,
    pub excludes: Filter,
}

/// A comparison of one argument.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Argument {
    pub index: u8,
    pub value: u64,
    pub value_two: u64,
    pub op: String,
}

/// When a rule holds at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    pub caps: Vec<String>,
    pub arches: Vec<String>,
    pub min_kernel: String,
}
