//! TLS 1.3 with raw public keys (RFC 7250) on both sides.
//!
//! The handshake proves only that the other side holds its key; whether that key may do what its
//! ALPN is for is judged by the first messages right after. Tickets, resumption and early data
//! are off: a resumed session would skip the proof.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::admission::{Keypair, PublicKey};
use crate::quic;
use crate::quic::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use crate::wire::{ALPN_CLIENT, ALPN_JOIN, ALPN_MEDIA, ALPN_MESH};

/// The name that dials carry where TLS wants one. It is not sent and not checked: keys are.
pub const SERVER_NAME: &str = "roost";

/// What precedes the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410 §4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn spki(key: &PublicKey) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), key].concat()
}

fn key_of_spki(der: &[u8]) -> Option<PublicKey> {
    der.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

fn certified(keypair: &Keypair) -> Result<Arc<CertifiedKey>, Error> {
    let der = PrivatePkcs8KeyDer::from(keypair.pkcs8().to_vec());
    let signer = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&der)?;
    let public = CertificateDer::from(spki(&keypair.public()));
    Ok(Arc::new(CertifiedKey::new(vec![public], signer)))
}

/// What a node's endpoint answers with, whatever the ALPN. A client's key is asked for but not
/// demanded here, since native clients have none; links, joins and media check for it themselves.
pub fn server(keypair: &Keypair) -> Result<Arc<QuicServerConfig>, Error> {
    let provider = provider();
    let verifier = Arc::new(AnyKey::new(&provider));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(keypair)?)));
    config.alpn_protocols = [ALPN_MESH, ALPN_JOIN, ALPN_MEDIA, ALPN_CLIENT].map(Vec::from).into();
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    let config = QuicServerConfig::try_from(config)
        .map_err(|_no_suite| Error::General("no cipher suite for QUIC".into()))?;
    Ok(Arc::new(config))
}

/// What dials of one ALPN present: the node's key, or nothing for native clients.
pub fn client(alpn: &[u8], keypair: Option<&Keypair>) -> Result<Arc<QuicClientConfig>, Error> {
    let provider = provider();
    let verifier = Arc::new(AnyKey::new(&provider));
    let identity: Arc<dyn ResolvesClientCert> = match keypair {
        Some(keypair) => Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(keypair)?)),
        None => Arc::new(NoKey),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(identity);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    let config = QuicClientConfig::try_from(config)
        .map_err(|_no_suite| Error::General("no cipher suite for QUIC".into()))?;
    Ok(Arc::new(config))
}

/// The key that the other side proved in the handshake; `None` if it presented none.
pub fn peer_key(connection: &quic::Connection) -> Option<PublicKey> {
    let identity = connection.peer_identity()?;
    let certificates = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    key_of_spki(certificates.first()?)
}

/// The ALPN that was agreed on.
pub fn alpn(connection: &quic::Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// Accepts every Ed25519 key whose holder signed this handshake.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyKey {
    fn new(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }

    fn check(certificate: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        if more.is_empty() && key_of_spki(certificate).is_some() {
            Ok(())
        } else {
            Err(CertificateError::BadEncoding.into())
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(certificate.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }
}

fn not_tls12() -> Error {
    Error::General("only TLS 1.3 is spoken here".into())
}

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for AnyKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(not_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A client without a key: it still says that it speaks raw public keys, as RFC 7250 has a
/// server that knows nothing else refuse it otherwise.
#[derive(Debug)]
struct NoKey;

impl ResolvesClientCert for NoKey {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        false
    }
}
