//! Manifests, indexes and image configurations, of OCI and of Docker v2.2.

use serde::{Deserialize, Serialize};
use skep_model::Timestamp;

use super::digest::Digest;
use crate::error::{EngineError, IoContext as _, Result};
use crate::types::{Descriptor, ImageConfig, Platform};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What we ask a registry for, best first.
pub(crate) const ACCEPTED: [&str; 4] = [DOCKER_MANIFEST, DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST];

/// Largest manifest, index or configuration read; the registries' own bound.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Most layers of one image; overlayfs can stack more, no image has them.
pub(crate) const LAYERS_MAX: usize = 512;

/// A manifest or an index: whichever of the lists is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Document {
    pub(crate) schema_version: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layers: Option<Vec<Descriptor>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) manifests: Option<Vec<Descriptor>>,
}

/// What a document turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Image {
        config: Box<Descriptor>,
        layers: Vec<Descriptor>,
    },
    Index {
        manifests: Vec<Descriptor>,
    },
}

impl Document {
    /// Reads a document and says what it is.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Kind> {
        let document: Self = serde_json::from_slice(bytes).during(|| "invalid manifest".into())?;
        match document {
            Self {
                schema_version: 1, ..
            } => Err(EngineError::invalid(
                "unsupported manifest: schema 1 is no longer supported",
            )),
            Self {
                manifests: Some(manifests),
                ..
            } => Ok(Kind::Index { manifests }),
            Self {
                config: Some(config),
                layers,
                ..
            } => {
                let layers = layers.unwrap_or_default();
                if layers.len() > LAYERS_MAX {
                    return Err(EngineError::invalid(format!(
                        "manifest has {} layers, more than {LAYERS_MAX}",
                        layers.len()
                    )));
                }
                Ok(Kind::Image {
                    config: Box::new(config),
                    layers,
                })
            }
            _ => Err(EngineError::invalid(
                "invalid manifest: neither an image nor an index",
            )),
        }
    }

    /// The bytes of an OCI manifest of ours.
    pub(crate) fn image(config: Descriptor, layers: Vec<Descriptor>) -> Vec<u8> {
        serde_json::to_vec(&Self {
            schema_version: 2,
            media_type: OCI_MANIFEST.into(),
            config: Some(config),
            layers: Some(layers),
            manifests: None,
        })
        .expect("descriptors are plain data")
    }
}

/// The configuration of an image; its digest is the image's id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigFile {
    #[serde(deserialize_with = "crate::types::null_default")]
    pub(crate) architecture: String,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "crate::types::null_default"
    )]
    pub(crate) variant: String,
    #[serde(deserialize_with = "crate::types::null_default")]
    pub(crate) os: String,
    #[serde(
        rename = "os.version",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "crate::types::null_default"
    )]
    pub(crate) os_version: String,
    #[serde(deserialize_with = "crate::types::null_default")]
    pub(crate) created: Timestamp,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "crate::types::null_default"
    )]
    pub(crate) author: String,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "crate::types::null_default"
    )]
    pub(crate) comment: String,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "crate::types::null_default"
    )]
    pub(crate) docker_version: String,
    #[serde(deserialize_with = "crate::types::null_default")]
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: RootFs,
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::types::null_default"
    )]
    pub(crate) history: Vec<History>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "crate::types::null_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct History {
    #[serde(deserialize_with = "crate::types::null_default")]
    pub(crate) created: Timestamp,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "crate::types::null_default"
    )]
    pub(crate) created_by: String,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "crate::types::null_default"
    )]
    pub(crate) author: String,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "crate::types::null_default"
    )]
    pub(crate) comment: String,
    #[serde(skip_serializing_if = "crate::types::is_default")]
    pub(crate) empty_layer: bool,
}

impl ConfigFile {
    /// Reads a configuration.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|error| EngineError::invalid("invalid image configuration").because(error))?;
        if config.rootfs.diff_ids.len() > LAYERS_MAX {
            return Err(EngineError::invalid(
                "image configuration has too many layers",
            ));
        }
        Ok(config)
    }

    pub(crate) fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            variant: self.variant.clone(),
            ..Platform::default()
        }
    }
}

/// The digest of a descriptor.
pub(crate) fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    descriptor.digest.parse()
}

/// What this host runs, in the words of image platforms.
pub(crate) fn host_platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "x86" => ("386", ""),
        "aarch64" => ("arm64", "v8"),
        "arm" => ("arm", "v7"),
        "powerpc64" => ("ppc64le", ""),
        other => (other, ""),
    };
    Platform {
        architecture: architecture.into(),
        os: "linux".into(),
        variant: variant.into(),
        ..Platform::default()
    }
}

/// Reads `os[/arch[/variant]]`; an architecture alone is of linux.
pub(crate) fn parse_platform(text: &str) -> Result<Platform> {
    let wrong = || {
        EngineError::invalid(format!(
            "\"{text}\" is an invalid OS component of platform or has unknown parts"
        ))
    };
    let known_os = |os: &str| matches!(os, "linux" | "windows" | "darwin" | "freebsd");
    let parts: Vec<&str> = text.split('/').collect();
    let host = host_platform();
    let (os, architecture, variant) = match parts[..] {
        [os] if known_os(os) => (os, host.architecture.as_str(), ""),
        [architecture] if !architecture.is_empty() => ("linux", architecture, ""),
        [os, architecture] if known_os(os) => (os, architecture, ""),
        [os, architecture, variant] if known_os(os) => (os, architecture, variant),
        _ => return Err(wrong()),
    };
    let (architecture, variant) = match (architecture, variant) {
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", "v8"),
        ("armhf", "") | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", "") => ("arm", "v6"),
        ("i386", variant) => ("386", variant),
        given => given,
    };
    Ok(Platform {
        architecture: architecture.into(),
        os: os.into(),
        variant: variant.into(),
        ..Platform::default()
    })
}

/// Whether something for `offered` runs on `wanted`. An absent variant fits any;
/// a host of ARM v7 runs what was made for v6 and v5.
pub(crate) fn platform_fits(offered: &Platform, wanted: &Platform) -> bool {
    let level = |variant: &str| variant.trim_start_matches('v').parse::<u32>().ok();
    offered.os == wanted.os
        && offered.architecture == wanted.architecture
        && match (level(&offered.variant), level(&wanted.variant)) {
            (Some(offered), Some(wanted)) => offered <= wanted,
            _ => true,
        }
}

/// The manifest of an index that fits best: the highest variant among those that
/// fit, the first of equals. Attestations and the like name an unknown platform.
pub(crate) fn select<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Option<&'a Descriptor> {
    let mut best: Option<&Descriptor> = None;
    for manifest in manifests {
        let Some(platform) = &manifest.platform else {
            continue;
        };
        if !platform_fits(platform, wanted) {
            continue;
        }
        let better = best.is_none_or(|best| {
            let variant = best.platform.as_ref().map_or("", |p| p.variant.as_str());
            platform.variant.as_str() > variant
        });
        if better {
            best = Some(manifest);
        }
    }
    // An index of one image that does not say its platform is that image.
    best.or(match manifests {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(os: &str, architecture: &str, variant: &str) -> Descriptor {
        Descriptor {
            digest: format!("{os}/{architecture}/{variant}"),
            platform: Some(Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.into(),
                ..Platform::default()
            }),
            ..Descriptor::default()
        }
    }

    #[test]
    fn the_best_fitting_platform_is_taken() {
        let index = [
            offered("windows", "amd64", ""),
            offered("unknown", "unknown", ""),
            offered("linux", "arm", "v5"),
            offered("linux", "arm", "v7"),
            offered("linux", "arm64", "v8"),
            offered("linux", "amd64", ""),
        ];
        let check = |wanted: &str, expected: Option<&str>| {
            let chosen = select(&index, &parse_platform(wanted).unwrap());
            assert_eq!(chosen.map(|d| d.digest.as_str()), expected, "{wanted}");
        };
        check("linux/amd64", Some("linux/amd64/"));
        check("linux/arm64", Some("linux/arm64/v8"));
        check("linux/arm", Some("linux/arm/v7"));
        check("linux/arm/v6", Some("linux/arm/v5"));
        check("linux/s390x", None);
    }

    #[test]
    fn a_document_says_what_it_is() {
        let image = Document::image(Descriptor::default(), vec![]);
        assert!(matches!(Document::parse(&image), Ok(Kind::Image { .. })));
        assert!(matches!(
            Document::parse(br#"{"schemaVersion":2,"manifests":[]}"#),
            Ok(Kind::Index { .. })
        ));
        assert!(Document::parse(br#"{"schemaVersion":1,"fsLayers":[]}"#).is_err());
        assert!(Document::parse(b"{}").is_err());
        assert!(Document::parse(b"<html>").is_err());
    }
}
