//! Stores as the administrator of a manager's node names them: `NAME=exec:/path` and
//! `NAME=vault:URL,token-file=/path[,KEY=VALUE…]`.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hyper::Uri;
use skep_model::secret_store::check_store_name;

/// One store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOption {
    pub name: String,
    pub source: Source,
}

/// What a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A command that is asked on its input and answers on its output.
    Command(PathBuf),
    Vault(VaultSource),
}

/// Where a Vault is, and what it is asked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSource {
    pub address: Uri,
    /// Read at each use, so that an agent beside it may renew what is in it.
    pub token_file: PathBuf,
    /// Certificates of its authorities; those of the host when absent. Read at each use as well.
    pub ca_file: Option<PathBuf>,
    pub namespace: Option<String>,
}

impl FromStr for StoreOption {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let want = || "want NAME=exec:/PATH or NAME=vault:URL,token-file=/PATH".to_owned();
        let (name, source) = given.split_once('=').ok_or_else(want)?;
        check_store_name(name)?;
        let (kind, rest) = source.split_once(':').ok_or_else(want)?;
        let source = match kind {
            "exec" => Source::Command(absolute("exec", rest)?),
            "vault" => Source::Vault(vault(rest)?),
            other => {
                return Err(format!(
                    "{other:?} is no kind of store: want exec or vault, as in NAME=exec:/PATH"
                ));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            source,
        })
    }
}

impl StoreOption {
    /// Whether what must be on this host is there.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_here(&self) -> Result<(), String> {
        match &self.source {
            // It may come yet, with a mount or a package; nobody else's tasks depend on it.
            Source::Command(path) if !path.exists() => {
                let (store, path) = (&self.name, path.display());
                tracing::warn!(store, %path, "the command of a secret store is not there");
                Ok(())
            }
            Source::Command(path) => check_command(path),
            Source::Vault(_) => Ok(()),
        }
    }
}

/// Whether a file can be the command of a store.
///
/// # Errors
/// What is wrong with it.
pub fn check_command(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let found = std::fs::metadata(path).map_err(|error| format!("exec {shown}: {error}"))?;
    let mode = found.permissions().mode();
    if !found.is_file() {
        return Err(format!("exec {shown}: it is no file"));
    }
    if mode & 0o111 == 0 {
        return Err(format!(
            "exec {shown}: it is not executable: chmod +x {shown}"
        ));
    }
    if mode & 0o002 != 0 {
        return Err(format!(
            "exec {shown}: everybody may write to it, and it runs as root: chmod o-w {shown}"
        ));
    }
    Ok(())
}

/// All of them, by names that are there once.
///
/// # Errors
/// The option that cannot be one, and why.
pub fn read_all(given: &[String]) -> Result<Vec<StoreOption>, (String, String)> {
    let mut stores: Vec<StoreOption> = Vec::new();
    for text in given {
        let wrong = |why: String| (text.clone(), why);
        let store: StoreOption = text.parse().map_err(wrong)?;
        if stores.iter().any(|other| other.name == store.name) {
            let name = &store.name;
            return Err(wrong(format!("there is another store {name:?} already")));
        }
        store.check_here().map_err(wrong)?;
        stores.push(store);
    }
    Ok(stores)
}

fn absolute(part: &str, given: &str) -> Result<PathBuf, String> {
    match Path::new(given).is_absolute() {
        true => Ok(given.into()),
        false => Err(format!("{part}: {given:?} is no absolute path")),
    }
}

fn vault(given: &str) -> Result<VaultSource, String> {
    let mut parts = given.split(',');
    let address = parts.next().unwrap_or_default();
    let (mut token_file, mut ca_file, mut namespace) = (None, None, None);
    let mut insecure = false;
    for part in parts {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?} is not KEY=VALUE"))?;
        let is_again = match key {
            "token-file" => token_file.replace(absolute(key, value)?).is_some(),
            "ca-file" => ca_file.replace(absolute(key, value)?).is_some(),
            "namespace" => namespace.replace(header(key, value)?).is_some(),
            "insecure" if matches!(value, "true" | "false") => {
                std::mem::replace(&mut insecure, value == "true")
            }
            "insecure" => return Err(format!("insecure: {value:?} is neither true nor false")),
            other => {
                return Err(format!(
                    "a vault has no option {other:?}: want token-file, ca-file, namespace or insecure"
                ));
            }
        };
        if is_again {
            return Err(format!("{key} is given twice"));
        }
    }
    let address = url(address, insecure)?;
    if ca_file.is_some() && address.scheme_str() == Some("http") {
        return Err("ca-file is for https:// addresses".to_owned());
    }
    Ok(VaultSource {
        address,
        token_file: token_file.ok_or("token-file is missing: token-file=/PATH")?,
        ca_file,
        namespace,
    })
}

fn header(key: &str, value: &str) -> Result<String, String> {
    let is_fine = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
    match is_fine {
        true => Ok(value.to_owned()),
        false => Err(format!("{key}: {value:?} is no name of one")),
    }
}

fn url(given: &str, insecure: bool) -> Result<Uri, String> {
    let want = || format!("{given:?} is no address of a vault: want https://HOST:8200");
    let uri: Uri = given.parse().map_err(|_| want())?;
    let host = uri
        .host()
        .filter(|host| !host.is_empty())
        .ok_or_else(want)?;
    let has_user = uri.authority().is_some_and(|it| it.as_str().contains('@'));
    if has_user || uri.query().is_some() {
        return Err(want());
    }
    match uri.scheme_str() {
        Some("https") if insecure => {
            Err("insecure=true is for http:// addresses: https:// is always verified".to_owned())
        }
        Some("https") => Ok(uri),
        Some("http") if insecure || is_loopback(host) => Ok(uri),
        Some("http") => Err(format!(
            "{given:?} would show the token and all secrets to the network: use https://, or say insecure=true"
        )),
        _ => Err(want()),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &str) -> Result<StoreOption, String> {
        given.parse()
    }

    #[test]
    fn stores_are_read() {
        let command = read("pass=exec:/usr/local/bin/pass").unwrap();
        assert_eq!(command.name, "pass");
        assert_eq!(
            command.source,
            Source::Command("/usr/local/bin/pass".into())
        );
        let vault = read(
            "v=vault:https://vault.example:8200,token-file=/run/token,ca-file=/etc/ca.pem,namespace=team/a",
        );
        let Source::Vault(vault) = vault.unwrap().source else {
            panic!("it is a vault");
        };
        assert_eq!(vault.address.host(), Some("vault.example"));
        assert_eq!(vault.token_file, Path::new("/run/token"));
        assert_eq!(vault.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
        assert_eq!(vault.namespace.as_deref(), Some("team/a"));
        for plain in [
            "v=vault:http://127.0.0.1:8200,token-file=/t",
            "v=vault:http://localhost:8200,token-file=/t",
            "v=vault:http://[::1]:8200,token-file=/t",
            "v=vault:http://10.0.0.1:8200,token-file=/t,insecure=true",
        ] {
            assert!(read(plain).is_ok(), "{plain}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_part() {
        for (given, why) in [
            ("pass", "want NAME=exec:/PATH"),
            ("pass=/usr/bin/pass", "want NAME=exec:/PATH"),
            ("=exec:/x", "no name of a secret store"),
            ("a=file:/x", "\"file\" is no kind of store"),
            ("a=exec:bin/pass", "exec: \"bin/pass\" is no absolute path"),
            ("a=vault:https://h:8200", "token-file is missing"),
            (
                "a=vault:https://h,token-file=t",
                "token-file: \"t\" is no absolute path",
            ),
            (
                "a=vault:https://h,token-file=/t,ca-file=x",
                "ca-file: \"x\" is no absolute path",
            ),
            (
                "a=vault:https://h,token-file=/t,token-file=/u",
                "token-file is given twice",
            ),
            (
                "a=vault:https://h,token-file=/t,role=x",
                "no option \"role\"",
            ),
            ("a=vault:https://h,token", "\"token\" is not KEY=VALUE"),
            (
                "a=vault:http://h:8200,token-file=/t",
                "use https://, or say insecure=true",
            ),
            (
                "a=vault:https://h,token-file=/t,insecure=true",
                "is for http:// addresses",
            ),
            (
                "a=vault:https://h,token-file=/t,insecure=yes",
                "neither true nor false",
            ),
            (
                "a=vault:http://127.0.0.1,token-file=/t,ca-file=/c",
                "ca-file is for https://",
            ),
            ("a=vault:h:8200,token-file=/t", "no address of a vault"),
            ("a=vault:ftp://h,token-file=/t", "no address of a vault"),
            ("a=vault:https://u@h,token-file=/t", "no address of a vault"),
            (
                "a=vault:https://h,token-file=/t,namespace=",
                "namespace: \"\"",
            ),
        ] {
            let told = read(given).unwrap_err();
            assert!(told.contains(why), "{given}: {told}");
        }
    }

    #[test]
    fn commands_must_be_there_and_be_nobodys_to_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pass");
        let option = format!("pass=exec:{}", path.display());
        let told = |mode: u32| {
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read_all(std::slice::from_ref(&option)).map_err(|(given, why)| {
                assert_eq!(given, option);
                why
            })
        };
        assert_eq!(told(0o700).unwrap().len(), 1);
        assert!(told(0o644).unwrap_err().contains("it is not executable"));
        assert!(told(0o777).unwrap_err().contains("everybody may write"));
        std::fs::remove_file(&path).unwrap();
        // It may come later: the daemon does without it.
        assert_eq!(read_all(std::slice::from_ref(&option)).unwrap().len(), 1);
        let missing = check_command(&path).unwrap_err();
        assert!(missing.contains("No such file"), "{missing}");
        let twice = ["a=exec:/bin/sh", "a=exec:/bin/sh"].map(ToOwned::to_owned);
        let told = read_all(&twice).unwrap_err();
        assert!(told.1.contains("another store \"a\""), "{told:?}");
    }
}
