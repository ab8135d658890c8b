//! The configuration of a test, as a file has it: one listener, one upstream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ringway::config::{self, Files, parse_with};
use tempfile::TempDir;

use super::{Backend, Reserved, V4};

/// Switches the admin API off: tests run in crowds, on one machine with one default address.
pub const NO_ADMIN: &str = "admin: {listen_address: off, socket: off}\n";

/// Parses a file, and the files that it names.
#[track_caller]
pub fn parse(yaml: &str) -> config::Config {
    let mut files = Files::default();
    loop {
        let parsed = parse_with("test.yaml", yaml.as_bytes(), &files);
        let wanted = files.take_wanted();
        if wanted.is_empty() {
            return parsed.unwrap_or_else(|report| panic!("{report}\n{yaml}")).config;
        }
        for path in wanted {
            let content = std::fs::read(&path).map_err(|error| error.to_string());
            files.insert(path, content);
        }
    }
}

/// What will be written. Both builders, of a balancer and of a process, hold one.
pub struct Config {
    listen: Listen,
    admin: String,
    sections: Vec<String>,
    runtime: Lines,
    listener: Lines,
    /// Path of the Unix socket of another listener.
    also_on: Option<PathBuf>,
    upstream: Lines,
    backends: Vec<String>,
}

enum Listen {
    Ip(IpAddr),
    Unix(PathBuf),
}

/// The lines of one section. A line replaces an earlier one with the same key, such as a default.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn set(&mut self, line: &str) {
        let key = |line: &str| line.split(':').next().map(str::to_owned);
        self.0.retain(|earlier| key(earlier) != key(line));
        self.0.push(line.to_owned());
    }

    fn write(&self, indent: &str) -> String {
        self.0.iter().map(|line| format!("{indent}{line}\n")).collect()
    }
}

impl Config {
    /// Listens on 127.0.0.1, has so many shards and no checks.
    pub fn new(cores: usize) -> Self {
        let mut config = Self {
            listen: Listen::Ip(V4),
            admin: NO_ADMIN.to_owned(),
            sections: Vec::new(),
            runtime: Lines::default(),
            listener: Lines::default(),
            also_on: None,
            upstream: Lines::default(),
            backends: Vec::new(),
        };
        config.runtime(&format!("cores: {cores}"));
        config.upstream("healthcheck: off");
        config
    }

    pub fn backends<'a>(&mut self, backends: impl IntoIterator<Item = &'a Backend>) {
        self.backends.extend(backends.into_iter().map(Backend::entry));
    }

    /// A backend as the configuration writes it.
    pub fn entry(&mut self, entry: &str) {
        self.backends.push(entry.to_owned());
    }

    /// A whole section, such as `logging: {level: debug}`.
    pub fn section(&mut self, section: &str) {
        self.sections.push(section.to_owned());
    }

    /// The endpoints of the admin API, such as `listen_address: off, socket: /run/x`, instead of none.
    pub fn admin(&mut self, keys: &str) {
        self.admin = format!("admin: {{{keys}}}\n");
    }

    /// A line of the runtime.
    pub fn runtime(&mut self, line: &str) {
        self.runtime.set(line);
    }

    /// A line of the listener.
    pub fn listener(&mut self, line: &str) {
        self.listener.set(line);
    }

    /// A line of the upstream.
    pub fn upstream(&mut self, line: &str) {
        self.upstream.set(line);
    }

    /// Checks with these settings.
    pub fn check(&mut self, settings: &str) {
        self.upstream(&format!("healthcheck: {{{settings}}}"));
    }

    /// Listens on this address instead; where it is the unspecified one, on `":PORT"`.
    pub fn on(&mut self, ip: IpAddr) {
        self.listen = Listen::Ip(ip);
    }

    /// Listens on `":PORT"`.
    pub fn on_any(&mut self) {
        self.on(Ipv6Addr::UNSPECIFIED.into());
    }

    /// Listens on a Unix socket instead.
    pub fn on_unix(&mut self, path: PathBuf) {
        self.listen = Listen::Unix(path);
    }

    /// Has a second listener, on a Unix socket.
    pub fn also_on_unix(&mut self, path: PathBuf) {
        self.also_on = Some(path);
    }

    /// The file, and the port that is reserved for it.
    pub fn write(&self) -> (String, Option<Reserved>) {
        let (address, port) = match &self.listen {
            Listen::Unix(path) => (format!("unix:{}", path.display()), None),
            Listen::Ip(ip) => {
                let port = Reserved::at(*ip);
                let address = port.address();
                let written =
                    if ip.is_unspecified() { format!(":{}", address.port()) } else { address.to_string() };
                (written, Some(port))
            }
        };
        let sections: String = self.sections.iter().map(|section| format!("{section}\n")).collect();
        let backends: String = self.backends.iter().map(|entry| format!("      - {{{entry}}}\n")).collect();
        let also_on = self.also_on.as_ref().map_or_else(String::new, |path| {
            format!("  - {{name: also, address: \"unix:{}\", upstream: u}}\n", path.display())
        });
        let yaml = format!(
            "{sections}{}runtime:\n{}listeners:\n  - name: l\n    address: \"{address}\"\n    upstream: u\n{}{also_on}\
             upstreams:\n  - name: u\n{}    backends:\n{backends}",
            self.admin,
            self.runtime.write("  "),
            self.listener.write("    "),
            self.upstream.write("    "),
        );
        (yaml, port)
    }
}

/// A configuration file in a folder of its own: short form, one backend that gets no session, on this port of
/// 127.0.0.1.
pub fn write_config(runtime: &str, port: u16) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ringway.yaml");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let yaml = format!(
        "{NO_ADMIN}runtime: {{{runtime}}}\nloadbalancer: {{listen_address: \"{address}\"}}\n\
         backends: [{{address: 127.0.0.1, port: 1}}]\n"
    );
    std::fs::write(&path, yaml).unwrap();
    (folder, path)
}
