//! The cluster's certificate authority: makes the root and signs nodes' requests.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use skep_model::cluster::RootCa;
use skep_model::{ClusterId, NodeId, NodeRole, Timestamp};
use time::OffsetDateTime;

/// Common name of the root, as in Swarm.
const ROOT_NAME: &str = "swarm-ca";
/// Life of the root: 20 years.
const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Certificates count as valid from an hour before their issue: clocks differ.
pub(crate) const BACKDATE: Duration = Duration::from_secs(3600);
/// Name that every manager's certificate carries, and that whoever dials a manager demands.
pub const MANAGER_NAME: &str = "swarm-manager";
/// Name that every worker's certificate carries.
pub const WORKER_NAME: &str = "swarm-worker";

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the certificate request is not valid")]
    Request(#[source] rcgen::Error),
    #[error("the cluster's root certificate or key is not valid")]
    Root(#[source] rcgen::Error),
    #[error("the key of the cluster's root is not here: an external authority has it")]
    Elsewhere,
    #[error("a certificate could not be signed")]
    Sign(#[source] rcgen::Error),
}

/// A root certificate with its key, both PEM.
#[derive(Clone)]
pub struct NewRoot {
    pub cert_pem: String,
    pub key_pem: String,
}

/// Makes a fresh root: ECDSA P-256, self-signed.
pub fn generate_root(now: Timestamp) -> Result<NewRoot, AuthorityError> {
    let key = KeyPair::generate().map_err(AuthorityError::Root)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, ROOT_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    params.not_before = moment(now) - BACKDATE;
    params.not_after = moment(now) + ROOT_LIFE;
    let cert = params.self_signed(&key).map_err(AuthorityError::Root)?;
    Ok(NewRoot {
        cert_pem: cert.pem(),
        key_pem: key.serialize_pem(),
    })
}

/// Signs nodes' certificate requests with the cluster's root.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM of what goes along with every certificate; empty outside of a root rotation.
    chain: String,
}

impl Authority {
    /// Takes the root as [`generate_root`] made it.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        if key_pem.is_empty() {
            return Err(AuthorityError::Elsewhere);
        }
        let key = KeyPair::from_pem(key_pem).map_err(AuthorityError::Root)?;
        let issuer = Issuer::from_ca_cert_pem(cert_pem, key).map_err(AuthorityError::Root)?;
        Ok(Self {
            issuer,
            chain: String::new(),
        })
    }

    /// The authority of a cluster: during a root rotation the next root signs, and its certificate
    /// by the present one goes along.
    pub fn of(root: &RootCa) -> Result<Self, AuthorityError> {
        match &root.rotation {
            None => Self::from_pem(&root.cert, &root.key),
            Some(rotation) => Ok(Self {
                chain: rotation.cross_signed.clone(),
                ..Self::from_pem(&rotation.cert, &rotation.key)?
            }),
        }
    }

    /// Signs `csr_pem`. Subject and names are the manager's choice, never the requester's:
    /// CN = node, OU = role, O = cluster. What must go along with the certificate follows it.
    pub fn sign(
        &self,
        csr_pem: &str,
        node: &NodeId,
        role: NodeRole,
        cluster: &ClusterId,
        life: Duration,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let mut request =
            CertificateSigningRequestParams::from_pem(csr_pem).map_err(AuthorityError::Request)?;
        let names = vec![role_name(role).to_owned(), node.to_string()];
        let mut params = CertificateParams::new(names).map_err(AuthorityError::Request)?;
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, node.as_str());
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, role_name(role));
        params
            .distinguished_name
            .push(DnType::OrganizationName, cluster.as_str());
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.serial_number = Some(serial());
        params.not_before = moment(now) - BACKDATE;
        params.not_after = moment(now) + life;
        request.params = params;
        let signed = request
            .signed_by(&self.issuer)
            .map_err(AuthorityError::Sign)?;
        Ok(signed.pem() + &self.chain)
    }
}

/// The organisational unit that stands for a role.
pub const fn role_name(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Manager => MANAGER_NAME,
        NodeRole::Worker => WORKER_NAME,
    }
}

pub(crate) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = crate::random_bytes();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

pub(crate) fn moment(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0))
        .expect("64 bits of nanoseconds are within the calendar")
}
