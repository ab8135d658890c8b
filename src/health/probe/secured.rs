//! Exchanges inside of TLS, from the first byte on, with what sessions of the upstream go by.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::BackendTls;

use super::connection::Connection;
use super::error::ExchangeError;

/// How a backend is reached by TLS.
pub(crate) struct Secured {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Secured {
    /// Offers the backend these protocols (ALPN); without them, those of the upstream.
    pub(super) fn new(tls: &BackendTls, protocols: Option<&[&str]>) -> Self {
        Self { config: Arc::new(tls.for_checks(protocols)), name: tls.name().clone() }
    }

    /// Goes by this configuration, and asks for this name.
    pub(super) fn with(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self { config, name }
    }

    /// Shakes hands. What then comes and goes is plaintext.
    pub(super) async fn shake_hands(&self, connection: Connection) -> Result<SecuredStream, ExchangeError> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connected = connector.connect(self.name.clone(), connection).await;
        connected.map(SecuredStream).map_err(|error| ExchangeError::of_socket("TLS handshake", &error))
    }
}

impl std::fmt::Debug for Secured {
    /// Leaves out the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secured({:?})", self.name)
    }
}

/// A connection whose handshake is over. Its drop tells the backend that the end is meant.
pub(super) struct SecuredStream(TlsStream<Connection>);

impl AsyncRead for SecuredStream {
    /// A backend that ends its stream in TCP and not in TLS has ended it: each exchange knows by itself whether its answer is
    /// whole.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

impl AsyncWrite for SecuredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl Drop for SecuredStream {
    fn drop(&mut self) {
        // As much of it as the socket takes now. That the backend cannot be told changes nothing.
        let _ = Pin::new(&mut self.0).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::time::Duration;

    use rcgen::{KeyPair, date_time_ymd};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, server};

    use super::super::testing::*;
    use super::super::{ProbeOutcome, Question, Sockets, probe};
    use crate::base::Address;
    use crate::config::testing::{Ca, Folder, Pem};
    use crate::protocol::proxy::{self, Progress, Version};
    use crate::tls::{ClientSettings, provider};

    type Server = server::TlsStream<TcpStream>;

    /// The backend is called `a.example`, and its certificate comes from `ca`.
    struct Scene {
        ca: Ca,
        folder: Folder,
    }

    impl Scene {
        fn new() -> Self {
            let ca = Ca::new("CA");
            let folder = Folder::default()
                .with("ca.pem", &ca.pem)
                .with("others.pem", Ca::new("others").pem)
                .with_pem("own", &ca.leaf(&["ringway"]));
            Self { ca, folder }
        }

        /// What an upstream with this `tls` asks by this check.
        fn question(&self, tls: &str, check: &str) -> Question {
            self.question_of("a.example", tls, check)
        }

        fn question_of(&self, host: &str, tls: &str, check: &str) -> Question {
            let keys = format!(", healthcheck: {{{check}}}");
            let parsed =
                self.folder.upstream(tls, &keys, &format!("{{name: a, address: {host}, port: 443}}"));
            let parsed = parsed.unwrap_or_else(|report| panic!("{report}"));
            let upstream = &parsed.config.upstreams[0];
            let of = upstream.tls.as_ref().expect("it is written");
            let settings = ClientSettings::new("u", of, &upstream.backends, None).expect("settings");
            let check = upstream.healthcheck.as_ref().expect("it is on");
            Question::new(check, &upstream.backends[0].address, settings.backend("a"))
        }

        fn usual(&self) -> Acceptor {
            self.acceptor(&self.ca.leaf(&["a.example"]))
        }

        fn acceptor(&self, pem: &Pem) -> Acceptor {
            acceptor(pem, None)
        }

        /// Wants certificates of clients.
        fn strict(&self) -> Acceptor {
            acceptor(&self.ca.leaf(&["a.example"]), Some(&self.ca))
        }
    }

    struct Acceptor(TlsAcceptor);

    fn acceptor(pem: &Pem, clients: Option<&Ca>) -> Acceptor {
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().expect("ciphers");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("PEM")).expect("a CA");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
                builder.with_client_cert_verifier(verifier.expect("CAs"))
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).expect("PEM");
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"redis".to_vec()];
        Acceptor(TlsAcceptor::from(Arc::new(config)))
    }

    impl Acceptor {
        /// Serves whoever comes through the handshake.
        async fn serve(&self, stream: TcpStream, serve: impl AsyncFnOnce(&mut Server)) {
            let Ok(mut stream) = self.0.accept(stream).await else { return };
            serve(&mut stream).await;
        }

        async fn answer(&self, stream: TcpStream, answer: &str) {
            self.serve(stream, async |stream| {
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"\r\n\r\n") {
                    // A client may be refused after its side of the handshake.
                    let Ok(byte) = stream.read_u8().await else { return };
                    bytes.push(byte);
                }
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.flush().await;
            })
            .await;
        }
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

    #[tokio::test]
    async fn http_is_asked_inside_of_tls_and_nothing_newer_is_offered() {
        let scene = Scene::new();
        let acceptor = scene.usual();
        for (host, tls, check, expected) in [
            ("a.example", "{ca: ca.pem, alpn: [h2]}", "type: http", "a.example"),
            ("a.example", "{ca: ca.pem}", "type: http, port: 8443", "a.example:8443"),
            ("127.0.0.1", "{ca: ca.pem, server_name: a.example}", "type: http", "a.example"),
            ("127.0.0.1", "{verify: off}", "type: http", "127.0.0.1"),
            ("b.example", "{ca: ca.pem, server_name: a.example}", "type: http, host: x", "x"),
        ] {
            let seen = RefCell::new((None, String::new()));
            let serve = async |stream: TcpStream| {
                acceptor
                    .serve(stream, async |stream| {
                        let request = read_to(stream, b"\r\n\r\n").await;
                        let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                        *seen.borrow_mut() = (protocol, String::from_utf8(request).expect("text"));
                        stream.write_all(OK.as_bytes()).await.expect("there is room");
                    })
                    .await;
            };
            let question = scene.question_of(host, tls, check);
            assert_eq!(ask(&question, serve).await, ProbeOutcome::Success(0), "{tls}");
            let (protocol, request) = seen.into_inner();
            assert_eq!(protocol.as_deref(), Some(&b"http/1.1"[..]), "{tls}");
            assert!(request.contains(&format!("\r\nhost: {expected}\r\n")), "{request}");
        }
    }

    #[tokio::test]
    async fn a_failure_says_what_is_wrong_with_the_certificate() {
        let scene = Scene::new();
        let leaf = |from: i32, until: i32| {
            scene.ca.leaf_with(&["a.example"], KeyPair::generate().expect("a key"), |params| {
                (params.not_before, params.not_after) =
                    (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
            })
        };
        let other = "the certificate is for other.example, 192.0.2.1, not for a.example";
        for (pem, tls, why) in [
            (scene.ca.leaf(&["other.example", "192.0.2.1"]), "{ca: ca.pem}", other),
            (leaf(2000, 2001), "{ca: ca.pem}", "the certificate has expired on 2001-01-01"),
            (leaf(4000, 4001), "{ca: ca.pem}", "the certificate is not valid before 4000-01-01"),
            (
                scene.ca.leaf(&["a.example"]),
                "{ca: others.pem}",
                "the certificate comes from no CA in `ca` of the upstream",
            ),
        ] {
            let acceptor = scene.acceptor(&pem);
            for check in ["type: http", "type: tls", "type: redis", "type: smtp"] {
                let serve = async |stream: TcpStream| acceptor.answer(stream, OK).await;
                let cause = ask_in_vain(&scene.question(tls, check), serve).await;
                assert_eq!(cause, format!("TLS handshake: {why}"), "{check}");
            }
        }
        // Where nobody checks it, and where it is only asked whether somebody accepts.
        let acceptor = scene.acceptor(&leaf(2000, 2001));
        let serve = async |stream: TcpStream| acceptor.answer(stream, OK).await;
        for (tls, check) in [
            ("{verify: off}", "type: http"),
            ("{verify: off}", "type: tls"),
            ("{ca: others.pem}", "type: tcp"),
        ] {
            assert_eq!(ask(&scene.question(tls, check), serve).await, ProbeOutcome::Success(0), "{check}");
        }
    }

    #[tokio::test]
    async fn a_backend_whose_certificate_is_refused_is_told_why() {
        let scene = Scene::new();
        let acceptor = scene.usual();
        for check in ["type: http", "type: tls"] {
            let told = async |stream: TcpStream| {
                let error = acceptor.0.accept(stream).await.expect_err("it is refused");
                error.to_string()
            };
            let (outcome, told) = ask_to_the_end(&scene.question("{ca: others.pem}", check), told).await;
            assert!(outcome.is_err());
            assert_eq!(told, "received fatal alert: UnknownCA", "{check}");
        }
    }

    #[tokio::test]
    async fn a_backend_that_wants_a_certificate_gets_that_of_the_upstream() {
        let scene = Scene::new();
        let acceptor = scene.strict();
        let serve = async |stream: TcpStream| {
            acceptor.answer(stream, OK).await;
        };
        for check in ["type: http", "type: tls"] {
            let with = scene.question("{ca: ca.pem, certificate: own.pem, key: own-key.pem}", check);
            assert_eq!(ask(&with, serve).await, ProbeOutcome::Success(0), "{check}");
            let cause = ask_in_vain(&scene.question("{ca: ca.pem}", check), serve).await;
            assert!(
                cause.contains(": the backend wants a certificate; add `certificate` and `key`"),
                "{cause}"
            );
        }
    }

    #[tokio::test]
    async fn a_name_for_the_check_replaces_that_of_the_backend() {
        let scene = Scene::new();
        let acceptor = scene.acceptor(&scene.ca.leaf(&["probe.example"]));
        let serve = async |stream: TcpStream| acceptor.answer(stream, OK).await;
        let question = scene.question("{ca: ca.pem}", "type: tls, host: probe.example");
        assert_eq!(ask(&question, serve).await, ProbeOutcome::Success(0));
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_in_tcp_counts_as_far_as_it_came() {
        let scene = Scene::new();
        let acceptor = scene.usual();
        let cut = async |stream: TcpStream, answer: &str| {
            acceptor.answer(stream, answer).await;
            // The drop ends the connection without a word of TLS.
        };
        let question = scene.question("{ca: ca.pem}", "type: http");
        for answer in
            [OK, "HTTP/1.0 200 OK\r\n\r\nto the end", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"]
        {
            let outcome = ask(&question, async |stream| cut(stream, answer).await).await;
            assert_eq!(outcome, ProbeOutcome::Success(0), "{answer}");
        }
        let cause = ask_in_vain(&question, async |stream| cut(stream, "HTTP/1.1 200 OK\r\nSe").await).await;
        assert_eq!(cause, "no HTTP response: connection closed before message completed");
        let greet = async |stream: TcpStream| {
            acceptor
                .serve(stream, async |stream| {
                    stream.write_all(b"220 he").await.expect("there is room");
                    stream.flush().await.expect("there is room");
                })
                .await;
        };
        let cause = ask_in_vain(&scene.question("{ca: ca.pem}", "type: smtp"), greet).await;
        assert!(cause.ends_with("only `220 he`; the connection ended"), "{cause}");
    }

    #[tokio::test]
    async fn other_protocols_are_spoken_inside_of_tls() {
        let scene = Scene::new();
        let acceptor = scene.usual();
        let redis = async |stream: TcpStream| {
            acceptor
                .serve(stream, async |stream| {
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"redis"[..]));
                    read_to(stream, b"PING\r\n").await;
                    stream.write_all(b"+PONG\r\n").await.expect("there is room");
                    let mut rest = Vec::new();
                    stream.read_to_end(&mut rest).await.expect("an end that is meant");
                })
                .await;
        };
        let question = scene.question("{ca: ca.pem, alpn: [redis]}", "type: redis");
        assert_eq!(ask_to_the_end(&question, redis).await.0, Ok(()));
        let smtp = async |stream: TcpStream| {
            acceptor
                .serve(stream, async |stream| {
                    stream.write_all(b"220 here\r\n").await.expect("there is room");
                    read_to(stream, b"\r\n").await;
                    stream.write_all(b"250 hello\r\n").await.expect("there is room");
                    let mut rest = Vec::new();
                    stream.read_to_end(&mut rest).await.expect("an end that is meant");
                })
                .await;
        };
        assert_eq!(ask_to_the_end(&scene.question("{ca: ca.pem}", "type: smtp"), smtp).await.0, Ok(()));
        let echo = async |stream: TcpStream| {
            acceptor
                .serve(stream, async |stream| {
                    read_to(stream, b"hello").await;
                    stream.write_all(b"world").await.expect("there is room");
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                })
                .await;
        };
        let steps = "type: send_expect, steps: [{send: hello, expect: world}]";
        assert_eq!(ask_to_the_end(&scene.question("{ca: ca.pem}", steps), echo).await.0, Ok(()));
    }

    #[tokio::test]
    async fn handshakes_have_the_time_of_the_check() {
        let scene = Scene::new();
        for check in ["type: http", "type: tls", "type: redis"] {
            let cause = ask_too_long(&scene.question("{ca: ca.pem}", check), hang).await;
            assert_eq!(cause, "no end of the TLS handshake in 200ms", "{check}");
        }
        let acceptor = scene.usual();
        let silent = async |stream: TcpStream| {
            acceptor.serve(stream, async |_| std::future::pending::<()>().await).await;
        };
        let cause = ask_too_long(&scene.question("{ca: ca.pem}", "type: http"), silent).await;
        assert_eq!(cause, "no HTTP response in 200ms");
        // After the handshake a backend need not say anything, however short the check.
        let question = scene.question("{ca: ca.pem}", "type: tls");
        let outcome = ask_for(&question, Duration::from_millis(900), silent).await;
        assert_eq!(outcome, ProbeOutcome::Success(0));
    }

    #[tokio::test]
    async fn a_backend_that_speaks_no_tls_fails() {
        let scene = Scene::new();
        let plain = async |mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("there is room");
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let cause = ask_in_vain(&scene.question("{ca: ca.pem}", "type: http"), plain).await;
        assert_eq!(cause, "TLS handshake: received corrupt message of type InvalidContentType");
    }

    #[tokio::test]
    async fn the_proxy_header_comes_before_tls() {
        let scene = Scene::new();
        let (acceptor, question) = (scene.usual(), scene.question("{ca: ca.pem}", "type: http"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = [Address::Tcp(listener.local_addr().expect("it is bound"))];
        let serving = async {
            let (mut stream, _) = listener.accept().await.expect("it connects");
            let mut header = Vec::new();
            let read = loop {
                header.push(stream.read_u8().await.expect("the header"));
                if let Progress::Complete { header, .. } = proxy::read(&header) {
                    break header;
                }
            };
            assert_eq!(read.endpoints, None, "it is of nobody");
            acceptor.answer(stream, OK).await;
        };
        let asking = probe(&Sockets, &address, &question, Some(Version::V2), Duration::from_secs(30));
        assert_eq!(tokio::join!(asking, serving).0, ProbeOutcome::Success(0));
    }
}
