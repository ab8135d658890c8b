//! The other end of the admin socket: finds it, asks, and says what stands in the way. Every question has a connection
//! of its own and a time limit, so that one that hangs costs a few seconds and nothing else.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::grid::harmless;
use crate::base::Plain;

/// Where a process listens that may write there.
const SYSTEM_SOCKET: &str = "/run/ringway/admin.sock";
/// Where others listen, below `$XDG_RUNTIME_DIR`.
const USER_SOCKET: &str = "ringway/admin.sock";
/// The variable that names another socket.
const VARIABLE: &str = "RINGWAY_SOCKET";

/// How long a question may take, from the connect to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for an order that changes what runs; the process itself gives up a little earlier.
const ORDER_PATIENCE: Duration = Duration::from_secs(130);
/// Maximum number of bytes of an answer: a status with 100,000 backends has about 100 MB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// The exit status if the process refuses, or says no.
pub(super) const REFUSED: u8 = 1;
/// The exit status if nobody answers on the socket.
const NOBODY: u8 = 3;

/// The admin API of one process.
pub(super) struct Api {
    socket: PathBuf,
    runtime: Runtime,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Nobody answers on the socket.
    #[error("{}: {cause}; {remedy}", socket.display())]
    Nobody {
        /// The path of the socket.
        socket: PathBuf,
        /// What stands in the way.
        cause: String,
        /// What helps.
        remedy: &'static str,
    },
    /// The process refuses; the text is its own, a line for each reason, without other control characters.
    #[error("{0}")]
    Refused(String),
    /// The answer is not what this version of `ringway` understands.
    #[error(
        "the answer cannot be read ({0}); is the running process of another version? `--json` shows it as it is"
    )]
    Strange(String),
}

impl ApiError {
    /// Returns the exit status that says the same.
    pub(super) fn exit_status(&self) -> u8 {
        match self {
            Self::Nobody { .. } => NOBODY,
            Self::Refused(_) | Self::Strange(_) => REFUSED,
        }
    }
}

/// The body of an answer that refuses, for one reason or for several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Refusal {
    One { error: String },
    Several { errors: Vec<String> },
}

/// An answer: the text, and whether the process agreed.
struct Answer {
    status: StatusCode,
    body: String,
}

impl Api {
    /// Prepares for asking. Without a path, the socket is that of `RINGWAY_SOCKET`, else the system's, else the user's.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub(super) fn new(socket: Option<&Path>) -> io::Result<Self> {
        let socket = socket.map_or_else(default_socket, Path::to_owned);
        Ok(Self { socket, runtime: Builder::new_current_thread().enable_all().build()? })
    }

    /// Asks for a document as text.
    ///
    /// # Errors
    ///
    /// Nobody answers, or the process refuses.
    pub(super) fn get(&self, path: &str) -> Result<String, ApiError> {
        self.get_as(path, "application/json")
    }

    /// Asks for a document as text, in a format other than JSON.
    ///
    /// # Errors
    ///
    /// Nobody answers, or the process refuses.
    pub(super) fn get_as(&self, path: &str, format: &'static str) -> Result<String, ApiError> {
        agreed(self.ask(PATIENCE, Method::GET, path, format, String::new())?)
    }

    /// Asks for a document, and reads it.
    ///
    /// # Errors
    ///
    /// Nobody answers, the process refuses, or the document is not as expected.
    pub(super) fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        parse(&self.get(path)?)
    }

    /// Asks a question of which `503 Service Unavailable` means no. Returns the answer and its text.
    ///
    /// # Errors
    ///
    /// Nobody answers, or the process does not know what is asked about.
    pub(super) fn is_it_so(&self, path: &str) -> Result<(bool, String), ApiError> {
        let answer = self.ask(PATIENCE, Method::GET, path, "text/plain", String::new())?;
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            return Ok((false, harmless(answer.body.trim())));
        }
        Ok((true, agreed(answer)?))
    }

    /// Gives an order.
    ///
    /// # Errors
    ///
    /// Nobody answers, or the process refuses.
    pub(super) fn post(&self, path: &str, body: &impl Serialize) -> Result<String, ApiError> {
        let body = serde_json::to_string(body).map_err(|error| ApiError::Strange(error.to_string()))?;
        agreed(self.ask(PATIENCE, Method::POST, path, "application/json", body)?)
    }

    /// Removes something.
    ///
    /// # Errors
    ///
    /// Nobody answers, or the process refuses.
    pub(super) fn delete(&self, path: &str) -> Result<String, ApiError> {
        agreed(self.ask(PATIENCE, Method::DELETE, path, "application/json", String::new())?)
    }

    /// Gives an order that changes what runs, which may take minutes.
    ///
    /// # Errors
    ///
    /// Nobody answers, or the process refuses.
    pub(super) fn order(&self, method: Method, path: &str, body: &Value) -> Result<String, ApiError> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        agreed(self.ask(ORDER_PATIENCE, method, path, "application/json", body)?)
    }

    fn ask(
        &self,
        patience: Duration,
        method: Method,
        path: &str,
        accept: &str,
        body: String,
    ) -> Result<Answer, ApiError> {
        let exchange = exchange(&self.socket, method, path, accept, body);
        let answer = self.runtime.block_on(async { timeout(patience, exchange).await });
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.nobody(&error, patience)),
            Err(_) => Err(self.nobody(&io::ErrorKind::TimedOut.into(), patience)),
        }
    }

    fn nobody(&self, error: &io::Error, patience: Duration) -> ApiError {
        let (cause, remedy) = match error.kind() {
            io::ErrorKind::NotFound => (
                "no such socket".to_owned(),
                "start `ringway`, or name its socket with --socket or RINGWAY_SOCKET: its log says `the admin API is \
                 on ...`",
            ),
            io::ErrorKind::PermissionDenied => (
                "permission denied".to_owned(),
                "use `sudo`, or let your group in with `admin.socket_group` and `admin.socket_mode: \"0660\"`",
            ),
            io::ErrorKind::ConnectionRefused => (
                "nobody listens any more".to_owned(),
                "the process that made the socket has ended: start `ringway` again",
            ),
            io::ErrorKind::TimedOut => (
                format!("no answer within {} s", patience.as_secs()),
                "the process is stopped or overloaded: its log says more",
            ),
            _ => (Plain(error).to_string(), "does the path name the admin socket of a `ringway`?"),
        };
        ApiError::Nobody { socket: self.socket.clone(), cause, remedy }
    }
}

/// Reads a document.
///
/// # Errors
///
/// The document is not as expected.
pub(super) fn parse<T: DeserializeOwned>(document: &str) -> Result<T, ApiError> {
    serde_json::from_str(document).map_err(|error| ApiError::Strange(harmless(&error.to_string())))
}

/// Returns a text as part of a path or of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    accept: &str,
    body: String,
) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "ringway")
        .header("accept", accept)
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection ends before the answer is read to its end, or fails.
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

fn agreed(answer: Answer) -> Result<String, ApiError> {
    if answer.status.is_success() {
        return Ok(answer.body);
    }
    let reasons = match serde_json::from_str::<Refusal>(&answer.body) {
        Ok(Refusal::One { error }) => vec![error],
        Ok(Refusal::Several { errors }) => errors,
        Err(_) => vec![format!("{}: {}", answer.status, answer.body.trim())],
    };
    let reasons: Vec<_> = reasons.iter().map(|reason| harmless(reason)).collect();
    Err(ApiError::Refused(reasons.join("\n")))
}

fn default_socket() -> PathBuf {
    if let Some(named) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return named.into();
    }
    let user = env::var_os("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join(USER_SOCKET));
    // A folder that must not be looked into may hold the socket; asking for it says what is missing.
    let is_there = |path: &Path| !matches!(path.try_exists(), Ok(false));
    match user {
        Some(user) if !is_there(Path::new(SYSTEM_SOCKET)) && is_there(&user) => user,
        _ => SYSTEM_SOCKET.into(),
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! A process that answers what it is told to.

    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use tempfile::TempDir;

    /// Answers on a socket, one connection after the other, as long as the test lasts.
    pub(in super::super) struct Answering {
        pub(in super::super) socket: PathBuf,
        asked: Arc<Mutex<Vec<String>>>,
        _folder: TempDir,
    }

    impl Answering {
        /// `answer` gets the first line of a request and its body, and returns status and body.
        pub(in super::super) fn start(answer: impl Fn(&str, &str) -> (u16, String) + Send + 'static) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("admin.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            let asked = Arc::new(Mutex::new(Vec::new()));
            let noted = Arc::clone(&asked);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut reader = BufReader::new(stream.unwrap());
                    let (mut first, mut length) = (String::new(), 0);
                    reader.read_line(&mut first).unwrap();
                    loop {
                        let mut line = String::new();
                        reader.read_line(&mut line).unwrap();
                        let line = line.trim().to_lowercase();
                        if let Some(value) = line.strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        if line.is_empty() {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let body = String::from_utf8(body).unwrap();
                    let line = first.trim().trim_end_matches(" HTTP/1.1").to_owned();
                    let (status, text) = answer(&line, &body);
                    noted.lock().unwrap().push(format!("{line} {body}").trim().to_owned());
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", text.len());
                    // A client that has given up does not matter.
                    let _ = reader.get_mut().write_all((head + &text).as_bytes());
                }
            });
            Self { socket, asked, _folder: folder }
        }

        /// What was asked so far.
        pub(in super::super) fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Answering;
    use super::*;

    #[test]
    fn answer_is_the_body_and_a_refusal_its_sentence() {
        let process = Answering::start(|line, _| match line {
            "GET /good" => (200, "{}".into()),
            "GET /bad" => (404, r#"{"error": "no such thing"}"#.into()),
            "GET /worse" => (422, r#"{"errors": ["first\nline", "second"]}"#.into()),
            "GET /not" => (503, "not ready: draining\n".into()),
            "GET /evil" => (404, r#"{"error": "\u001b]0;mine\u0007"}"#.into()),
            _ => (500, "oops\n".into()),
        });
        let api = Api::new(Some(&process.socket)).unwrap();
        assert_eq!(api.get("/good").unwrap(), "{}");
        assert_eq!(api.get("/bad").unwrap_err().to_string(), "no such thing");
        assert_eq!(api.get("/worse").unwrap_err().to_string(), "first\\nline\nsecond");
        assert_eq!(api.get("/evil").unwrap_err().to_string(), "\\u{1b}]0;mine\\u{7}", "no terminal obeys it");
        assert_eq!(api.get("/other").unwrap_err().to_string(), "500 Internal Server Error: oops");
        assert_eq!(api.is_it_so("/not").unwrap(), (false, "not ready: draining".into()));
        assert!(api.is_it_so("/good").unwrap().0);
        assert!(matches!(api.is_it_so("/bad"), Err(ApiError::Refused(_))));
    }

    #[test]
    fn who_is_not_there_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let api = Api::new(Some(&socket)).unwrap();
        let said = || api.get("/").unwrap_err().to_string();
        assert!(said().contains("admin.sock: no such socket; start"), "{}", said());
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(said().contains("nobody listens any more"), "{}", said());
        std::fs::remove_file(&socket).unwrap();
        std::fs::write(&socket, "").unwrap();
        assert!(matches!(api.get("/"), Err(ApiError::Nobody { .. })), "{}", said());
    }

    #[test]
    fn who_may_not_ask_learns_how_to_be_let_in() {
        let error = Api::new(Some(Path::new("/x")))
            .unwrap()
            .nobody(&io::ErrorKind::PermissionDenied.into(), PATIENCE);
        let text = error.to_string();
        for words in ["/x: permission denied", "sudo", "admin.socket_group", "admin.socket_mode"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn connection_that_ends_early_is_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || drop(listener.accept()));
        let error = Api::new(Some(&socket)).unwrap().get("/").unwrap_err();
        assert!(matches!(error, ApiError::Nobody { .. }), "{error}");
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("web-1/ä b"), "web-1%2F%C3%A4%20b");
    }
}
