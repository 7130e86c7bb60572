//! `~/.docker/config.json`: output formats, credentials, the current context.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use sha2::{Digest, Sha256};

use crate::json::Json;

/// A configuration file is smaller than this.
const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Registry whose credentials are kept under another name.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The client's configuration; empty when there is none.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    pub directory: PathBuf,
    json: Json,
}

/// Where a daemon is and how it is spoken to, as `docker context create` keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// Its address.
    pub host: String,
    /// Directory with `ca.pem`, `cert.pem` and `key.pem`, if it has any of them.
    pub tls: Option<PathBuf>,
    /// Whether the daemon's certificate is not checked.
    pub skips_verification: bool,
}

/// Who to be at a registry.
#[derive(Clone, Default)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    pub identity_token: String,
    pub server: String,
}

impl ConfigFile {
    /// Reads `config.json` in `--config`, `$DOCKER_CONFIG` or `~/.docker`.
    pub fn load(directory: Option<&str>, env: &BTreeMap<String, String>) -> Result<Self, String> {
        let directory = directory
            .map(PathBuf::from)
            .or_else(|| {
                env.get("DOCKER_CONFIG")
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from)
            })
            .or_else(|| env.get("HOME").map(|home| Path::new(home).join(".docker")))
            .unwrap_or_default();
        let path = directory.join("config.json");
        let json = match std::fs::metadata(&path) {
            Err(_) => Json::Null,
            Ok(meta) if meta.len() > CONFIG_BYTES_MAX => {
                return Err(format!("{}: file is too large", path.display()));
            }
            Ok(_) => {
                let text =
                    std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                Json::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?
            }
        };
        Ok(Self { directory, json })
    }

    /// The value of a key such as `servicesFormat`.
    pub fn text(&self, key: &str) -> &str {
        self.json.str(key)
    }

    /// `pruneFilters`: what `prune` leaves alone.
    pub fn prune_filters(&self) -> Vec<&str> {
        self.json.texts("pruneFilters")
    }

    /// `HttpHeaders`, sent with each request.
    pub fn http_headers(&self) -> BTreeMap<String, String> {
        self.json.text_map("HttpHeaders")
    }

    /// A context by name.
    pub fn context(&self, name: &str) -> Result<Context, String> {
        let digest = hex::encode(Sha256::digest(name.as_bytes()));
        let tls = self
            .directory
            .join("contexts/tls")
            .join(&digest)
            .join("docker");
        let path = self
            .directory
            .join("contexts/meta")
            .join(digest)
            .join("meta.json");
        let text = std::fs::read(&path)
            .map_err(|_| format!("context {}: context not found", crate::human::quote(name)))?;
        let meta = Json::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        match meta.str("Endpoints.docker.Host") {
            "" => Err(format!(
                "context {} has no docker endpoint",
                crate::human::quote(name)
            )),
            host => Ok(Context {
                host: host.to_owned(),
                skips_verification: meta.bool("Endpoints.docker.SkipTLSVerify"),
                tls: tls.is_dir().then_some(tls),
            }),
        }
    }

    /// The `X-Registry-Auth` header for an image, `None` when its registry is not logged in to.
    pub fn registry_auth(&self, image: &str) -> Option<String> {
        let credentials = self.credentials(&registry_of(image))?;
        let json = serde_json::json!({
            "username": credentials.username,
            "password": credentials.password,
            "identitytoken": credentials.identity_token,
            "serveraddress": credentials.server,
        });
        Some(URL_SAFE.encode(json.to_string()))
    }

    /// The same, and `{}` when there is nothing to say: pushes want the header all the same.
    pub fn auth_header(&self, image: &str) -> String {
        self.registry_auth(image)
            .unwrap_or_else(|| URL_SAFE.encode("{}"))
    }

    /// The `X-Registry-Config` header: credentials of every registry that is logged in to.
    pub fn all_auths_header(&self) -> String {
        let mut all = serde_json::Map::new();
        let servers = ["auths", "credHelpers"]
            .into_iter()
            .flat_map(|list| self.json.fields(list))
            .map(|(server, _)| server);
        for server in servers {
            let registry = match server.as_str() {
                DOCKER_HUB => "docker.io",
                other => {
                    let host = other.split_once("://").map_or(other, |(_, host)| host);
                    host.split('/').next().unwrap_or(host)
                }
            };
            if let Some(credentials) = self.credentials(registry) {
                all.insert(
                    server.clone(),
                    serde_json::json!({
                        "username": credentials.username,
                        "password": credentials.password,
                        "identitytoken": credentials.identity_token,
                        "serveraddress": credentials.server,
                    }),
                );
            }
        }
        URL_SAFE.encode(serde_json::Value::Object(all).to_string())
    }

    /// Writes what is known of a registry, or forgets it. The file is replaced as a whole and only
    /// its owner can read it.
    pub fn store_auth(&self, server: &str, entry: Option<serde_json::Value>) -> Result<(), String> {
        if !self.json.str("credsStore").is_empty() {
            return Err(format!(
                "credentials are kept by docker-credential-{}: use it to change them",
                self.json.str("credsStore")
            ));
        }
        let path = self.directory.join("config.json");
        let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut config: serde_json::Value = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| format!("{}: {error}", path.display()))?,
            Err(_) => serde_json::json!({}),
        };
        match entry {
            Some(entry) => config["auths"][server] = entry,
            None => {
                if let Some(auths) = config["auths"].as_object_mut() {
                    auths.remove(server);
                }
            }
        }
        let text = crate::json::indent(&config.to_string());
        std::fs::create_dir_all(&self.directory).map_err(wrong)?;
        let partial = self
            .directory
            .join(format!("config.json.{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options
            .write(true)
            .create(true)
            .truncate(true)
            .open(&partial)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())
                    .and_then(|()| file.sync_all())
            })
            .and_then(|()| std::fs::rename(&partial, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        written.map_err(wrong)
    }

    /// What a login has left for a registry.
    pub fn credentials(&self, registry: &str) -> Option<Credentials> {
        let server = if registry == "docker.io" {
            DOCKER_HUB
        } else {
            registry
        };
        let helper = match self
            .json
            .get("credHelpers")
            .and_then(|helpers| helpers.get(server))
        {
            Some(Json::Text(helper)) => helper.as_str(),
            _ => self.json.str("credsStore"),
        };
        if !helper.is_empty() {
            return ask_helper(helper, server);
        }
        let auths = self.json.get("auths")?;
        let names = [
            server.to_owned(),
            format!("https://{server}"),
            format!("https://{server}/"),
            format!("https://{server}/v1/"),
            format!("https://{server}/v2/"),
        ];
        let entry = names.iter().find_map(|name| auths.get(name))?;
        let decoded = STANDARD.decode(entry.str("auth")).unwrap_or_default();
        let pair = String::from_utf8_lossy(&decoded)
            .trim_end_matches('\0')
            .to_owned();
        let (username, password) = pair.split_once(':').unwrap_or((&pair, ""));
        Some(Credentials {
            username: username.to_owned(),
            password: password.to_owned(),
            identity_token: entry.str("identitytoken").to_owned(),
            server: server.to_owned(),
        })
    }
}

/// Asks `docker-credential-HELPER` for what it keeps about a registry.
fn ask_helper(helper: &str, server: &str) -> Option<Credentials> {
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(server.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    if !output.status.success() {
        return None;
    }
    let answer = Json::parse(&output.stdout).ok()?;
    let (username, secret) = (
        answer.str("Username").to_owned(),
        answer.str("Secret").to_owned(),
    );
    // A helper that keeps a token says so in place of a name.
    Some(if username == "<token>" {
        Credentials {
            identity_token: secret,
            server: server.to_owned(),
            ..Default::default()
        }
    } else {
        Credentials {
            username,
            password: secret,
            server: server.to_owned(),
            ..Default::default()
        }
    })
}

/// The registry an image is on: what stands before the first slash, if it looks like a host.
pub fn registry_of(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => {
            if host == "index.docker.io" {
                "docker.io".to_owned()
            } else {
                host.to_owned()
            }
        }
        _ => "docker.io".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_auths() {
        let directory = tempfile::tempdir().unwrap();
        let auth = STANDARD.encode("me:se:cret");
        std::fs::write(
            directory.path().join("config.json"),
            format!(
                r#"{{"auths":{{"registry.example:5000":{{"auth":"{auth}"}}}},"psFormat":"x"}}"#
            ),
        )
        .unwrap();
        let config = ConfigFile::load(directory.path().to_str(), &BTreeMap::new()).unwrap();
        assert_eq!(config.text("psFormat"), "x");
        let header = config
            .registry_auth("registry.example:5000/team/app:1")
            .unwrap();
        let header = Json::parse(&URL_SAFE.decode(header).unwrap()).unwrap();
        assert_eq!(header.str("username"), "me");
        assert_eq!(header.str("password"), "se:cret");
        assert!(config.registry_auth("alpine").is_none());
    }

    #[test]
    fn registries_are_told_from_paths() {
        for (image, registry) in [
            ("alpine", "docker.io"),
            ("library/alpine:3", "docker.io"),
            ("localhost/x", "localhost"),
            ("host:5000/x/y@sha256:00", "host:5000"),
            ("registry.example/x", "registry.example"),
        ] {
            assert_eq!(registry_of(image), registry, "{image}");
        }
    }
}
