//! Another root for a cluster: what may become one, and its certificate by the root of before.
//!
//! While the nodes of a cluster change from one root to another, those with certificates of the
//! new one must be believed by those that know the old one only. So the old root signs a
//! certificate for the new root's key, and this goes along with every certificate of the new root.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SubjectPublicKeyInfo,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use skep_model::Timestamp;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::authority::{BACKDATE, NewRoot, moment, serial};

/// A root must be valid for so much longer: one year, as in Swarm.
const LIFE_LEFT_MIN_SECS: i64 = 365 * 24 * 3600;
/// Characters of base64 in one line of PEM.
const PEM_LINE: usize = 64;

/// Why a certificate and key cannot become a cluster's root. The texts begin as Swarm's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    #[error("invalid root certificates: the CA certificate is not a certificate in PEM")]
    Unreadable,
    #[error("the desired CA certificate cannot contain multiple certificates")]
    Several,
    #[error("CA certificate expires too soon")]
    ExpiresSoon,
    #[error("the desired CA certificate is not one of an authority: it needs CA:TRUE")]
    NoAuthority,
    #[error(
        "malformed private key: the CA key must be an unencrypted PEM key, ECDSA with P-256 or P-384, RSA of 2048 bits or more, or Ed25519"
    )]
    Key,
    #[error("certificate key mismatch: the CA key is not the one of the CA certificate")]
    Mismatch,
    #[error(
        "the desired CA certificate's subject cannot be repeated in other certificates: give it one with a plain common name"
    )]
    Subject,
    #[error("unable to generate a cross-signed certificate for root rotation")]
    CrossSign,
}

/// The certificates in `pem`, each in PEM as one program writes it: what surrounds them and how
/// their lines are broken is left out, so that equal certificates are equal texts.
pub fn normalize(pem: &str) -> Result<Vec<String>, RootError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| {
            der.map(|der| to_pem("CERTIFICATE", &der))
                .map_err(|_| RootError::Unreadable)
        })
        .collect()
}

/// Takes a root that somebody brings: one certificate of an authority, valid for another year, and
/// its key. The key comes back as PKCS #8.
pub fn check_root(cert_pem: &str, key_pem: &str, now: Timestamp) -> Result<NewRoot, RootError> {
    let cert_pem = check_root_cert(cert_pem, now)?;
    let der = der(&cert_pem)?;
    let cert = parse(&der)?;
    let key = private_key(key_pem)?;
    if key.subject_public_key_info() != cert.public_key().raw {
        return Err(RootError::Mismatch);
    }
    let key_pem = key.serialize_pem();
    let root = NewRoot { cert_pem, key_pem };
    // Its subject must be repeated exactly by all that it signs.
    cross_sign(&root, &root.cert_pem, now).map(|_| root)
}

/// Takes the certificate of a root whose key is elsewhere: one of an authority, valid for another
/// year. It comes back in PEM with nothing around it.
pub fn check_root_cert(cert_pem: &str, now: Timestamp) -> Result<String, RootError> {
    let certs = normalize(cert_pem)?;
    let cert_pem = match certs.as_slice() {
        [] => return Err(RootError::Unreadable),
        [one] => one.clone(),
        _ => return Err(RootError::Several),
    };
    let der = der(&cert_pem)?;
    let cert = parse(&der)?;
    let soon = (now.0 / 1_000_000_000).saturating_add(LIFE_LEFT_MIN_SECS);
    if cert.validity().not_after.timestamp() < soon {
        return Err(RootError::ExpiresSoon);
    }
    let is_authority = cert
        .basic_constraints()
        .ok()
        .flatten()
        .is_some_and(|found| found.value.ca);
    match is_authority {
        true => Ok(cert_pem),
        false => Err(RootError::NoAuthority),
    }
}

/// Whether both certificates have the same public key.
pub fn same_key(one_pem: &str, other_pem: &str) -> bool {
    let key = |pem: &str| {
        let der = der(pem).ok()?;
        Some(parse(&der).ok()?.public_key().raw.to_vec())
    };
    matches!((key(one_pem), key(other_pem)), (Some(one), Some(other)) if one == other)
}

/// The certificate by which whoever trusts `old` believes certificates of the root `new_cert_pem`.
pub fn cross_sign(old: &NewRoot, new_cert_pem: &str, now: Timestamp) -> Result<String, RootError> {
    let new_der = der(new_cert_pem)?;
    let new = parse(&new_der)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name(new.subject()).ok_or(RootError::Subject)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    params.not_before = moment(now) - BACKDATE;
    params.not_after = new.validity().not_after.to_datetime();
    let public =
        SubjectPublicKeyInfo::from_der(new.public_key().raw).map_err(|_| RootError::Key)?;
    let key = private_key(&old.key_pem)?;
    let issuer = Issuer::from_ca_cert_pem(&old.cert_pem, key).map_err(|_| RootError::CrossSign)?;
    let signed = params
        .signed_by(&public, &issuer)
        .map_err(|_| RootError::CrossSign)?;
    let crossed = parse(signed.der())?;
    let old_der = der(&old.cert_pem)?;
    let repeats = crossed.subject().as_raw() == new.subject().as_raw()
        && crossed.public_key().raw == new.public_key().raw
        && crossed.issuer().as_raw() == parse(&old_der)?.subject().as_raw();
    match repeats {
        true => Ok(to_pem("CERTIFICATE", signed.der())),
        false => Err(RootError::Subject),
    }
}

fn der(cert_pem: &str) -> Result<CertificateDer<'static>, RootError> {
    CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| RootError::Unreadable)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, RootError> {
    X509Certificate::from_der(der)
        .map(|(_, cert)| cert)
        .map_err(|_| RootError::Unreadable)
}

/// Reads a key as any program may have written it.
fn private_key(pem: &str) -> Result<KeyPair, RootError> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| RootError::Key)?;
    let pkcs8 = match &key {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        PrivateKeyDer::Pkcs1(key) => pkcs8(RSA, key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => {
            let der = key.secret_sec1_der();
            // The curve is told inside, as openssl does, or else is the one that fits.
            return [P256, P384]
                .into_iter()
                .find_map(|curve| KeyPair::try_from(pkcs8(curve, der)).ok())
                .ok_or(RootError::Key);
        }
        _ => return Err(RootError::Key),
    };
    KeyPair::try_from(pkcs8).map_err(|_| RootError::Key)
}

/// Algorithm identifiers of keys, DER: `rsaEncryption` without parameters, `ecPublicKey` with a
/// curve (RFC 3279, RFC 5480).
const RSA: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
const P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];

/// Wraps a key of an older form as PKCS #8 (RFC 5208): version 0, algorithm, key.
fn pkcs8(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let content = [&[0x02, 0x01, 0x00], algorithm, &tagged(0x04, key)].concat();
    tagged(0x30, &content)
}

/// One DER value: tag, length, content.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    let length = content.len().to_be_bytes();
    match content.len() {
        short @ 0..0x80 => der.push(short as u8),
        _ => {
            let zeros = length.iter().take_while(|byte| **byte == 0).count();
            der.push(0x80 | (length.len() - zeros) as u8);
            der.extend_from_slice(&length[zeros..]);
        }
    }
    der.extend_from_slice(content);
    der
}

/// A subject as the library that signs wants it; `None` when it has no words for it.
fn name(subject: &X509Name<'_>) -> Option<DistinguishedName> {
    let mut name = DistinguishedName::new();
    for group in subject.iter() {
        let mut attributes = group.iter();
        let (attribute, None) = (attributes.next()?, attributes.next()) else {
            return None;
        };
        let oid: Vec<u64> = attribute.attr_type().iter()?.collect();
        let value = attribute.attr_value();
        let text = || std::str::from_utf8(value.data).ok();
        let value = match value.header.tag() {
            Tag::Utf8String => DnValue::Utf8String(text()?.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text()?.try_into().ok()?),
            Tag::Ia5String => DnValue::Ia5String(text()?.try_into().ok()?),
            Tag::T61String => DnValue::TeletexString(text()?.try_into().ok()?),
            _ => return None,
        };
        name.push(DnType::from_oid(&oid), value);
    }
    Some(name)
}

fn to_pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(PEM_LINE) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{ServerName, UnixTime};
    use skep_model::NodeRole;
    use skep_model::cluster::{RootCa, RootRotation};

    use super::*;
    use crate::{Authority, Identity, generate_root, request_certificate};

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);
    const EC: (&str, &str) = (
        include_str!("testdata/ec-cert.pem"),
        include_str!("testdata/ec-key.pem"),
    );
    const RSA_PAIR: (&str, &str) = (
        include_str!("testdata/rsa-cert.pem"),
        include_str!("testdata/rsa-key.pem"),
    );

    fn rotating(old: &NewRoot, new: &NewRoot) -> RootCa {
        RootCa {
            cert: old.cert_pem.clone(),
            key: old.key_pem.clone(),
            rotation: Some(RootRotation {
                cert: new.cert_pem.clone(),
                key: new.key_pem.clone(),
                cross_signed: cross_sign(old, &new.cert_pem, NOW).unwrap(),
                ..RootRotation::default()
            }),
            ..RootCa::default()
        }
    }

    fn identity(root: &RootCa) -> Identity {
        let request = request_certificate().unwrap();
        let life = Duration::from_secs(3600);
        let (node, cluster) = ("n".into(), "c".into());
        let cert = Authority::of(root)
            .unwrap()
            .sign(
                &request.csr_pem,
                &node,
                NodeRole::Manager,
                &cluster,
                life,
                NOW,
            )
            .unwrap();
        Identity::from_pem(&cert, &request.key_pem, &root.trusted()).unwrap()
    }

    /// Whether who trusts `roots` believes the certificate with what goes along with it.
    fn believes(roots: &str, identity: &Identity) -> bool {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .unwrap();
        let chain = identity.chain().unwrap();
        let name = ServerName::try_from("swarm-manager").unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_100));
        verifier
            .verify_server_cert(&chain[0], &chain[1..], &name, &[], now)
            .is_ok()
    }

    #[test]
    fn during_a_rotation_nodes_believe_each_other_whichever_root_they_know() {
        let roots: Vec<NewRoot> = (0..3).map(|_| generate_root(NOW).unwrap()).collect();
        let own = [EC, RSA_PAIR].map(|(cert, key)| check_root(cert, key, NOW).unwrap());
        let other = generate_root(NOW).unwrap();
        for (old, new) in [
            (&roots[0], &roots[1]),
            (&roots[1], &own[0]),
            (&own[0], &own[1]),
            (&own[1], &roots[2]),
        ] {
            let root = rotating(old, new);
            let renewed = identity(&root);
            assert!(believes(&old.cert_pem, &renewed), "by the old root");
            assert!(believes(&new.cert_pem, &renewed), "by the new root");
            assert!(believes(&root.trusted(), &renewed));
            assert!(!believes(&other.cert_pem, &renewed));
            let before = identity(&RootCa {
                rotation: None,
                ..root.clone()
            });
            assert!(believes(&root.trusted(), &before));
            assert!(
                !believes(&new.cert_pem, &before),
                "once the old one is dropped"
            );
            // It tells the present root, and the next one as its issuer.
            let told = renewed.tls_info();
            assert_eq!(told.trust_root, old.cert_pem);
            let issuer = crate::identity::tls_info(&old.cert_pem, &new.cert_pem);
            assert_eq!(told, issuer);
            assert_eq!(before.tls_info().trust_root, old.cert_pem);
            assert!(!before.tls_info().has_issuer_of(&told));
        }
    }

    #[test]
    fn a_root_of_ones_own_is_checked() {
        let refused = |cert: &str, key: &str, now: Timestamp| match check_root(cert, key, now) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error,
        };
        assert_eq!(refused("", EC.1, NOW), RootError::Unreadable);
        assert_eq!(refused("nonsense", EC.1, NOW), RootError::Unreadable);
        let both = format!("{}{}", EC.0, RSA_PAIR.0);
        assert_eq!(refused(&both, EC.1, NOW), RootError::Several);
        assert_eq!(refused(EC.0, RSA_PAIR.1, NOW), RootError::Mismatch);
        assert_eq!(refused(EC.0, "nonsense", NOW), RootError::Key);
        let root = check_root(EC.0, EC.1, NOW).unwrap();
        let (_, cert) = x509_parser::pem::parse_x509_pem(EC.0.as_bytes()).unwrap();
        let end = cert.parse_x509().unwrap().validity().not_after.timestamp();
        let year = LIFE_LEFT_MIN_SECS;
        let last = Timestamp::from_secs(end - year);
        assert!(check_root(EC.0, EC.1, last).is_ok());
        let soon = Timestamp::from_secs(end - year + 1);
        assert_eq!(refused(EC.0, EC.1, soon), RootError::ExpiresSoon);
        // Whatever surrounds it, the same certificate is the same text.
        let noisy = format!("comment\n{}\r\n\n", EC.0.replace('\n', "\r\n"));
        assert_eq!(normalize(&noisy).unwrap(), [root.cert_pem.as_str()]);
        let leaf = identity(&RootCa {
            cert: root.cert_pem.clone(),
            key: root.key_pem.clone(),
            ..RootCa::default()
        });
        let life = Timestamp(NOW.0 - LIFE_LEFT_MIN_SECS * 1_000_000_000);
        assert_eq!(
            refused(&leaf.cert_pem, leaf.key_pem(), life),
            RootError::NoAuthority
        );
        assert!(same_key(EC.0, &root.cert_pem) && !same_key(EC.0, RSA_PAIR.0));
        assert!(!same_key("", ""));
    }
}
