//! Who a node is: its key, its certificate, and what the certificate says.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use skep_model::node::TlsInfo;
use skep_model::{ClusterId, NodeId, NodeRole, Timestamp};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{BACKDATE, MANAGER_NAME, WORKER_NAME};

/// Why a certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("not a PEM certificate or key")]
    Pem,
    #[error("the certificate cannot be read")]
    Certificate,
    #[error("the certificate names no node, role or cluster")]
    Subject,
    #[error("a key could not be made")]
    Key(#[source] rcgen::Error),
}

/// A fresh key and the request to certify it.
pub struct KeyRequest {
    pub key_pem: String,
    pub csr_pem: String,
}

/// Makes a key that never leaves this node, and a request for its certificate.
pub fn request_certificate() -> Result<KeyRequest, IdentityError> {
    let key = KeyPair::generate().map_err(IdentityError::Key)?;
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(IdentityError::Key)?;
    Ok(KeyRequest {
        key_pem: key.serialize_pem(),
        csr_pem: csr,
    })
}

/// What a verified certificate says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    pub role: NodeRole,
    pub cluster: ClusterId,
}

impl Peer {
    /// Reads a certificate that TLS has verified already.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|_| IdentityError::Certificate)?;
        let subject = cert.subject();
        let first = |mut names: Box<dyn Iterator<Item = Option<String>> + '_>| {
            names.next().flatten().ok_or(IdentityError::Subject)
        };
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().ok().map(ToOwned::to_owned)
        };
        let node = first(Box::new(subject.iter_common_name().map(text)))?;
        let unit = first(Box::new(subject.iter_organizational_unit().map(text)))?;
        let cluster = first(Box::new(subject.iter_organization().map(text)))?;
        let role = match unit.as_str() {
            MANAGER_NAME => NodeRole::Manager,
            WORKER_NAME => NodeRole::Worker,
            _ => return Err(IdentityError::Subject),
        };
        Ok(Self {
            node: NodeId::new(node),
            role,
            cluster: ClusterId::new(cluster),
        })
    }
}

/// A node's certificate and key with the roots it trusts.
pub struct Identity {
    pub peer: Peer,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// The certificate, and what must go along with it.
    pub cert_pem: String,
    /// The cluster's root; during a root rotation the next one as well, after it.
    pub root_pem: String,
    key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Puts together what was issued or read from disk.
    pub fn from_pem(cert_pem: &str, key_pem: &str, root_pem: &str) -> Result<Self, IdentityError> {
        let der =
            CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| IdentityError::Pem)?;
        let (_, cert) = X509Certificate::from_der(&der).map_err(|_| IdentityError::Certificate)?;
        let validity = cert.validity();
        Ok(Self {
            peer: Peer::from_der(&der)?,
            not_before: Timestamp::from_secs(validity.not_before.timestamp()),
            not_after: Timestamp::from_secs(validity.not_after.timestamp()),
            cert_pem: cert_pem.to_owned(),
            root_pem: root_pem.to_owned(),
            key_pem: key_pem.to_owned(),
        })
    }

    /// The key, to be stored where only root can read.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| IdentityError::Pem)
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|_| IdentityError::Pem)
    }

    /// When to renew: at a random point between half and four fifths of the certificate's life,
    /// from its issue on. `chance` is a random number that the caller keeps for this certificate.
    pub fn renew_at(&self, chance: u64) -> Timestamp {
        // Certificates of an hour would else be renewed as soon as they are issued.
        let issued = self.not_before.plus(BACKDATE);
        let life = self.not_after.since(issued);
        let share = 0.5 + 0.3 * (chance as f64 / u64::MAX as f64);
        issued.plus(Duration::from_secs_f64(life.as_secs_f64() * share))
    }

    /// The same certificate and key, with other roots to trust.
    pub fn trusting(&self, root_pem: &str) -> Result<Self, IdentityError> {
        Self::from_pem(&self.cert_pem, &self.key_pem, root_pem)
    }

    /// What `node inspect` shows: the cluster's root, and who signed the certificate.
    pub fn tls_info(&self) -> TlsInfo {
        let root = first(&self.root_pem);
        // What goes along with a certificate is one of its issuer.
        let issuer = self.cert_pem.get(first(&self.cert_pem).len()..);
        match issuer.map(str::trim) {
            None | Some("") => tls_info(root, root),
            Some(issuer) => tls_info(root, issuer),
        }
    }
}

/// The first certificate of several in PEM.
fn first(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    let end = pem.find(END).map(|at| at + END.len());
    end.and_then(|end| pem.get(..end)).unwrap_or(pem)
}

/// The API's TLS block for a root and the issuer of certificates, which is another one while the
/// root is being rotated.
pub fn tls_info(root_pem: &str, issuer_pem: &str) -> TlsInfo {
    let parsed = CertificateDer::from_pem_slice(issuer_pem.as_bytes()).ok();
    let cert = parsed
        .as_ref()
        .and_then(|der| X509Certificate::from_der(der).ok());
    let (subject, key) = cert.map_or((String::new(), String::new()), |(_, cert)| {
        (
            STANDARD.encode(cert.subject().as_raw()),
            STANDARD.encode(cert.public_key().raw),
        )
    });
    TlsInfo {
        trust_root: root_pem.to_owned(),
        cert_issuer_subject: subject,
        cert_issuer_public_key: key,
    }
}
