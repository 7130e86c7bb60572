//! `RUN --mount`.

/// A mount for the time of one `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// Where; of secrets and agents it may be left out.
    pub target: Option<String>,
    /// `bind` and `cache`: a path in the context or in `from`.
    pub source: Option<String>,
    /// A stage or an image instead of the context.
    pub from: Option<String>,
    /// `cache`, `secret` and `ssh`: which one.
    pub id: Option<String>,
    pub readonly: bool,
    pub sharing: Sharing,
    pub required: bool,
    pub mode: Option<u32>,
    pub uid: u32,
    pub gid: u32,
    /// `tmpfs`: bytes, 0 for no limit.
    pub size: u64,
    /// `secret`: a variable that gets its contents.
    pub env: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who else may use a cache at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    #[default]
    Shared,
    /// Others get another one.
    Private,
    /// Others wait.
    Locked,
}

impl Mount {
    /// Reads `type=cache,target=/x,…`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut mount = Self {
            kind: MountKind::Bind,
            target: None,
            source: None,
            from: None,
            id: None,
            readonly: false,
            sharing: Sharing::Shared,
            required: false,
            mode: None,
            uid: 0,
            gid: 0,
            size: 0,
            env: None,
        };
        let fields = fields(text)?;
        for (key, value) in &fields {
            if key == "type" {
                mount.kind = kind(value.as_deref().unwrap_or(""))?;
            }
        }
        // What is bound is not written to, unless it says so.
        mount.readonly = mount.kind == MountKind::Bind;
        for (key, value) in fields {
            mount.set(&key, value.as_deref())?;
        }
        mount.check()?;
        Ok(mount)
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        use MountKind::{Bind, Cache, Secret, Ssh, Tmpfs};
        let kind = self.kind;
        let flag = || match value.unwrap_or("true").to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(format!("invalid value for {key}: {other}")),
        };
        let unexpected = || {
            Err(format!(
                "unexpected key '{key}' for mount type '{}'",
                name(kind)
            ))
        };
        match key {
            "readonly" | "ro" if matches!(kind, Bind | Cache) => {
                self.readonly = flag()?;
                return Ok(());
            }
            "readwrite" | "rw" if matches!(kind, Bind | Cache) => {
                self.readonly = !flag()?;
                return Ok(());
            }
            "required" if matches!(kind, Secret | Ssh) => {
                self.required = flag()?;
                return Ok(());
            }
            "readonly" | "ro" | "readwrite" | "rw" | "required" => return unexpected(),
            _ => {}
        }
        let Some(value) = value else {
            return Err(format!("invalid field '{key}' must be a key=value pair"));
        };
        let number = |radix| {
            u32::from_str_radix(value, radix)
                .map_err(|_| format!("invalid value for {key}: {value}"))
        };
        match (key, kind) {
            ("type", _) => {}
            ("from", Bind | Cache) => self.from = Some(value.to_owned()),
            ("source" | "src", Bind | Cache) => self.source = Some(value.to_owned()),
            ("target" | "dst" | "destination", _) => self.target = Some(value.to_owned()),
            ("id", Cache | Secret | Ssh) => self.id = Some(value.to_owned()),
            ("sharing", Cache) => {
                self.sharing = match value {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    other => return Err(format!("unsupported sharing value \"{other}\"")),
                }
            }
            ("mode", Cache | Secret | Ssh) => self.mode = Some(number(8)?),
            ("uid", Cache | Secret | Ssh) => self.uid = number(10)?,
            ("gid", Cache | Secret | Ssh) => self.gid = number(10)?,
            ("size", Tmpfs) => {
                self.size = bytes(value).ok_or(format!("invalid value for size: {value}"))?;
            }
            ("env", Secret) => self.env = Some(value.to_owned()),
            _ => return unexpected(),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        use MountKind::{Bind, Cache, Tmpfs};
        let target = self.target.as_deref().unwrap_or("");
        if matches!(self.kind, Bind | Cache | Tmpfs) && target.is_empty() {
            return Err("target is required".into());
        }
        if self.mode.is_some_and(|mode| mode > 0o7777) {
            return Err("mode is not one of a file".into());
        }
        Ok(())
    }
}

fn kind(text: &str) -> Result<MountKind, String> {
    Ok(match text {
        "bind" => MountKind::Bind,
        "cache" => MountKind::Cache,
        "tmpfs" => MountKind::Tmpfs,
        "secret" => MountKind::Secret,
        "ssh" => MountKind::Ssh,
        other => return Err(format!("unsupported mount type \"{other}\"")),
    })
}

fn name(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Cache => "cache",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Secret => "secret",
        MountKind::Ssh => "ssh",
    }
}

/// Fields between commas; a field in double quotes may have commas in it.
fn fields(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields
                .last_mut()
                .expect("there is always a field being read")
                .push(character),
        }
    }
    if quoted {
        return Err(format!(
            "failed to parse csv mounts: \"{text}\" has a quote without end"
        ));
    }
    Ok(fields
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.to_ascii_lowercase(), None),
        })
        .collect())
}

/// `64m`, `1g`, `1024`.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, shift) = match lower.chars().last()? {
        'k' => (&lower[..lower.len() - 1], 10),
        'm' => (&lower[..lower.len() - 1], 20),
        'g' => (&lower[..lower.len() - 1], 30),
        't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_by_kind() {
        let cache =
            Mount::parse("type=cache,target=/c,id=x,sharing=locked,uid=7,mode=0700").unwrap();
        assert_eq!(
            (
                cache.kind,
                cache.sharing,
                cache.uid,
                cache.mode,
                cache.readonly
            ),
            (MountKind::Cache, Sharing::Locked, 7, Some(0o700), false)
        );
        let bind = Mount::parse("target=/src,source=a,from=build").unwrap();
        assert!(bind.readonly && bind.kind == MountKind::Bind);
        assert!(!Mount::parse("target=/src,rw").unwrap().readonly);
        assert_eq!(
            Mount::parse("type=tmpfs,target=/t,size=2m").unwrap().size,
            2 << 20
        );
        assert!(Mount::parse("type=secret,id=s,required").unwrap().required);
        for (wrong, why) in [
            ("type=bind", "target is required"),
            ("type=nfs,target=/x", "unsupported mount type \"nfs\""),
            (
                "type=tmpfs,target=/x,id=a",
                "unexpected key 'id' for mount type 'tmpfs'",
            ),
            (
                "type=cache,target",
                "invalid field 'target' must be a key=value pair",
            ),
            (
                "type=cache,target=/x,sharing=odd",
                "unsupported sharing value \"odd\"",
            ),
            ("type=cache,target=/x,mode=9", "invalid value for mode: 9"),
        ] {
            assert_eq!(Mount::parse(wrong).unwrap_err(), why, "{wrong}");
        }
    }
}
