//! The section `global`.

use super::sections::{Bag, Given};
use crate::import::plan::Entry;
use crate::import::report::Findings;
use crate::import::units::haproxy_time;

/// Translates the directives of `global`.
pub(super) fn global(mut bag: Bag<'_>, process: &mut Entry, findings: &mut Findings) {
    if let Some(given) = bag.take("maxconn") {
        let comment = "clients above it are reset; they do not wait in the backlog";
        number(given, findings, |value| {
            process.set("runtime.max_connections", value, &given.line.origin()).differs(comment);
        });
    }
    if let Some(given) = bag.take("nbthread") {
        number(given, findings, |value| {
            process.set("runtime.cores", value, &given.line.origin());
        });
    }
    for (name, path) in [("hard-stop-after", "runtime.shutdown_timeout"), ("grace", "runtime.shutdown_delay")]
    {
        let Some(given) = bag.take(name) else { continue };
        let origin = given.line.origin();
        match haproxy_time(given.line.word(1)) {
            Some(time) => {
                process.set(path, time.text_or_off(), &origin);
            }
            None => findings.add(&origin, "not a time; write one such as `30s`"),
        }
    }
    for (name, given) in bag.into_rest() {
        findings.add(&given.line.origin(), reason(&name));
    }
}

fn number(given: Given<'_>, findings: &mut Findings, mut take: impl FnMut(u32)) {
    match given.line.word(1).parse() {
        Ok(value) => take(value),
        Err(_) => findings.add(&given.line.origin(), "not a number; write one"),
    }
}

/// Says why a directive of `global` is not taken over.
fn reason(name: &str) -> String {
    let why = match name {
        "user" | "group" | "uid" | "gid" | "chroot" | "daemon" | "master-worker" | "ulimit-n"
        | "set-dumpable" | "setcap" | "setenv" | "presetenv" | "resetenv" | "unsetenv" => {
            "a matter of the service manager; see configs/systemd/ringway.service"
        }
        "pidfile" => "given on the command line; write `--pid-file FILE` there",
        "log" | "log-send-hostname" | "log-tag" => {
            "records go to standard error or a file, not to syslog; see `logging`"
        }
        "stats" => {
            "the admin API has a socket of its own; see `admin.socket`, `admin.listen_address`, `ringway ctl`"
        }
        "cpu-map" | "cpu-policy" | "cpu-set" | "thread-groups" | "nbproc" => {
            "shards are pinned to CPUs; write a list such as `0-3` into `runtime.cores`"
        }
        "spread-checks" => "set for each upstream; see `healthcheck.jitter`, 10% by default",
        "strict-limits" => "always so: too few descriptors are a problem at the start; nothing to do",
        "zero-warning" => "no counterpart; read what `ringway check` says",
        "maxconnrate" | "maxsessrate" | "maxsslconn" | "maxsslrate" => {
            "there is no rate limit; limit connections before Ringway, with nftables for instance"
        }
        name if name.starts_with("tune.") => "an adjustment of HAProxy's own; leave it out",
        name if name.starts_with("ssl-") || name.starts_with("ca-") || name.starts_with("crt-") => {
            "write whole paths into `tls` of listeners and upstreams; the rest is always what is safe today"
        }
        name if name.starts_with("lua-") => "there is no Lua; leave it out",
        _ => "no counterpart in `runtime`, `logging` or `admin`; leave it out",
    };
    why.to_owned()
}
