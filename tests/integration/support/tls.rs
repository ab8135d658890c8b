//! Certificates, and the other ends of TLS: clients and backends over `rustls`, whose calls never wait for ever.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned, SupportedProtocolVersion,
};
use tempfile::TempDir;

use super::{Connection, PATIENCE};

/// A CA, and what it has signed, in files.
pub struct Authority {
    folder: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// One CA for all tests.
pub static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

impl Authority {
    /// With certificates for `a.example` and `b.example`, of servers, and for `client`.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::with_prefix("ringway-tls").unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        let this = Self { folder, ca };
        ["a.example", "b.example", "client"].into_iter().for_each(|name| this.sign(name));
        this
    }

    /// Signs a new certificate for a name, over the files of the last one.
    pub fn sign(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.folder.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// An entry of `tls.certificates`.
    pub fn entry(&self, name: &str) -> String {
        let file = |end: &str| self.path(&format!("{name}.{end}")).display().to_string();
        format!("{{certificate: {}, key: {}}}", file("pem"), file("key"))
    }

    /// `tls` of a listener with the certificate for `a.example`, and these keys.
    pub fn listener(&self, keys: &str) -> String {
        format!("tls: {{certificates: [{}], {keys}}}", self.entry("a.example"))
    }

    /// `tls` of an upstream whose backends are all called `a.example`, with these keys.
    pub fn upstream(&self, keys: &str) -> String {
        format!("tls: {{ca: {}, server_name: a.example, {keys}}}", self.path("ca.pem").display())
    }

    fn pair(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap();
        (vec![certificate], PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        roots
    }

    /// A client's settings, with its own certificate if it gives one.
    pub fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        certificate: Option<&str>,
    ) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots());
        match certificate.map(|name| self.pair(name)) {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        }
    }

    /// A server's settings. It sends no tickets: whoever closes before it has read them resets the connection.
    pub fn server(&self, name: &str, asks_for_certificates: bool) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks_for_certificates {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let (chain, key) = self.pair(name);
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.send_tls13_tickets = 0;
        config
    }
}

/// A client that speaks TLS.
pub struct TlsClient(pub StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// Connects, and asks for a name.
    pub fn connect(config: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut client = Self(StreamOwned::new(connection, socket));
        client.0.conn.complete_io(&mut client.0.sock)?;
        Ok(client)
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    pub fn receive_exact(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub fn echo(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes)?;
        assert_eq!(self.receive_exact(bytes.len())?, bytes);
        Ok(())
    }

    /// Ends its stream, in TLS.
    pub fn end(&mut self) -> io::Result<()> {
        self.0.conn.send_close_notify();
        self.0.flush()
    }

    /// All bytes until the end in TLS; an end in TCP alone is an error.
    pub fn receive_all(&mut self) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let end = self.0.read_to_end(&mut bytes).map(drop);
        (bytes, end)
    }

    pub fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

struct Plain<'a>(&'a Connection);

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.receive(buffer)
    }
}

impl Write for Plain<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a backend says on a connection with TLS.
pub trait Talk: Read + Write {
    /// Ends its stream, in TLS.
    fn end(&mut self) -> io::Result<()>;
}

impl Talk for StreamOwned<ServerConnection, Plain<'_>> {
    fn end(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        self.flush()
    }
}

/// Serves one connection of a backend with TLS.
pub fn talk_tls(
    config: &Arc<ServerConfig>,
    connection: &Connection,
    talk: impl FnOnce(&mut dyn Talk) -> io::Result<()>,
) -> io::Result<()> {
    let server = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    talk(&mut StreamOwned::new(server, Plain(connection)))
}

/// Sends back what comes, and ends after the peer has.
pub fn echo_tls(talk: &mut dyn Talk) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match talk.read(&mut buffer)? {
            0 => return talk.end(),
            count => {
                talk.write_all(&buffer[..count])?;
                talk.flush()?;
            }
        }
    }
}
