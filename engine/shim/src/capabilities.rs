//! Capabilities by name, and docker's rule for adding and dropping them.

/// What a container has unless told otherwise.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability; the position is its number.
pub const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A name that is no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid capability: unknown capability: `{name}`")]
pub struct UnknownCapability {
    pub name: String,
}

/// The capabilities of a container: docker's defaults, with `add` and `drop` (each
/// may be `ALL`; case and the `CAP_` prefix do not matter). Privileged has all.
///
/// # Errors
/// A name is unknown.
pub fn resolve(
    add: &[String],
    drop: &[String],
    privileged: bool,
) -> Result<Vec<String>, UnknownCapability> {
    let add = normalize(add)?;
    let drop = normalize(drop)?;
    let all = |names: &[String]| names.iter().any(|name| name == "ALL");
    let base: &[&str] = match (privileged || all(&add), all(&drop)) {
        (true, _) => &ALL,
        (false, true) => &[],
        (false, false) => &DEFAULT,
    };
    let mut names: Vec<String> = base
        .iter()
        .filter(|name| privileged || !drop.iter().any(|dropped| dropped == *name))
        .map(|name| (*name).to_owned())
        .collect();
    for name in add {
        if name != "ALL" && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The set as a bit mask.
///
/// # Errors
/// A name is unknown.
pub fn mask(names: &[String]) -> Result<u64, UnknownCapability> {
    normalize(names)?.iter().try_fold(0, |mask, name| {
        if name == "ALL" {
            return Ok((1 << ALL.len()) - 1);
        }
        let number = ALL.iter().position(|known| known == name);
        Ok(mask | 1 << number.expect("normalized names are known"))
    })
}

/// The names in a bit mask, with their prefix.
pub fn names(mask: u64) -> Vec<String> {
    ALL.iter()
        .enumerate()
        .filter(|(number, _)| mask & (1 << number) != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

fn normalize(names: &[String]) -> Result<Vec<String>, UnknownCapability> {
    names
        .iter()
        .map(|given| {
            let upper = given.to_ascii_uppercase();
            let full = match upper.as_str() {
                "ALL" | "CAP_ALL" => "ALL".to_owned(),
                name if name.starts_with("CAP_") => upper,
                name => format!("CAP_{name}"),
            };
            if full == "ALL" || ALL.contains(&full.as_str()) {
                Ok(full)
            } else {
                Err(UnknownCapability {
                    name: given.clone(),
                })
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn docker_defaults_with_some_added_and_dropped() {
        let resolved = resolve(&names(&["net_admin"]), &names(&["CAP_CHOWN"]), false).unwrap();
        assert!(resolved.contains(&"CAP_NET_ADMIN".to_owned()));
        assert!(!resolved.contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(resolved.len(), DEFAULT.len());
    }

    #[test]
    fn all_means_all_and_drop_all_keeps_what_is_added() {
        assert_eq!(
            resolve(&names(&["ALL"]), &[], false).unwrap().len(),
            ALL.len()
        );
        assert_eq!(
            resolve(&names(&["CHOWN"]), &names(&["all"]), false).unwrap(),
            ["CAP_CHOWN"]
        );
        let most = resolve(&names(&["ALL"]), &names(&["SYS_ADMIN"]), false).unwrap();
        assert!(!most.contains(&"CAP_SYS_ADMIN".to_owned()));
    }

    #[test]
    fn an_unknown_name_is_named() {
        let error = resolve(&names(&["FLY"]), &[], false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid capability: unknown capability: `FLY`"
        );
    }

    #[test]
    fn default_mask_is_the_one_docker_containers_show() {
        let default: Vec<String> = names(&DEFAULT);
        assert_eq!(mask(&default).unwrap(), 0xa804_25fb);
        assert_eq!(super::names(0x21), ["CAP_CHOWN", "CAP_KILL"]);
    }
}
