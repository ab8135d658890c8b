//! A client of the admin API: one request a connection. And a process that it asks.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{PATIENCE, Process, ProcessBuilder};

/// An endpoint of the admin API.
#[derive(Clone, Debug)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A connection to it.
pub trait Stream: Read + Write + Send {
    /// Sends the end of the stream.
    fn end(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// A process with an admin socket, and no TCP endpoint.
pub struct Asked {
    pub process: Process,
    pub socket: Endpoint,
    _folder: TempDir,
}

impl Asked {
    #[track_caller]
    pub fn start(builder: ProcessBuilder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let process = builder.admin(&format!("listen_address: off, socket: '{}'", path.display())).start();
        Self { process, socket: Endpoint::Unix(path), _folder: folder }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// The status line and the headers, with names in lowercase.
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The sentence of a failure.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }
}

impl Endpoint {
    pub fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
        })
    }

    /// The `Host` of its URL.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "")
    }

    /// Asks with these headers and this body, to the end of the connection.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let host = if headers.iter().any(|(name, _)| *name == "host") {
            String::new()
        } else {
            format!("host: {}\r\n", self.host())
        };
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        self.send(request.as_bytes()).unwrap_or_else(|error| panic!("{method} {path} on {self:?}: {error}"))
    }

    /// Sends these bytes, and reads what comes back to its end.
    pub fn send(&self, request: &[u8]) -> io::Result<Reply> {
        let mut stream = self.connect()?;
        // An answer may come before the end of a request that is too large.
        let sent = stream.write_all(request);
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        match text.split_once("\r\n\r\n") {
            Some((head, body)) => {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                let head = head.split("\r\n").map(|line| match line.split_once(':') {
                    Some((name, value)) => format!("{}:{value}\n", name.to_lowercase()),
                    None => format!("{line}\n"),
                });
                let status = status.ok_or(io::ErrorKind::InvalidData)?;
                Ok(Reply { status, head: head.collect(), body: body.to_owned() })
            }
            None => Err(sent.and(read).err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
        }
    }
}
