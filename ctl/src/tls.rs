//! TLS to a daemon that is reached over TCP, with the files that docker's client uses.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use skep_pki::tls::AnyServer;

/// Files of mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Whether the server's certificate is checked.
    pub verify: bool,
}

/// The configuration of a connection. Without a certificate the client shows none: the daemon says
/// whether it wants one.
pub fn client_config(tls: Option<&Tls>) -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let Some(tls) = tls else {
        return Err(io::Error::other(
            "https needs --tlsverify and a certificate",
        ));
    };
    let builder = if tls.verify {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&tls.ca).map_err(named(&tls.ca))? {
            roots
                .add(certificate.map_err(named(&tls.ca))?)
                .map_err(io::Error::other)?;
        }
        builder.with_root_certificates(roots)
    } else {
        // Whoever answers is taken for the daemon, as with docker's client.
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer::new(provider)))
    };
    if !tls.cert.exists() {
        return Ok(builder.with_no_client_auth());
    }
    let chain = CertificateDer::pem_file_iter(&tls.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(named(&tls.cert))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(named(&tls.key))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(io::Error::other)
}

fn named(path: &Path) -> impl Fn(rustls::pki_types::pem::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::other(format!("{path}: {error}"))
}
