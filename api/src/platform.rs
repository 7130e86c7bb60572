//! Platforms as clients name them: `linux/arm64/v8`, or JSON from newer ones.

use skep_engine::types::{ImageInspect, Platform};

use crate::state::from_json;
use crate::status::{ApiError, Outcome};

/// Reads the `platform` parameter; empty is none.
pub fn parse(text: &str) -> Outcome<Option<Platform>> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with('{') {
        return from_json(text.as_bytes()).map(Some);
    }
    let parts: Vec<&str> = text.split('/').collect();
    let wrong = || {
        ApiError::invalid(format!(
            "\"{text}\" is an invalid OS or architecture: want os[/architecture[/variant]]"
        ))
    };
    let sound = parts.iter().all(|part| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    });
    if !sound {
        return Err(wrong());
    }
    let (os, architecture, variant) = match parts.as_slice() {
        [one] if is_os(one) => (*one, std::env::consts::ARCH, ""),
        [one] => ("linux", *one, ""),
        [os, architecture] => (*os, *architecture, ""),
        [os, architecture, variant] => (*os, *architecture, *variant),
        _ => return Err(wrong()),
    };
    Ok(Some(Platform {
        architecture: normal(architecture).to_owned(),
        os: os.to_ascii_lowercase(),
        variant: variant.to_owned(),
        ..Platform::default()
    }))
}

fn is_os(word: &str) -> bool {
    matches!(word, "linux" | "windows" | "darwin" | "freebsd")
}

/// Go's name of an architecture.
pub fn normal(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" | "x86" => "386",
        "armhf" => "arm",
        other => other,
    }
}

/// Refuses an image that is there for another platform.
pub fn check(name: &str, wanted: &Platform, image: &ImageInspect) -> Outcome<()> {
    let fits = image.os == wanted.os
        && normal(&image.architecture) == normal(&wanted.architecture)
        && (wanted.variant.is_empty() || image.variant == wanted.variant);
    if fits {
        return Ok(());
    }
    Err(ApiError::not_found(format!(
        "image with reference {name} was found but does not provide the specified platform ({}/{})",
        wanted.os, wanted.architecture
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_in_all_spellings() {
        let check = |text: &str, os: &str, architecture: &str, variant: &str| {
            let platform = parse(text).unwrap().unwrap();
            assert_eq!(
                (
                    platform.os.as_str(),
                    platform.architecture.as_str(),
                    platform.variant.as_str()
                ),
                (os, architecture, variant),
                "{text}"
            );
        };
        check("linux/amd64", "linux", "amd64", "");
        check("linux/arm64/v8", "linux", "arm64", "v8");
        check("aarch64", "linux", "arm64", "");
        check(r#"{"os":"linux","architecture":"arm"}"#, "linux", "arm", "");
        assert!(parse("").unwrap().is_none());
        assert!(parse("a/b/c/d").is_err() && parse("linux//x").is_err());
    }
}
