//! Which root certificate an update of the settings asks for.

use skep_model::ControlError;
use skep_model::cluster::{CaConfig, RootCa};
use skep_model::external_ca::ExternalCa;
use skep_model::node::TlsInfo;

/// The root that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootWish<'a> {
    /// The one that there is, or that nodes change over to already.
    Keep,
    /// A new one.
    Generate,
    /// One that somebody brings, PEM.
    Take { cert: &'a str, key: &'a str },
    /// One whose key an external authority has, PEM.
    Adopt { cert: &'a str },
}

/// The cluster's authority as it is to be next: keys are made outside of this crate, for what
/// [`root_wish`] says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NextRoot {
    pub root_ca: RootCa,
    /// Its present root, and who signs.
    pub tls_info: TlsInfo,
}

/// Which root `wanted` asks for. What cannot be is refused: saying yes and doing nothing would
/// leave the cluster with the authority that somebody wants to be rid of.
pub fn root_wish<'a>(root: &RootCa, wanted: &'a CaConfig) -> Result<RootWish<'a>, ControlError> {
    let external = ExternalCa::read(&wanted.external_cas)?;
    let (cert, key) = (&wanted.signing_ca_cert, &wanted.signing_ca_key);
    match (cert.trim(), key.trim()) {
        ("", "") if wanted.force_rotate == root.last_forced_rotation => Ok(RootWish::Keep),
        ("", "") => Ok(RootWish::Generate),
        ("", _) => Err(ControlError::invalid(
            "if a signing CA key is provided, the signing CA cert must also be provided",
        )),
        (_, "") if external.iter().any(|ca| ca.signs_for(cert, false)) => {
            Ok(RootWish::Adopt { cert })
        }
        (_, "") => Err(ControlError::invalid(
            "there must be at least one valid, reachable external CA corresponding to the desired CA certificate: name one with `--external-ca`, or give the certificate's key with `--ca-key`",
        )),
        (_, _) => Ok(RootWish::Take { cert, key }),
    }
}

/// Refuses authorities that would never be asked: they sign for none of the cluster's roots. Those
/// that were there before may stay. Refuses as well to be left with nobody who signs.
pub(super) fn check_external(
    before: &CaConfig,
    wanted: &CaConfig,
    root: &RootCa,
) -> Result<(), ControlError> {
    let next = root.rotation.as_ref().map(|rotation| &*rotation.cert);
    // What cannot be read any more, signs for nobody.
    let before = ExternalCa::read(&before.external_cas).unwrap_or_default();
    let wanted = ExternalCa::read(&wanted.external_cas)?;
    for ca in &wanted {
        let is_used = ca.signs_for(&root.cert, true)
            || next.is_some_and(|next| ca.signs_for(next, false))
            || before.iter().any(|known| known.is_same(ca));
        if !is_used {
            return Err(ControlError::invalid(format!(
                "the external CA {} signs for another root than the swarm's: `swarm ca --rotate --ca-cert CERT --external-ca …` rotates to its root",
                ca.url
            )));
        }
    }
    check_somebody_signs(&wanted, root)
}

/// The root that signs now needs its key, or an authority outside that has it: nobody could get or renew
/// a certificate, and no other root could follow.
fn check_somebody_signs(wanted: &[ExternalCa], root: &RootCa) -> Result<(), ControlError> {
    let (cert, key, is_present) = match &root.rotation {
        None => (&root.cert, &root.key, true),
        Some(next) => (&next.cert, &next.key, false),
    };
    // Clusters of tests have no root.
    let has_key = !key.is_empty() || cert.is_empty();
    if has_key || wanted.iter().any(|ca| ca.signs_for(cert, is_present)) {
        return Ok(());
    }
    Err(ControlError::invalid(
        "there must be at least one external CA for the swarm's root, whose key the swarm does not have: keep it in `--external-ca`, or bring the key with `swarm ca --rotate --ca-cert CERT --ca-key KEY`",
    ))
}

#[cfg(test)]
mod tests {
    use skep_model::cluster::RootRotation;

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
                Ok(RootWish::Adopt { cert }) => format!("adopt {cert}"),
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
    }

    #[test]
    fn a_root_without_its_key_needs_an_authority_that_signs_for_it() {
        let root = RootCa {
            cert: "present".to_owned(),
            key: "key".to_owned(),
            ..RootCa::default()
        };
        let with = |ca_cert: &str, cert: &str| CaConfig {
            signing_ca_cert: cert.to_owned(),
            external_cas: vec![serde_json::json!({"URL": "https://ca/", "CACert": ca_cert})],
            ..CaConfig::default()
        };
        let wish = |config: &CaConfig| {
            let adopts = matches!(root_wish(&root, config), Ok(RootWish::Adopt { .. }));
            adopts || matches!(root_wish(&root, config), Ok(RootWish::Keep))
        };
        assert!(wish(&with("next", "next")) && wish(&with("present", "")));
        let other = with("other", "next");
        let refused = root_wish(&root, &other).unwrap_err();
        assert!(
            refused
                .message
                .contains("at least one valid, reachable external CA")
        );

        let none = CaConfig::default();
        assert_eq!(check_external(&none, &with("present", ""), &root), Ok(()));
        assert_eq!(check_external(&none, &with("", ""), &root), Ok(()));
        let refused = check_external(&none, &with("next", ""), &root).unwrap_err();
        assert!(refused.message.contains("https://ca/"), "{refused}");
        // What is left of a rotation does not stand in the way of other changes.
        assert_eq!(
            check_external(&with("next", ""), &with("next", ""), &root),
            Ok(())
        );
    }

    #[test]
    fn a_root_whose_key_is_elsewhere_is_not_left_without_an_authority() {
        let root = |key: &str, next: Option<&str>| RootCa {
            cert: "present".to_owned(),
            key: key.to_owned(),
            rotation: next.map(|key| RootRotation {
                cert: "next".to_owned(),
                key: key.to_owned(),
                ..RootRotation::default()
            }),
            ..RootCa::default()
        };
        let of = |certs: &[&str]| CaConfig {
            external_cas: certs
                .iter()
                .map(|cert| serde_json::json!({"URL": "https://ca/", "CACert": cert}))
                .collect(),
            ..CaConfig::default()
        };
        let before = of(&["present", "next", "gone"]);
        let check = |certs: &[&str], root: &RootCa| check_external(&before, &of(certs), root);
        for (root, good, bad) in [
            (root("", None), "present", "gone"),
            (root("key", Some("")), "next", "present"),
            (root("", Some("")), "next", "present"),
        ] {
            assert_eq!(check(&[bad, good], &root), Ok(()));
            for certs in [&[][..], &[bad]] {
                let refused = check(certs, &root).unwrap_err();
                assert!(refused.message.contains("whose key the swarm does not"));
            }
        }
        for has_key in [
            root("key", None),
            root("key", Some("key")),
            root("", Some("key")),
        ] {
            assert_eq!(check(&[], &has_key), Ok(()));
        }
    }
}
