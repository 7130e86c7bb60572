//! Certificates that an authority outside of the cluster has signed: what is asked of it, and what is
//! believed of its answer.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateSigningRequestParams, PublicKeyData as _};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use skep_model::{NodeRole, Timestamp};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{MANAGER_NAME, role_name};
use crate::identity::Peer;
use crate::root::normalize;
use crate::tls::{TlsError, provider, roots};

/// A certificate may live so much longer than was asked for: authorities round.
const LIFE_SLACK: Duration = Duration::from_secs(24 * 3600);

/// Why a certificate is not handed out although an authority has signed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuedError {
    #[error("the answer holds no certificate in PEM")]
    Unreadable,
    #[error("the answer holds several certificates: the swarm's root itself must sign")]
    Several,
    #[error(
        "the certificate is not signed by the swarm's root, or is not valid now, or not for clients and servers"
    )]
    Root,
    #[error("the certificate is one of an authority")]
    Authority,
    #[error("the certificate is for another key than was asked for")]
    Key,
    #[error(
        "the certificate does not name the node (CN), its role (OU) and the swarm (O) as was asked for"
    )]
    Subject,
    #[error(
        "the certificate is good until {until}, which is longer than the swarm's certificates live (`--cert-expiry`)"
    )]
    Life { until: Timestamp },
}

/// The body of a request to sign in the form of cfssl: the subject is the swarm's choice, whatever
/// the request itself says.
pub fn cfssl_request(csr_pem: &str, peer: &Peer) -> Value {
    let role = role_name(peer.role);
    let (node, cluster) = (peer.node.as_str(), peer.cluster.as_str());
    json!({
        "hosts": [role, node],
        "certificate_request": csr_pem,
        "subject": {
            "CN": node,
            "names": [{"OU": role, "O": cluster}],
        },
    })
}

/// Takes the certificate that was signed for `csr_pem`, if it is what was asked for; in PEM, with
/// nothing around it.
pub fn check_issued(
    cert_pem: &str,
    csr_pem: &str,
    root_pem: &str,
    peer: &Peer,
    (life, now): (Duration, Timestamp),
) -> Result<String, IssuedError> {
    let certs = normalize(cert_pem).map_err(|_| IssuedError::Unreadable)?;
    let cert_pem = match certs.as_slice() {
        [] => return Err(IssuedError::Unreadable),
        [one] => one.clone(),
        _ => return Err(IssuedError::Several),
    };
    let der =
        CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| IssuedError::Unreadable)?;
    let (_, cert) = X509Certificate::from_der(&der).map_err(|_| IssuedError::Unreadable)?;
    if cert.is_ca() {
        return Err(IssuedError::Authority);
    }
    check_signature(&der, root_pem, peer, now).ok_or(IssuedError::Root)?;
    let request =
        CertificateSigningRequestParams::from_pem(csr_pem).map_err(|_| IssuedError::Key)?;
    if request.public_key.der_bytes() != cert.public_key().subject_public_key.as_ref() {
        return Err(IssuedError::Key);
    }
    let once = |count: usize| count == 1;
    let subject = cert.subject();
    let is_plain = once(subject.iter_common_name().count())
        && once(subject.iter_organizational_unit().count())
        && once(subject.iter_organization().count());
    if !is_plain || Peer::from_der(&der).ok().as_ref() != Some(peer) {
        return Err(IssuedError::Subject);
    }
    let until = Timestamp::from_secs(cert.validity().not_after.timestamp());
    match until > now.plus(life).plus(LIFE_SLACK) {
        true => Err(IssuedError::Life { until }),
        false => Ok(cert_pem),
    }
}

/// Whether nodes that trust the root will believe the certificate, as a client's and as a manager's.
fn check_signature(
    der: &CertificateDer<'_>,
    root_pem: &str,
    peer: &Peer,
    now: Timestamp,
) -> Option<()> {
    let store: Arc<RootCertStore> = roots(root_pem).ok()?;
    let secs = u64::try_from(now.0 / 1_000_000_000).ok()?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(secs));
    WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), provider())
        .build()
        .ok()?
        .verify_client_cert(der, &[], at)
        .ok()?;
    if peer.role == NodeRole::Manager {
        let name = ServerName::try_from(MANAGER_NAME).ok()?;
        WebPkiServerVerifier::builder_with_provider(store, provider())
            .build()
            .ok()?
            .verify_server_cert(der, &[], &name, &[], at)
            .ok()?;
    }
    Some(())
}

/// For a manager that asks an authority: with the certificate that `member` dials with, and trusting
/// these roots.
pub fn authority_client_config(
    member: &ClientConfig,
    roots_pem: &str,
) -> Result<Arc<ClientConfig>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Config)?
        .with_root_certificates(roots(roots_pem)?)
        .with_client_cert_resolver(Arc::clone(&member.client_auth_cert_resolver));
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::NewRoot;
    use crate::identity::KeyRequest;
    use crate::{Authority, generate_root, request_certificate};

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);
    const LIFE: Duration = Duration::from_secs(3600 * 24 * 90);

    fn peer(node: &str, role: NodeRole, cluster: &str) -> Peer {
        Peer {
            node: node.into(),
            role,
            cluster: cluster.into(),
        }
    }

    fn signed(root: &NewRoot, key: &KeyRequest, peer: &Peer, life: Duration) -> String {
        Authority::from_pem(&root.cert_pem, &root.key_pem)
            .unwrap()
            .sign(
                &key.csr_pem,
                &peer.node,
                peer.role,
                &peer.cluster,
                life,
                NOW,
            )
            .unwrap()
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let (root, other) = (generate_root(NOW).unwrap(), generate_root(NOW).unwrap());
        let (key, another) = (
            request_certificate().unwrap(),
            request_certificate().unwrap(),
        );
        for role in [NodeRole::Worker, NodeRole::Manager] {
            let wanted = peer("n", role, "c");
            let check =
                |cert: &str| check_issued(cert, &key.csr_pem, &root.cert_pem, &wanted, (LIFE, NOW));
            let good = signed(&root, &key, &wanted, LIFE);
            assert_eq!(check(&good), Ok(good.clone()));
            assert_eq!(check(&format!("# a comment\n{good}")), Ok(good.clone()));
            assert_eq!(check(""), Err(IssuedError::Unreadable));
            assert_eq!(check(&good.repeat(2)), Err(IssuedError::Several));
            assert_eq!(check(&root.cert_pem), Err(IssuedError::Authority));
            let by_other = signed(&other, &key, &wanted, LIFE);
            assert_eq!(check(&by_other), Err(IssuedError::Root));
            assert_eq!(
                check(&signed(&root, &another, &wanted, LIFE)),
                Err(IssuedError::Key)
            );
            for stranger in [peer("m", role, "c"), peer("n", role, "d")] {
                let cert = signed(&root, &key, &stranger, LIFE);
                assert_eq!(check(&cert), Err(IssuedError::Subject));
            }
            let long = signed(&root, &key, &wanted, LIFE * 2);
            assert!(matches!(check(&long), Err(IssuedError::Life { .. })));
            let over = NOW.plus(LIFE).plus(Duration::from_secs(1));
            let late = check_issued(&good, &key.csr_pem, &root.cert_pem, &wanted, (LIFE, over));
            assert_eq!(late, Err(IssuedError::Root));
        }
        // A worker's certificate for a manager would leave nobody able to dial it, and the other way
        // round a worker would be one that may do everything.
        let (worker, manager) = (
            peer("n", NodeRole::Worker, "c"),
            peer("n", NodeRole::Manager, "c"),
        );
        let as_manager = signed(&root, &key, &manager, LIFE);
        let taken = check_issued(
            &as_manager,
            &key.csr_pem,
            &root.cert_pem,
            &worker,
            (LIFE, NOW),
        );
        assert_eq!(taken, Err(IssuedError::Subject));
        let as_worker = signed(&root, &key, &worker, LIFE);
        let taken = check_issued(
            &as_worker,
            &key.csr_pem,
            &root.cert_pem,
            &manager,
            (LIFE, NOW),
        );
        assert_eq!(taken, Err(IssuedError::Root));
    }

    #[test]
    fn the_request_has_the_swarms_subject() {
        let body = cfssl_request("CSR", &peer("n", NodeRole::Worker, "c"));
        assert_eq!(body["certificate_request"], "CSR");
        assert_eq!(body["hosts"], json!(["swarm-worker", "n"]));
        assert_eq!(body["subject"]["CN"], "n");
        assert_eq!(
            body["subject"]["names"],
            json!([{"OU": "swarm-worker", "O": "c"}])
        );
    }
}
