//! `local` volumes with options: `type`, `device` and `o`, as for mount(8).

use std::collections::BTreeMap;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, umount2};

use crate::error::{EngineError, IoContext as _, Result};

/// Refuses options the driver does not have.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<()> {
    for key in options.keys() {
        if !matches!(key.as_str(), "type" | "device" | "o" | "size") {
            return Err(EngineError::invalid(format!("invalid option: \"{key}\"")));
        }
    }
    if options.contains_key("size") {
        return Err(EngineError::invalid(
            "quota size requested but no quota support",
        ));
    }
    let (kind, device) = (options.contains_key("type"), options.contains_key("device"));
    if options.is_empty() || kind && device {
        return Ok(());
    }
    // A bind says so in `o` and needs no type.
    let is_bind = options
        .get("o")
        .is_some_and(|o| o.split(',').any(|word| word == "bind" || word == "rbind"));
    match (kind, device) {
        (false, true) if is_bind => Ok(()),
        (_, false) => Err(EngineError::invalid("missing required option: \"device\"")),
        _ => Err(EngineError::invalid("missing required option: \"type\"")),
    }
}

/// Whether these options say to mount something.
pub(super) fn has_device(options: &BTreeMap<String, String>) -> bool {
    options
        .get("device")
        .is_some_and(|device| !device.is_empty())
}

/// Whether what they mount is a directory of the host.
pub(super) fn is_bind(options: &BTreeMap<String, String>) -> bool {
    let words = options.get("o").map_or("", String::as_str);
    has_device(options)
        && (options.get("type").is_some_and(|kind| kind == "bind")
            || words
                .split(',')
                .any(|word| matches!(word, "bind" | "rbind")))
}

/// Mounts the device at the volume's directory.
pub(super) fn mount(at: &Path, options: &BTreeMap<String, String>) -> Result<()> {
    let get = |key: &str| options.get(key).map_or("", String::as_str);
    let (flags, data) = parse(get("o"));
    let kind = match get("type") {
        "none" | "" | "bind" => None,
        kind => Some(kind),
    };
    let data = (!data.is_empty()).then_some(data);
    nix::mount::mount(Some(get("device")), at, kind, flags, data.as_deref()).during(|| {
        format!(
            "failed to mount local volume: mount {}:{}, flags: {:#x}",
            get("device"),
            at.display(),
            flags.bits()
        )
    })
}

/// Options as mount(2) takes them: known ones as flags, the rest as text.
fn parse(options: &str) -> (MsFlags, String) {
    let (mut flags, mut rest) = (MsFlags::empty(), Vec::new());
    for word in options.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" | "defaults" => {}
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "nodiratime" => flags |= MsFlags::MS_NODIRATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            other => rest.push(other),
        }
    }
    (flags, rest.join(","))
}

/// Whether something is mounted at this very directory.
pub(super) fn is_mounted(at: &Path) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else {
        return false;
    };
    let Ok(at) = at.canonicalize() else {
        return false;
    };
    let text = at.display().to_string();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(text.as_str()))
}

/// Takes off whatever is mounted there.
pub(super) fn unmount(at: &Path) -> Result<()> {
    while is_mounted(at) {
        umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .during(|| format!("cannot unmount `{}`", at.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_options(given: &[(&str, &str)], fine: bool) {
        let options = given
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(check(&options).is_ok(), fine, "{given:?}");
    }

    #[test]
    fn only_complete_options_are_taken() {
        check_options(&[], true);
        check_options(
            &[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")],
            true,
        );
        check_options(&[("device", "/srv"), ("o", "bind")], true);
        check_options(&[("device", "/srv")], false);
        check_options(&[("type", "nfs")], false);
        check_options(&[("colour", "red")], false);
    }

    #[test]
    fn options_become_flags_and_text() {
        let (flags, data) = parse("ro,noexec,size=1m,uid=5");
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC);
        assert_eq!(data, "size=1m,uid=5");
    }
}
