//! The certificate that browsers see.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// File name of the web certificate chain in the data folder, PEM.
pub const CERTIFICATE_FILE: &str = "web.crt";
/// File name of its key, PEM.
pub const KEY_FILE: &str = "web.key";

/// The certificate and key in use. They can be replaced; connections that stand keep theirs.
#[derive(Debug)]
pub struct Certificate(ArcSwap<CertifiedKey>);

impl Certificate {
    /// From a certificate chain and its key, both PEM files.
    pub fn load(certificate_file: &Path, key_file: &Path) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(read(certificate_file, key_file)?))))
    }

    /// Takes another certificate in its place, if that one can be used.
    pub fn renew(&self, certificate_file: &Path, key_file: &Path) -> io::Result<()> {
        self.0.store(Arc::new(read(certificate_file, key_file)?));
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Where a node keeps the certificate that it made itself, and its key.
pub fn own_files(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join(CERTIFICATE_FILE), folder.join(KEY_FILE))
}

/// The certificate that a node made itself earlier, if there is one.
pub fn load_kept(folder: &Path) -> io::Result<Option<Arc<Certificate>>> {
    let (certificate_file, key_file) = own_files(folder);
    let unnamed = unnamed(&certificate_file);
    if key_file.exists() && !certificate_file.exists() && unnamed.exists() {
        // Whoever made them died between the two names.
        fs::rename(unnamed, &certificate_file)?;
    }
    let kept = certificate_file.exists() || key_file.exists();
    kept.then(|| Certificate::load(&certificate_file, &key_file)).transpose()
}

/// The certificate in [`CERTIFICATE_FILE`] and [`KEY_FILE`] in `folder`. If there are none, a
/// self-signed P-256 certificate for `hosts` is made and kept there: the same one after a
/// restart, so that a browser that was told to trust it goes on doing so.
pub fn load_or_make(folder: &Path, hosts: &[String]) -> io::Result<Arc<Certificate>> {
    if let Some(kept) = load_kept(folder)? {
        return Ok(kept);
    }
    let (certificate_file, key_file) = own_files(folder);
    let (certificate, key) = make(hosts).map_err(io::Error::other)?;
    // Two names cannot be given at once, but both files are whole before either has its own, and
    // the key has it first: that is what `load_kept` goes by.
    write_unnamed(&certificate_file, &certificate)?;
    write_unnamed(&key_file, &key)?;
    for file in [&key_file, &certificate_file] {
        fs::rename(unnamed(file), file)?;
        fs::File::open(folder)?.sync_all()?;
    }
    Certificate::load(&certificate_file, &key_file)
}

/// The TLS configuration of a server with this certificate.
pub fn config(certificate: Arc<Certificate>) -> io::Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(certificate_file: &Path, key_file: &Path) -> io::Result<CertifiedKey> {
    let named = |file: &Path, error: &dyn std::fmt::Display| {
        io::Error::other(format!("{}: {error}", file.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| named(certificate_file, &error))?;
    if chain.is_empty() {
        return Err(named(certificate_file, &"there is no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| named(key_file, &error))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| named(certificate_file, &error))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn make(hosts: &[String]) -> Result<(String, String), rcgen::Error> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for host in hosts {
        let host = host.trim_matches(['[', ']']).to_owned();
        if !names.contains(&host) {
            names.push(host);
        }
    }
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut parameters = rcgen::CertificateParams::new(names)?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "roost");
    let certificate = parameters.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Where a file is until it is whole.
fn unnamed(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn write_unnamed(file: &Path, contents: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(unnamed(file))?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_replaced_by_one_that_can_be_used_and_by_no_other() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let certificate = load_or_make(one.path(), &[]).unwrap();
        let first = certificate.0.load().cert.clone();
        load_or_make(two.path(), &[]).unwrap();
        let (chain, key) = own_files(two.path());
        let other_key = own_files(one.path()).1;
        assert!(certificate.renew(&chain, &other_key).is_err(), "a key of another certificate");
        fs::write(one.path().join("empty"), "").unwrap();
        assert!(certificate.renew(&one.path().join("empty"), &key).is_err());
        assert_eq!(certificate.0.load().cert, first);
        certificate.renew(&chain, &key).unwrap();
        assert_ne!(certificate.0.load().cert, first);
    }

    #[test]
    fn a_node_that_died_while_it_made_its_certificate_has_one_when_it_starts_again() {
        let whole = tempfile::tempdir().unwrap();
        load_or_make(whole.path(), &[]).unwrap();
        let (certificate, key) = own_files(whole.path());
        // What is in the folder at each moment: where the certificate is, and where the key.
        for (chain_at, key_at) in [
            (None, None),
            (Some("web.crt.new"), None),
            (Some("web.crt.new"), Some("web.key.new")),
            (Some("web.crt.new"), Some("web.key")),
            (Some("web.crt"), Some("web.key")),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let put = |from: &Path, at: Option<&str>| {
                at.map(|name| fs::copy(from, folder.path().join(name)).unwrap());
            };
            put(&certificate, chain_at);
            put(&key, key_at);
            let made = load_or_make(folder.path(), &[]);
            assert!(made.is_ok(), "{chain_at:?}, {key_at:?}: {made:?}");
            let again = load_kept(folder.path()).unwrap().unwrap();
            assert_eq!(made.unwrap().0.load().cert, again.0.load().cert);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no remainder");
        }
        fs::remove_file(&certificate).unwrap();
        assert!(load_or_make(whole.path(), &[]).is_err(), "somebody took it away");
    }
}
