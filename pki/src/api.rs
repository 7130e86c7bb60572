//! TLS of the Docker API over TCP: the server shows its certificate and, with verification, hears
//! nobody without one of the named authority.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{Error, RootCertStore, ServerConfig};

use crate::tls::provider;

/// PEM of what the API is served with.
pub struct ApiFiles<'a> {
    /// The server's certificate, and what goes along with it.
    pub cert: &'a [u8],
    pub key: &'a [u8],
    /// Whose certificates clients must show; `None` lets everybody in.
    pub client_authority: Option<&'a [u8]>,
}

/// Why the API cannot be served over TLS.
#[derive(Debug, thiserror::Error)]
pub enum ApiTlsError {
    #[error("the certificate file (--tlscert) holds no certificate in PEM")]
    Certificate,
    #[error("the key file (--tlskey) holds no private key in PEM")]
    Key,
    #[error("the CA file (--tlscacert) holds no certificate in PEM")]
    Authority,
    #[error("the certificate and the key do not belong together")]
    Mismatch(#[source] Error),
}

/// The configuration of the API's listener: TLS 1.2 and 1.3, HTTP/1.1.
pub fn api_server_config(files: &ApiFiles<'_>) -> Result<Arc<ServerConfig>, ApiTlsError> {
    let chain = CertificateDer::pem_slice_iter(files.cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| ApiTlsError::Certificate)?;
    if chain.is_empty() {
        return Err(ApiTlsError::Certificate);
    }
    let key = PrivateKeyDer::from_pem_slice(files.key).map_err(|_| ApiTlsError::Key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(ApiTlsError::Mismatch)?;
    let builder = match files.client_authority {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            for der in CertificateDer::pem_slice_iter(authority) {
                let der = der.map_err(|_| ApiTlsError::Authority)?;
                roots.add(der).map_err(|_| ApiTlsError::Authority)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|_| ApiTlsError::Authority)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder
        .with_single_cert(chain, key)
        .map_err(ApiTlsError::Mismatch)?;
    Ok(Arc::new(config))
}
