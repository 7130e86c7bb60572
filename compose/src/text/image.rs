//! Image references as tables show them.

/// A sound reference in the short form that tables show, with the tag `latest` where it has
/// neither tag nor digest: `docker.io/library/nginx` becomes `nginx:latest`.
pub(crate) fn familiar(text: &str) -> String {
    let short = text
        .strip_prefix("docker.io/")
        .or_else(|| text.strip_prefix("index.docker.io/"))
        .unwrap_or(text);
    let short = match short.strip_prefix("library/") {
        Some(rest) if !rest.contains('/') => rest,
        _ => short,
    };
    let has_tag = short
        .rsplit_once(':')
        .is_some_and(|(_, tag)| !tag.contains('/'));
    if short.contains('@') || has_tag {
        short.to_owned()
    } else {
        format!("{short}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_shown_in_short() {
        let digest = format!("nginx@sha256:{}", "a".repeat(64));
        for (text, wanted) in [
            ("nginx", "nginx:latest"),
            ("nginx:1", "nginx:1"),
            ("docker.io/library/nginx", "nginx:latest"),
            ("library/nginx:1", "nginx:1"),
            ("docker.io/a/b", "a/b:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            (digest.as_str(), digest.as_str()),
        ] {
            assert_eq!(familiar(text), wanted, "{text}");
        }
    }
}
