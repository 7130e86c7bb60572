//! Makes the root certificates that updates of the cluster ask for.

use skep_model::cluster::{CaConfig, RootCa, RootRotation};
use skep_model::{Cluster, ControlError, ControlRequest, Kind, Timestamp};
use skep_pki::authority::{NewRoot, generate_root};
use skep_pki::identity::tls_info;
use skep_pki::root::{RootError, check_root, check_root_cert, cross_sign, normalize, same_key};
use skep_pki::token::root_digest;
use skep_reconcile::control::{NextRoot, RootWish, root_wish};
use skep_store::Snapshot;

/// The authority that a request asks for; `None` when it asks for none.
pub fn for_request(
    request: &ControlRequest,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<Option<NextRoot>, ControlError> {
    match (request, snapshot.cluster()) {
        (ControlRequest::UpdateCluster { spec, .. }, Some(cluster)) => {
            next(cluster, &spec.ca_config, now)
        }
        _ => Ok(None),
    }
}

/// The first root of a cluster: made, or the one that somebody brings.
pub fn first(wanted: &CaConfig, now: Timestamp) -> Result<RootCa, ControlError> {
    // Nothing is there yet that the counter could ask to replace.
    let none = RootCa {
        last_forced_rotation: wanted.force_rotate,
        ..RootCa::default()
    };
    let root = match root_wish(&none, wanted)? {
        RootWish::Keep | RootWish::Generate if wanted.external_cas.is_empty() => generate(now)?,
        RootWish::Take { cert, key } => check_root(cert, key, now).map_err(refused)?,
        // It would sign for a root whose key nobody outside has, or for nobody who could ask it.
        RootWish::Keep | RootWish::Generate | RootWish::Adopt { .. } => {
            return Err(ControlError::new(
                Kind::FailedPrecondition,
                "a new swarm makes its own first certificates: init it without `--external-ca`, then run `swarm ca --rotate --ca-cert CERT --external-ca protocol=cfssl,url=URL`",
            ));
        }
    };
    Ok(RootCa {
        cert: root.cert_pem,
        key: root.key_pem,
        ..none
    })
}

fn next(
    cluster: &Cluster,
    wanted: &CaConfig,
    now: Timestamp,
) -> Result<Option<NextRoot>, ControlError> {
    let present = &cluster.root_ca;
    let forced = wanted.force_rotate;
    let given = match root_wish(present, wanted)? {
        RootWish::Keep => return Ok(None),
        RootWish::Generate => return begin(present, generate(now)?, forced, now).map(Some),
        RootWish::Take { cert, key } => check_root(cert, key, now).map_err(refused)?,
        RootWish::Adopt { cert } => NewRoot {
            cert_pem: check_root_cert(cert, now).map_err(refused)?,
            key_pem: String::new(),
        },
    };
    let same = |pem: &str| normalize(pem).is_ok_and(|certs| certs == [given.cert_pem.as_str()]);
    // Back to the present root, or for the second time to the next one.
    if same(&present.cert) {
        let root_ca = RootCa {
            key: given.key_pem,
            rotation: None,
            last_forced_rotation: forced,
            ..present.clone()
        };
        return Ok(Some(told(root_ca)));
    }
    if same_key(&present.cert, &given.cert_pem) {
        return Err(ControlError::invalid(
            "Cannot update to a cert with an identical key",
        ));
    }
    match &present.rotation {
        Some(rotation) if same(&rotation.cert) => {
            let rotation = RootRotation {
                key: given.key_pem,
                ..rotation.clone()
            };
            Ok(Some(told(RootCa {
                rotation: Some(rotation),
                last_forced_rotation: forced,
                ..present.clone()
            })))
        }
        Some(_) | None => begin(present, given, forced, now).map(Some),
    }
}

/// The present root signs the next one, also when another rotation was under way: that root is known
/// to some nodes only, the present one to all.
fn begin(
    present: &RootCa,
    new: NewRoot,
    forced: u64,
    now: Timestamp,
) -> Result<NextRoot, ControlError> {
    if present.key.is_empty() {
        return Err(ControlError::new(
            Kind::FailedPrecondition,
            "the present root must sign the next one, and an external CA has its key: bring it back first, with `swarm ca --rotate --ca-cert PRESENT --ca-key KEY`",
        ));
    }
    let old = NewRoot {
        cert_pem: present.cert.clone(),
        key_pem: present.key.clone(),
    };
    let cross_signed = cross_sign(&old, &new.cert_pem, now).map_err(refused)?;
    Ok(told(RootCa {
        rotation: Some(RootRotation {
            pinned: root_digest(&new.cert_pem),
            cert: new.cert_pem,
            key: new.key_pem,
            cross_signed,
        }),
        last_forced_rotation: forced,
        ..present.clone()
    }))
}

fn told(root_ca: RootCa) -> NextRoot {
    let issuer = root_ca.rotation.as_ref().map(|rotation| &rotation.cert);
    NextRoot {
        tls_info: tls_info(&root_ca.cert, issuer.unwrap_or(&root_ca.cert)),
        root_ca,
    }
}

fn generate(now: Timestamp) -> Result<NewRoot, ControlError> {
    generate_root(now).map_err(|error| ControlError::new(Kind::Internal, error.to_string()))
}

fn refused(error: RootError) -> ControlError {
    let kind = match error {
        RootError::CrossSign => Kind::Internal,
        _ => Kind::Invalid,
    };
    ControlError::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);

    fn cluster() -> Cluster {
        let root_ca = first(&CaConfig::default(), NOW).unwrap();
        Cluster {
            tls_info: tls_info(&root_ca.cert, &root_ca.cert),
            root_ca,
            ..Cluster::default()
        }
    }

    fn forced(times: u64) -> CaConfig {
        CaConfig {
            force_rotate: times,
            ..CaConfig::default()
        }
    }

    fn brought(root: &NewRoot) -> CaConfig {
        CaConfig {
            signing_ca_cert: root.cert_pem.clone(),
            signing_ca_key: root.key_pem.clone(),
            ..CaConfig::default()
        }
    }

    #[test]
    fn a_counter_that_moves_makes_a_new_root_signed_by_the_present_one() {
        let mut cluster = cluster();
        assert_eq!(next(&cluster, &forced(0), NOW).unwrap(), None);
        let one = next(&cluster, &forced(1), NOW).unwrap().unwrap();
        let rotation = one.root_ca.rotation.clone().unwrap();
        assert_eq!(one.root_ca.cert, cluster.root_ca.cert);
        assert_ne!(rotation.cert, cluster.root_ca.cert);
        assert_eq!(one.tls_info.trust_root, cluster.root_ca.cert);
        assert!(!one.tls_info.has_issuer_of(&cluster.tls_info));
        // Once more, before it has ended: the present root signs again.
        cluster.root_ca = one.root_ca;
        assert_eq!(next(&cluster, &forced(1), NOW).unwrap(), None);
        let two = next(&cluster, &forced(2), NOW).unwrap().unwrap();
        assert_eq!(two.root_ca.cert, cluster.root_ca.cert);
        assert_ne!(two.root_ca.rotation.unwrap().cert, rotation.cert);
    }

    #[test]
    fn a_root_that_is_brought_is_taken_or_leads_back_to_the_present_one() {
        let mut cluster = cluster();
        let own = generate_root(NOW).unwrap();
        let taken = next(&cluster, &brought(&own), NOW).unwrap().unwrap();
        let rotation = taken.root_ca.rotation.clone().unwrap();
        assert_eq!(
            (&rotation.cert, &rotation.key),
            (&own.cert_pem, &own.key_pem)
        );
        assert_eq!(rotation.pinned, root_digest(&own.cert_pem));
        cluster.root_ca = taken.root_ca.clone();
        // For the second time it begins nothing new.
        let again = next(&cluster, &brought(&own), NOW).unwrap().unwrap();
        assert_eq!(again, taken);
        let present = NewRoot {
            cert_pem: cluster.root_ca.cert.clone(),
            key_pem: cluster.root_ca.key.clone(),
        };
        let back = next(&cluster, &brought(&present), NOW).unwrap().unwrap();
        assert_eq!(back.root_ca.rotation, None);
        assert_eq!(back.root_ca.cert, present.cert_pem);
        assert_eq!(
            back.tls_info,
            tls_info(&present.cert_pem, &present.cert_pem)
        );
        // At birth it is simply the root.
        let born = first(&brought(&own), NOW).unwrap();
        assert_eq!((born.cert, born.rotation), (own.cert_pem, None));
    }

    #[test]
    fn a_root_may_come_without_its_key_and_must_bring_it_to_go() {
        let mut cluster = cluster();
        let outside = generate_root(NOW).unwrap();
        let adopted = |root: &NewRoot| CaConfig {
            signing_ca_cert: root.cert_pem.clone(),
            external_cas: vec![serde_json::json!({"URL": "https://ca/", "CACert": root.cert_pem})],
            ..CaConfig::default()
        };
        let next_root = next(&cluster, &adopted(&outside), NOW).unwrap().unwrap();
        let rotation = next_root.root_ca.rotation.clone().unwrap();
        assert_eq!(
            (rotation.cert, rotation.key.as_str()),
            (outside.cert_pem.clone(), "")
        );
        assert!(first(&adopted(&outside), NOW).is_err(), "not at birth");
        // Once it has ended there is nothing to sign the next one with.
        cluster.root_ca = RootCa {
            cert: outside.cert_pem.clone(),
            ..RootCa::default()
        };
        let refused = next(&cluster, &forced(1), NOW).unwrap_err();
        assert!(refused.message.contains("--ca-key"), "{refused}");
        let back = next(&cluster, &brought(&outside), NOW).unwrap().unwrap();
        assert!(!back.root_ca.key.is_empty() && back.root_ca.rotation.is_none());
        cluster.root_ca = back.root_ca;
        assert!(next(&cluster, &forced(1), NOW).unwrap().is_some());
    }

    #[test]
    fn the_same_key_with_another_certificate_is_refused() {
        let cluster = cluster();
        let present = NewRoot {
            cert_pem: cluster.root_ca.cert.clone(),
            key_pem: cluster.root_ca.key.clone(),
        };
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::from_pem(&present.key_pem).unwrap();
        let reissued = NewRoot {
            cert_pem: params.self_signed(&key).unwrap().pem(),
            key_pem: present.key_pem.clone(),
        };
        assert_ne!(reissued.cert_pem, present.cert_pem);
        let refused = next(&cluster, &brought(&reissued), NOW).unwrap_err();
        assert_eq!(
            refused.message,
            "Cannot update to a cert with an identical key"
        );
        let late = Timestamp(NOW.0 + 19 * 365 * 24 * 3600 * 1_000_000_000 + 1_000_000_000);
        let refused = next(&cluster, &brought(&present), late).unwrap_err();
        assert_eq!(refused.kind, Kind::Invalid);
        assert_eq!(refused.message, "CA certificate expires too soon");
    }
}
