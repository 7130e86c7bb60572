//! Names of images: `[host/]path[:tag][@digest]`.

/// A name taken apart. The short forms of Docker Hub's names are kept short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As people write it: `nginx`, not `docker.io/library/nginx`.
    pub name: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name. `None` when it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let name = name.strip_prefix("library/").unwrap_or(name);
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
            _ => ("", name),
        };
        let component = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        let sound_host = host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
        let sound_tag = tag.as_ref().is_none_or(|tag| {
            !tag.is_empty()
                && tag.len() <= 128
                && tag
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        });
        let sound_digest = digest.as_ref().is_none_or(|digest| {
            digest.split_once(':').is_some_and(|(kind, hex)| {
                !kind.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
            })
        });
        if !(path.split('/').all(component) && sound_host && sound_tag && sound_digest) {
            return None;
        }
        // 64 hexadecimal digits are an id.
        if host.is_empty()
            && tag.is_none()
            && digest.is_none()
            && path.len() == 64
            && path.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            tag,
            digest,
        })
    }

    /// Reads a name that must be one. The error is docker's.
    pub fn required(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| {
            let path = text.split([':', '@']).next().unwrap_or(text);
            if Self::parse(&text.to_lowercase()).is_none() {
                "invalid reference format".to_owned()
            } else if path.contains('/') {
                format!("invalid reference format: repository name ({path}) must be lowercase")
            } else {
                format!(
                    "invalid reference format: repository name (library/{path}) must be lowercase"
                )
            }
        })
    }

    /// With `:latest` if it says neither tag nor digest.
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// What tables show of an image: a name with a tag loses its digest.
pub fn without_digest(image: &str) -> String {
    match Reference::parse(image) {
        Some(Reference {
            name,
            tag: Some(tag),
            ..
        }) => format!("{name}:{tag}"),
        _ => image.to_owned(),
    }
}

/// The repository and the tag that an import or commit gives: both empty for no name.
pub fn repository_and_tag(text: &str) -> Result<(String, String), String> {
    if text.is_empty() {
        return Ok((String::new(), String::new()));
    }
    let reference = Reference::required(text)?.with_default_tag();
    Ok((reference.name, reference.tag.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_shortened() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, shown) in [
            ("nginx", "nginx:latest"),
            ("docker.io/library/nginx", "nginx:latest"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
            ("a/b", "a/b:latest"),
        ] {
            assert_eq!(
                Reference::parse(text)
                    .unwrap()
                    .with_default_tag()
                    .to_string(),
                shown
            );
        }
        assert_eq!(without_digest(&format!("nginx:1@{digest}")), "nginx:1");
        assert_eq!(
            without_digest(&format!("nginx@{digest}")),
            format!("nginx@{digest}")
        );
        for wrong in ["", "Nginx", "a//b", "a:b c", "-a", &"a".repeat(64)] {
            assert_eq!(Reference::parse(wrong), None, "{wrong}");
        }
    }
}
