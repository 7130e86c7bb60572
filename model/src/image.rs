//! Image references: `[registry/]path[:tag][@digest]`.

/// Why text is no image reference. The texts are the ones docker's users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name must be lowercase")]
    Uppercase,
    #[error("repository name must not be more than 255 characters")]
    TooLong,
}

/// Longest repository name, registry included.
const NAME_LEN_MAX: usize = 255;

/// Whether `text` can name an image.
pub fn check(text: &str) -> Result<(), ImageError> {
    let (name_and_tag, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err(ImageError::Format);
    }
    let (name, tag) = split_tag(name_and_tag);
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(ImageError::Format);
    }
    let (registry, path) = split_registry(name);
    if registry.is_some_and(|registry| !is_registry(registry)) {
        return Err(ImageError::Format);
    }
    if !path.split('/').all(is_component) {
        let lower = path.to_ascii_lowercase();
        return Err(if lower != path && lower.split('/').all(is_component) {
            ImageError::Uppercase
        } else {
            ImageError::Format
        });
    }
    if name.len() > NAME_LEN_MAX {
        return Err(ImageError::TooLong);
    }
    Ok(())
}

/// The registry that `text`, which names an image, names with it; none stands for Docker's.
pub fn registry(text: &str) -> Option<&str> {
    let name = text.split('@').next().unwrap_or(text);
    split_registry(split_tag(name).0).0
}

fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        // A colon before the last slash belongs to the registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.to_lowercase() != first =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

pub(crate) fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let sound_port =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let sound_host = match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    sound_host && sound_port
}

/// Lower-case words joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let mut separator = String::new();
    let mut after_word = false;
    for c in text.chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            let joined = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.bytes().all(|b| b == b'-');
            if !joined || (!after_word && !separator.is_empty()) {
                return false;
            }
            separator.clear();
            after_word = true;
        } else if matches!(c, '.' | '_' | '-') {
            separator.push(c);
        } else {
            return false;
        }
    }
    after_word && separator.is_empty()
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let lower_hex = hex
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match algorithm {
        "sha256" => hex.len() == 64 && lower_hex,
        "sha384" => hex.len() == 96 && lower_hex,
        "sha512" => hex.len() == 128 && lower_hex,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_references_are_told_from_other_text() {
        let digest = "a".repeat(64);
        for good in [
            "nginx",
            "nginx:1.27-alpine",
            "library/nginx",
            "skep/hello:latest",
            "localhost:5000/a/b__c/d-e--f.g:T_1",
            "registry.example.com/x",
            "REGISTRY/x",
            "[::1]:5000/x",
            &format!("nginx@sha256:{digest}"),
            &format!("nginx:1@sha256:{digest}"),
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check("Nginx"), Err(ImageError::Uppercase));
        assert_eq!(check("a/Nginx:1"), Err(ImageError::Uppercase));
        assert_eq!(check(&"a".repeat(256)), Err(ImageError::TooLong));
        for wrong in [
            "",
            " ",
            "a b",
            "nginx:",
            ":1",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a//b",
            "/a",
            "a/",
            "nginx@sha256:abc",
            "nginx:a:b",
            "nginx:/x",
            "https://x/y",
            "a@",
            "ünï",
        ] {
            assert_eq!(check(wrong), Err(ImageError::Format), "{wrong}");
        }
    }

    #[test]
    fn an_image_may_name_its_registry() {
        for (image, wanted) in [
            ("web", None),
            ("web:1", None),
            ("team/web:1", None),
            ("localhost/web", Some("localhost")),
            ("registry:5000/web@sha256:1", Some("registry:5000")),
            ("registry.example/team/web:1", Some("registry.example")),
        ] {
            assert_eq!(registry(image), wanted, "{image}");
        }
    }
}
