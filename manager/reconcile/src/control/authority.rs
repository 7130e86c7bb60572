//! Which root certificate an update of the settings asks for.

use skep_model::cluster::{CaConfig, RootCa};
use skep_model::node::TlsInfo;
use skep_model::{ControlError, Kind};

/// The root that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootWish<'a> {
    /// The one that there is, or that nodes change over to already.
    Keep,
    /// A new one.
    Generate,
    /// One that somebody brings, PEM.
    Take { cert: &'a str, key: &'a str },
}

/// The cluster's authority as it is to be next: keys are made outside of this crate, for what
/// [`root_wish`] says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NextRoot {
    pub root_ca: RootCa,
    /// Its present root, and who signs.
    pub tls_info: TlsInfo,
}

/// Which root `wanted` asks for. What is not offered is refused: saying yes and doing nothing would
/// leave the cluster with the authority that somebody wants to be rid of.
pub fn root_wish<'a>(root: &RootCa, wanted: &'a CaConfig) -> Result<RootWish<'a>, ControlError> {
    if !wanted.external_cas.is_empty() {
        return Err(ControlError::new(
            Kind::Unimplemented,
            "an external certificate authority (`--external-ca`) is not offered yet: nothing was changed",
        ));
    }
    let (cert, key) = (&wanted.signing_ca_cert, &wanted.signing_ca_key);
    match (cert.trim(), key.trim()) {
        ("", "") if wanted.force_rotate == root.last_forced_rotation => Ok(RootWish::Keep),
        ("", "") => Ok(RootWish::Generate),
        ("", _) => Err(ControlError::invalid(
            "if a signing CA key is provided, the signing CA cert must also be provided",
        )),
        (_, "") => Err(ControlError::invalid(
            "there must be at least one valid, reachable external CA corresponding to the desired CA certificate: give the certificate's key with `--ca-key`",
        )),
        (_, _) => Ok(RootWish::Take { cert, key }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_made_when_the_counter_moves_and_taken_when_it_is_brought() {
        let root = RootCa {
            last_forced_rotation: 3,
            ..RootCa::default()
        };
        let wish = |force_rotate: u64, cert: &str, key: &str| {
            let wanted = CaConfig {
                force_rotate,
                signing_ca_cert: cert.to_owned(),
                signing_ca_key: key.to_owned(),
                ..CaConfig::default()
            };
            match root_wish(&root, &wanted) {
                Ok(RootWish::Keep) => "keep".to_owned(),
                Ok(RootWish::Generate) => "generate".to_owned(),
                Ok(RootWish::Take { cert, key }) => format!("take {cert} {key}"),
                Err(error) => error.message,
            }
        };
        assert_eq!(wish(3, "", ""), "keep");
        assert_eq!(wish(4, "", "\n"), "generate");
        // An older client that drops the counter asks for a rotation, as with Swarm.
        assert_eq!(wish(0, "", ""), "generate");
        assert_eq!(wish(3, "c", "k"), "take c k");
        assert_eq!(wish(9, "c", "k"), "take c k");
        assert!(wish(3, "", "k").contains("the signing CA cert must also be provided"));
        assert!(wish(3, "c", "").contains("at least one valid, reachable external CA"));
        let external = CaConfig {
            external_cas: vec![serde_json::json!({"URL": "https://ca"})],
            ..CaConfig::default()
        };
        let refused = root_wish(&root, &external).unwrap_err();
        assert_eq!(refused.kind, Kind::Unimplemented);
        assert!(refused.message.contains("--external-ca"));
    }
}
