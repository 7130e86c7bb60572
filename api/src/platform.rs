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
    let is_sound = |part: &&str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    for (number, part) in parts.iter().enumerate() {
        if !is_sound(part) {
            let what = match number {
                0 => "OS component",
                _ => "component",
            };
            return Err(ApiError::invalid(format!(
                "\"{part}\" is an invalid {what} of \"{text}\": want os[/architecture[/variant]]"
            )));
        }
    }
    let (os, architecture, variant) = match parts.as_slice() {
        [one] if is_os(one) => (*one, std::env::consts::ARCH, ""),
        [one] if is_architecture(one) => ("linux", *one, ""),
        [one] => {
            return Err(ApiError::invalid(format!(
                "\"{one}\": unknown operating system or architecture: invalid argument"
            )));
        }
        [os, architecture] => (*os, *architecture, ""),
        [os, architecture, variant] => (*os, *architecture, *variant),
        _ => {
            return Err(ApiError::invalid(format!(
                "\"{text}\": cannot parse platform specifier: want os[/architecture[/variant]]"
            )));
        }
    };
    Ok(Some(Platform {
        architecture: normal(architecture).to_owned(),
        os: match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        },
        variant: variant.to_owned(),
        ..Platform::default()
    }))
}

/// Reads one of the `platforms` parameters: a platform as JSON, or a list of such.
pub fn parse_several(text: &str) -> Outcome<Vec<Platform>> {
    match text.trim_start().starts_with('[') {
        true => {
            let texts: Vec<serde_json::Value> = from_json(text.as_bytes())?;
            let several = texts.into_iter().map(|one| match one {
                // A list of texts that are JSON themselves, or of objects.
                serde_json::Value::String(one) => parse(&one).map(Option::unwrap_or_default),
                one => from_json(one.to_string().as_bytes()),
            });
            several.collect()
        }
        false => Ok(parse(text)?.into_iter().collect()),
    }
}

fn is_os(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "aix"
            | "android"
            | "darwin"
            | "dragonfly"
            | "freebsd"
            | "illumos"
            | "ios"
            | "linux"
            | "macos"
            | "netbsd"
            | "openbsd"
            | "plan9"
            | "solaris"
            | "windows"
    )
}

fn is_architecture(word: &str) -> bool {
    matches!(
        normal(word),
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "loong64"
            | "mips"
            | "mips64"
            | "mips64le"
            | "mipsle"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
    )
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
        check("macos/arm64", "darwin", "arm64", "");
        let unknown = parse("foobar").unwrap_err();
        assert!(
            unknown
                .message()
                .contains("unknown operating system or architecture")
        );
        check(r#"{"os":"linux","architecture":"arm"}"#, "linux", "arm", "");
        assert!(parse("").unwrap().is_none());
        assert!(parse("a/b/c/d").is_err() && parse("linux//x").is_err());
    }
}
