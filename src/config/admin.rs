//! The keys of `admin`, and what they have to do with the listeners.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::address;
use super::hints;
use super::model::{Admin, ListenAddress, Listener, SocketGroup, WrittenEndpoints};
use super::report::{Location, quote};
use super::section::{Read, Section};
use super::tree::Node;
use super::values::{decimal, off_or, text};
use crate::base::limits;

/// Longest name of a group, bytes: `LOGIN_NAME_MAX` without its final NUL.
const GROUP_BYTES_MAX: usize = 255;

/// Where both endpoints are written, for what is said of them once the listeners are known.
pub(super) struct Places {
    address: Option<Location>,
    socket: Option<Location>,
}

/// Reads the section.
pub(super) fn admin(s: &mut Section<'_>) -> (Admin, Places) {
    let written = WrittenEndpoints { listen_address: s.has("listen_address"), socket: s.has("socket") };
    let default = ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, Admin::PORT)));
    let admin = Admin {
        listen_address: s.value("listen_address", Some(default), off_or(address::listen_on_port)),
        socket: s.value("socket", Some(PathBuf::from(Admin::SOCKET)), off_or(socket)),
        socket_mode: s.value("socket_mode", Admin::SOCKET_MODE, mode),
        socket_group: s.value("socket_group", None, off_or(group)),
        written,
    };
    let place = |key| s.has(key).then(|| s.location(key));
    let places = Places { address: place("listen_address"), socket: place("socket") };
    warn_of_strangers(s, &admin);
    (admin, places)
}

fn warn_of_strangers(s: &Section<'_>, admin: &Admin) {
    let is_loopback = match &admin.listen_address {
        Some(ListenAddress::Tcp(address)) => address.ip().is_loopback(),
        Some(_) => false,
        None => true,
    };
    if !is_loopback {
        let message = "other machines can read the state of this process here, without authentication; let a \
                       firewall choose them, or listen on 127.0.0.1";
        s.warn_at("listen_address", message);
    }
    if admin.socket.is_none() {
        for key in ["socket_mode", "socket_group"] {
            s.warn_own(key, format!("`{key}` has no effect with `socket: off`"));
        }
    } else if admin.socket_mode & 0o002 != 0 {
        let message = "every user of this machine may stop this process and end its sessions; write `\"0660\"` \
                       and a `socket_group`";
        s.warn_at("socket_mode", message);
    }
}

impl Places {
    /// Refuses endpoints that take the place of a listener. The default address gives way to a listener.
    pub(super) fn keep_apart(self, s: &Section<'_>, admin: &mut Admin, listeners: &[Listener]) {
        let overlapping = |own: &ListenAddress| {
            listeners.iter().find(|listener| own.overlaps(&listener.address)).map(|listener| {
                let (theirs, name) = (quote(&listener.address.to_string()), quote(&listener.name));
                format!("{} overlaps with {theirs} of listener {name}", quote(&own.to_string()))
            })
        };
        if let Some(overlap) = admin.listen_address.as_ref().and_then(overlapping) {
            match self.address {
                Some(location) => {
                    s.error_in(location, format!("{overlap}; use another port or address, or `off`"));
                }
                None => {
                    admin.listen_address = None;
                    s.warn(format!(
                        "the default of `admin.listen_address`, {overlap}, so it is off; set it to another \
                         address, or to `off`"
                    ));
                }
            }
        }
        let socket = admin.socket.clone().map(ListenAddress::Unix);
        if let Some(overlap) = socket.as_ref().and_then(overlapping) {
            let remedy = "use another path, or `off`";
            match self.socket {
                Some(location) => s.error_in(location, format!("{overlap}; {remedy}")),
                None => s.error(format!("the default of `admin.socket`, {overlap}; set it: {remedy}")),
            }
        }
    }
}

/// Reads the path of the socket.
fn socket(node: &Node) -> Read<PathBuf> {
    let (text, shown) = (text(node)?, quote(text(node)?));
    if text.starts_with("unix:/") {
        return Err(format!("{shown} is a path here, not an address; write it without `unix:`"));
    }
    if hints::is_abstract_name(text) {
        return Err(format!("{shown} is an abstract socket name, which is not supported; write a path"));
    }
    if !text.starts_with('/') || text.ends_with('/') || text.contains(char::is_control) {
        return Err(format!("{shown} is not an absolute path of a socket"));
    }
    let (length, most) = (text.len(), limits::SOCKET_PATH_BYTES_MAX);
    if length > most {
        return Err(format!("{shown} is {length} bytes long; the path of a socket has at most {most}"));
    }
    hints::of_text(text).map_or_else(|| Ok(PathBuf::from(text)), Err)
}

/// Reads permissions: four octal digits, so that nobody's decimal number is taken for them.
fn mode(node: &Node) -> Read<u32> {
    let (text, shown) = (text(node)?, quote(text(node)?));
    let octal = |text: &str| u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    let is_octal = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(mode) = octal(text).filter(|_| is_octal) {
        return Ok(mode);
    }
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let meant = octal(digits).filter(|_| digits.len() == 3 && !digits.starts_with(['+', '-']));
    let remedy = meant.unwrap_or(Admin::SOCKET_MODE);
    Err(format!("{shown} is not a mode of four octal digits from 0000 to 0777; write `\"{remedy:04o}\"`"))
}

/// Reads the name or the number of a group; whether there is such a group is known at the start.
fn group(node: &Node) -> Read<SocketGroup> {
    let (text, shown) = (text(node)?, quote(text(node)?));
    if let Some(number) = decimal(text) {
        return Ok(SocketGroup::Number(number));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-$@+\\".contains(c);
    let is_name = !text.starts_with(|c: char| c.is_ascii_digit() || "-+".contains(c));
    if !is_name || text.is_empty() || text.len() > GROUP_BYTES_MAX || !text.chars().all(is_plain) {
        return Err(format!("{shown} is not the name or the number of a group"));
    }
    Ok(SocketGroup::Name(text.to_owned()))
}
