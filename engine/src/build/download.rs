//! Files from URLs, for `ADD` and for contexts.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, LAST_MODIFIED};
use http_body_util::BodyExt as _;

use super::Build;
use super::workspace::Workspace;
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};

/// How long a server may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A file that was downloaded.
#[derive(Debug, Clone)]
pub(super) struct Downloaded {
    pub(super) path: PathBuf,
    /// As the URL or the server calls it; may be empty.
    pub(super) name: String,
    /// Seconds; 0 when the server does not say.
    pub(super) modified: i64,
    pub(super) content_type: String,
}

/// Whether a source is a URL that `ADD` and contexts take.
pub(super) fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Whether somebody means a repository; only BuildKit clones those.
pub(super) fn is_git(text: &str) -> bool {
    let path = text.split(['#', '?']).next().unwrap_or(text);
    ["git://", "git@", "ssh://", "github.com/"]
        .iter()
        .any(|prefix| text.starts_with(prefix))
        || (is_url(text) && path.ends_with(".git"))
}

impl Build {
    pub(super) async fn download(&self, url: &str) -> Result<Downloaded> {
        download(&self.engine, &self.workspace, url).await
    }
}

pub(super) async fn download(
    engine: &Engine,
    workspace: &Workspace,
    url: &str,
) -> Result<Downloaded> {
    let plain = url.split('#').next().unwrap_or(url);
    let answer = engine.registries.download(plain).await?;
    let status = answer.status();
    if !status.is_success() {
        return Err(EngineError::invalid(format!(
            "failed to GET {url} with status {status}: the server has no such file for us"
        )));
    }
    let header = |name| {
        answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let (kind, disposition, modified) = (
        header(CONTENT_TYPE),
        header(CONTENT_DISPOSITION),
        header(LAST_MODIFIED),
    );
    let path = workspace.directory("download")?.join("file");
    let what = || format!("cannot write `{}`", path.display());
    let mut file = std::fs::File::create_new(&path).during(what)?;
    let mut body = answer.into_body();
    loop {
        let frame = tokio::time::timeout(IDLE_TIMEOUT, body.frame())
            .await
            .map_err(|_| {
                EngineError::unavailable(format!("Get \"{plain}\": the server is silent"))
            })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| {
            EngineError::unavailable(format!("Get \"{plain}\": broken off")).because(error)
        })?;
        if let Ok(data) = frame.into_data() {
            // Pieces are small, and the page cache takes them.
            file.write_all(&data).during(what)?;
        }
    }
    Ok(Downloaded {
        name: name(plain, &disposition),
        modified: jiff::fmt::rfc2822::parse(&modified)
            .map(|moment| moment.timestamp().as_second())
            .unwrap_or(0),
        content_type: kind,
        path,
    })
}

/// The last part of a URL's path, or what the server calls the file.
fn name(url: &str, disposition: &str) -> String {
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = path.split('?').next().unwrap_or(path);
    let from_url = match path.split_once('/') {
        Some((_, path)) => path.rsplit('/').next().unwrap_or_default(),
        None => "",
    };
    let from_server = disposition
        .split(';')
        .filter_map(|part| part.trim().strip_prefix("filename="))
        .map(|name| name.trim_matches('"'))
        .next()
        .unwrap_or_default();
    let name = if from_url.is_empty() {
        from_server
    } else {
        from_url
    };
    Path::new(name)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_by_their_urls() {
        assert_eq!(name("http://h/a/b.tar?x=1", ""), "b.tar");
        assert_eq!(name("http://h/", "attachment; filename=\"../c\""), "c");
        assert_eq!(name("http://h", ""), "");
        assert!(is_git("https://h/x.git#main") && is_git("git@h:x") && !is_git("https://h/x.tar"));
    }
}
