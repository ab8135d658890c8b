//! The exchange of `type: http`: a GET whose response has one of the expected statuses.
//!
//! HTTP/1.1, one request a connection, in TLS where the upstream has `tls`. The response is read to the end of its head; redirects are
//! not followed, their status is what counts.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::pin::pin;

use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;

use crate::base::limits;
use crate::config::{BackendAddress, HttpCheck, Statuses};

use super::connection::Connection;
use super::error::ExchangeError;

const AGENT: &str = concat!("ringway/", env!("CARGO_PKG_VERSION"));
/// A header of one byte without a value, and the end of its line.
const SHORTEST_HEADER: usize = 4;
/// The ports that a `Host` leaves out.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// What one backend is asked.
#[derive(Debug)]
pub(crate) struct Get {
    path: String,
    host: String,
    expected: Statuses,
}

impl Get {
    /// `port` is the one that is checked, where it is not the backend's; `name` is that of the backend in TLS.
    pub(super) fn new(
        check: &HttpCheck,
        backend: &BackendAddress,
        port: Option<u16>,
        name: Option<&ServerName<'_>>,
    ) -> Self {
        Self {
            path: check.path.clone(),
            host: check.host.clone().unwrap_or_else(|| host_of(backend, port, name)),
            expected: check.expect_status.clone(),
        }
    }

    pub(super) async fn run(&self, connection: Connection) -> Result<(), ExchangeError> {
        let status = self.status(connection).await.map_err(|error| fault(&*error))?.as_u16();
        if self.expected.contains(status) {
            return Ok(());
        }
        Err(ExchangeError::of_backend(format!("status {status}, expected {}", self.expected)))
    }

    async fn status(&self, connection: Connection) -> Result<StatusCode, Box<dyn Error>> {
        // The configuration lets no path and no host through that would not do here.
        let request = Request::get(&self.path)
            .header(HOST, &self.host)
            .header(USER_AGENT, AGENT)
            .header(CONNECTION, "close")
            .body(String::new())?;
        let (mut sender, driver) = http1::Builder::new()
            .max_buf_size(limits::CHECK_HEAD_BYTES_MAX)
            // The bytes of the head bound their number; the default is 100.
            .max_headers(limits::CHECK_HEAD_BYTES_MAX / SHORTEST_HEADER)
            .handshake(TokioIo::new(connection))
            .await?;
        let mut response = pin!(sender.send_request(request));
        // The driver moves the bytes. Once it is gone, the response is there or never comes.
        let response = tokio::select! {
            biased;
            response = &mut response => response,
            ended = driver => response.await.map_err(|error| ended.err().unwrap_or(error)),
        };
        Ok(response?.status())
    }
}

/// The backend's name or address, with the port as a URI would have it. In TLS it is the name that the backend is asked for:
/// servers refuse a request for another one.
fn host_of(backend: &BackendAddress, port: Option<u16>, name: Option<&ServerName<'_>>) -> String {
    let (host, own) = match backend {
        // Without the zone of an IPv6 address, which means nothing to others.
        BackendAddress::Ip(address) => (bracketed(address.ip()), Some(address.port())),
        BackendAddress::Host { name, port } => (name.clone(), Some(*port)),
        BackendAddress::Zoned(address) => (format!("[{}]", address.ip), Some(address.port)),
        BackendAddress::Unix(_) => ("localhost".to_owned(), None),
    };
    let (host, usual) = match name {
        None => (host, HTTP_PORT),
        Some(ServerName::IpAddress(ip)) => (bracketed((*ip).into()), HTTPS_PORT),
        Some(name) => (name.to_str().into_owned(), HTTPS_PORT),
    };
    match own.map(|own| port.unwrap_or(own)).filter(|port| *port != usual) {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// An error of the client, which hides that of the socket as its source.
fn fault(error: &(dyn Error + 'static)) -> ExchangeError {
    let mut inner = Some(error);
    while let Some(error) = inner {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return ExchangeError::of_socket("HTTP", error);
        }
        inner = error.source();
    }
    ExchangeError::of_backend(format!("no HTTP response: {error}"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use hyper::Uri;
    use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixListener};

    use super::super::testing::*;
    use super::super::{ProbeOutcome, Question, Sockets, probe};
    use super::*;
    use crate::base::Address;
    use crate::config::{self, CheckKind};

    fn get(expected: &[std::ops::RangeInclusive<u16>]) -> Question {
        Question::Http(Get {
            path: "/healthz?full=1".to_owned(),
            host: "example.com".to_owned(),
            expected: Statuses::new(expected.to_vec()),
        })
    }

    fn usual() -> Question {
        get(&[200..=399])
    }

    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, response: &str) {
        read_to(&mut stream, b"\r\n\r\n").await;
        // The check may have seen enough.
        let _ = stream.write_all(response.as_bytes()).await;
    }

    #[tokio::test]
    async fn statuses_in_the_range_succeed() {
        for response in [
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nbody to the end",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n",
            "HTTP/1.1 399\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            // More body than ever comes.
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nx",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a chunk",
        ] {
            let outcome = ask(&usual(), async |stream| answer(stream, response).await).await;
            assert_eq!(outcome, ProbeOutcome::Success(0), "{response}");
        }
    }

    #[tokio::test]
    async fn other_statuses_fail() {
        for (status, question, cause) in [
            (503, usual(), "status 503, expected 200-399"),
            (400, usual(), "status 400, expected 200-399"),
            (199, usual(), "no HTTP response: "),
            (700, usual(), "status 700, expected 200-399"),
            (201, get(&[200..=200, 204..=204]), "status 201, expected 200, 204"),
        ] {
            let response = format!("HTTP/1.1 {status} Thus\r\nContent-Length: 0\r\n\r\n");
            let found = ask_in_vain(&question, async |stream| answer(stream, &response).await).await;
            assert!(found.starts_with(cause), "{status}: {found}");
        }
    }

    #[tokio::test]
    async fn the_request_is_plain() {
        let request = RefCell::new(Vec::new());
        let serve = async |mut stream: TcpStream| {
            *request.borrow_mut() = read_to(&mut stream, b"\r\n\r\n").await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        };
        assert_eq!(ask(&usual(), serve).await, ProbeOutcome::Success(0));
        let expected = format!(
            "GET /healthz?full=1 HTTP/1.1\r\nhost: example.com\r\nuser-agent: {AGENT}\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(String::from_utf8(request.into_inner()).unwrap(), expected);
    }

    #[tokio::test]
    async fn many_headers_are_as_good_as_few() {
        let response = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(2_000));
        let outcome = ask(&usual(), async |stream| answer(stream, &response).await).await;
        assert_eq!(outcome, ProbeOutcome::Success(0));
    }

    #[tokio::test]
    async fn what_is_no_http_fails() {
        let cause = async |response: &str| {
            ask_in_vain(&usual(), async |stream: TcpStream| answer(stream, response).await).await
        };
        assert_eq!(cause("SSH-2.0-OpenSSH_9.2\r\n").await, "no HTTP response: invalid HTTP version parsed");
        assert_eq!(
            cause("HTTP/1.1 two hundred\r\n\r\n").await,
            "no HTTP response: invalid HTTP status-code parsed"
        );
        let ended = "no HTTP response: connection closed before message completed";
        assert_eq!(cause("").await, ended);
        assert_eq!(cause("HTTP/1.1 200 OK\r\nServ").await, ended);
        let large = "no HTTP response: message head is too large";
        let header = format!("X: {}\r\n", "y".repeat(limits::CHECK_HEAD_BYTES_MAX));
        assert_eq!(cause(&format!("HTTP/1.1 200 OK\r\n{header}\r\n")).await, large);
        assert_eq!(cause(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(5_000))).await, large);
    }

    #[tokio::test]
    async fn a_reset_fails_with_what_the_socket_said() {
        let cause = ask_in_vain(&usual(), reset).await;
        assert_eq!(cause, "HTTP: Connection reset by peer");
    }

    #[tokio::test]
    async fn silence_and_a_slow_head_run_into_the_timeout() {
        assert_eq!(ask_too_long(&usual(), hang).await, "no HTTP response in 200ms");
        let drip = async |mut stream: TcpStream| {
            let head = "HTTP/1.1 200 OK\r\n".bytes().chain("X-Drip: y\r\n".bytes().cycle());
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(1));
            for byte in head {
                tick.tick().await;
                if stream.write_u8(byte).await.is_err() {
                    break;
                }
            }
        };
        assert_eq!(ask_too_long(&usual(), drip).await, "no HTTP response in 200ms");
    }

    #[tokio::test]
    async fn a_socket_file_is_asked_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = async {
            answer(listener.accept().await.unwrap().0, "HTTP/1.1 500 No\r\n\r\n").await;
        };
        let (address, question) = ([Address::Unix(path)], usual());
        let asking = probe(&Sockets, &address, &question, None, std::time::Duration::from_secs(30));
        let (outcome, ()) = tokio::join!(asking, serving);
        let cause = format!("{}: status 500, expected 200-399", address[0]);
        assert_eq!(outcome, ProbeOutcome::Failure(cause));
    }

    #[test]
    fn the_host_is_the_backends_where_none_is_written() {
        let host = |name: &str, port| BackendAddress::Host { name: name.to_owned(), port };
        let ip = |text: &str| BackendAddress::Ip(text.parse().unwrap());
        for (backend, port, expected) in [
            (host("localhost", 8081), None, "localhost:8081"),
            (host("example.com", 80), None, "example.com"),
            (host("example.com", 80), Some(8080), "example.com:8080"),
            (ip("10.0.0.1:8080"), Some(80), "10.0.0.1"),
            (ip("10.0.0.1:8080"), None, "10.0.0.1:8080"),
            (ip("[::1]:80"), None, "[::1]"),
            (ip("[fe80::1%3]:81"), None, "[fe80::1]:81"),
            (BackendAddress::Unix("/run/x".into()), None, "localhost"),
        ] {
            assert_eq!(host_of(&backend, port, None), expected);
        }
        for (name, backend, port, expected) in [
            ("a.example", host("b.example", 443), None, "a.example"),
            ("a.example", ip("10.0.0.1:80"), None, "a.example:80"),
            ("a.example", ip("10.0.0.1:8443"), Some(443), "a.example"),
            ("a.example", BackendAddress::Unix("/run/x".into()), None, "a.example"),
            ("10.0.0.1", ip("10.0.0.1:443"), None, "10.0.0.1"),
            ("::1", ip("[::1]:8443"), None, "[::1]:8443"),
        ] {
            let name = ServerName::try_from(name).unwrap();
            assert_eq!(host_of(&backend, port, Some(&name)), expected);
        }
    }

    /// What the configuration takes for a path, the client takes as well, and sends as it is.
    #[test]
    fn every_path_of_a_configuration_can_be_asked_for() {
        let mut accepted = 0;
        for character in (0x20..0x7f_u8).map(char::from) {
            let written = format!("/a{character}b").replace('\'', "''");
            let text = format!(
                "loadbalancer: {{listen_address: ':1'}}\nbackends: [{{address: a, port: 2}}]\n\
                 healthcheck: {{type: http, path: '{written}'}}\n"
            );
            let Ok(parsed) = config::parse("file", text.as_bytes()) else { continue };
            let check = parsed.config.upstreams[0].healthcheck.as_ref().expect("it is on");
            let CheckKind::Http(http) = &check.kind else { panic!("{check:?}") };
            let uri = Uri::try_from(&http.path).unwrap();
            assert_eq!(uri.path_and_query().map(|both| both.as_str()), Some(&*http.path));
            accepted += 1;
        }
        assert_eq!(accepted, 62 + "/-._~%!$&'()*+,;=:@?".len());
    }
}
