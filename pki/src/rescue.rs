//! A certificate that has run out still tells who its holder was: with a join token, that is enough
//! for another one.
//!
//! The request is signed with the old certificate's key, as every request is with its own, so the
//! key is the proof, and nobody else has it.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PublicKeyData as _};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Identity, IdentityError, KeyRequest, Peer};
use crate::tls::provider;

/// Why a certificate that has run out proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RescueError {
    #[error("the certificate that has run out cannot be read")]
    Unreadable,
    #[error("the certificate that has run out is not one of this cluster's root")]
    Stranger,
    #[error("the request was not made with the key of the certificate that has run out")]
    Key,
}

/// A request that is signed with the key of the present certificate.
pub fn request_with_same_key(identity: &Identity) -> Result<KeyRequest, IdentityError> {
    let key = KeyPair::from_pem(identity.key_pem()).map_err(IdentityError::Key)?;
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(IdentityError::Key)?;
    Ok(KeyRequest {
        key_pem: identity.key_pem().to_owned(),
        csr_pem: csr,
    })
}

/// Who held `cert_pem`, which one of `roots_pem` signed, whether it has run out or not. `csr_pem`
/// proves that the request comes from them.
pub fn former_holder(cert_pem: &str, roots_pem: &str, csr_pem: &str) -> Result<Peer, RescueError> {
    let certificates = |pem: &str| {
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| RescueError::Unreadable)
    };
    let chain = certificates(cert_pem)?;
    let (leaf, rest) = chain.split_first().ok_or(RescueError::Unreadable)?;
    let (_, cert) = X509Certificate::from_der(leaf).map_err(|_| RescueError::Unreadable)?;
    let mut roots = RootCertStore::empty();
    for root in certificates(roots_pem)? {
        roots.add(root).map_err(|_| RescueError::Stranger)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|_| RescueError::Stranger)?;
    // As of its last second.
    let end = u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0);
    let at = UnixTime::since_unix_epoch(Duration::from_secs(end.saturating_sub(1)));
    verifier
        .verify_client_cert(leaf, rest, at)
        .map_err(|_| RescueError::Stranger)?;
    let request =
        CertificateSigningRequestParams::from_pem(csr_pem).map_err(|_| RescueError::Key)?;
    let own = cert.public_key().subject_public_key.as_ref();
    match request.public_key.der_bytes() == own {
        true => Peer::from_der(leaf).map_err(|_| RescueError::Unreadable),
        false => Err(RescueError::Key),
    }
}

#[cfg(test)]
mod tests {
    use skep_model::cluster::RootCa;
    use skep_model::{NodeRole, Timestamp};

    use super::*;
    use crate::{Authority, generate_root, request_certificate};

    fn root() -> RootCa {
        let root = generate_root(Timestamp::from_secs(1_600_000_000)).unwrap();
        RootCa {
            cert: root.cert_pem,
            key: root.key_pem,
            ..RootCa::default()
        }
    }

    /// A certificate that ran out in 2020.
    fn expired(root: &RootCa) -> Identity {
        let key = request_certificate().unwrap();
        let issued = Timestamp::from_secs(1_600_000_000);
        let (node, cluster) = ("n".into(), "c".into());
        let life = Duration::from_secs(3600);
        let cert = Authority::of(root)
            .unwrap()
            .sign(
                &key.csr_pem,
                &node,
                NodeRole::Worker,
                &cluster,
                life,
                issued,
            )
            .unwrap();
        Identity::from_pem(&cert, &key.key_pem, &root.cert).unwrap()
    }

    #[test]
    fn only_the_holder_of_the_key_is_who_the_certificate_says() {
        let (root, other) = (root(), root());
        let mine = expired(&root);
        let request = request_with_same_key(&mine).unwrap();
        let holder = former_holder(&mine.cert_pem, &root.cert, &request.csr_pem).unwrap();
        assert_eq!(holder, mine.peer);
        let thief = request_certificate().unwrap();
        let refused =
            |cert: &str, roots: &str, csr: &str| former_holder(cert, roots, csr).unwrap_err();
        assert_eq!(
            refused(&mine.cert_pem, &root.cert, &thief.csr_pem),
            RescueError::Key
        );
        assert_eq!(
            refused(&mine.cert_pem, &root.cert, "nonsense"),
            RescueError::Key
        );
        assert_eq!(
            refused(&mine.cert_pem, &other.cert, &request.csr_pem),
            RescueError::Stranger
        );
        assert_eq!(
            refused("nonsense", &root.cert, &request.csr_pem),
            RescueError::Unreadable
        );
    }
}
