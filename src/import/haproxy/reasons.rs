//! Why a directive of a proxy is not taken over, and what to do.

use super::words::Line;

/// The half of a proxy that was translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Front,
    Back,
    Both,
}

/// Directives of one side, which the other ignores.
const FRONT: [&str; 11] = [
    "timeout client",
    "timeout client-fin",
    "backlog",
    "option clitcpka",
    "clitcpka-idle",
    "clitcpka-intvl",
    "clitcpka-cnt",
    "option tcplog",
    "option tcp-smart-accept",
    "default_backend",
    "bind",
];
const BACK: [&str; 23] = [
    "balance",
    "hash-type",
    "server",
    "default-server",
    "retries",
    "option redispatch",
    "option CHECK",
    "http-check",
    "tcp-check",
    "timeout connect",
    "timeout server",
    "timeout server-fin",
    "timeout tunnel",
    "timeout queue",
    "timeout check",
    "option srvtcpka",
    "srvtcpka-idle",
    "srvtcpka-intvl",
    "srvtcpka-cnt",
    "source",
    "option allbackups",
    "option tcp-smart-connect",
    "option tcpka",
];

/// What Ringway does anyway, or what has no meaning for TCP.
const NOTHING_TO_DO: [&str; 10] = [
    "option splice-auto",
    "option splice-request",
    "option splice-response",
    "option log-health-checks",
    "option tcpka",
    "option redispatch",
    "description",
    "id",
    "option socket-stats",
    "option contstats",
];

/// Says why a directive is not taken over; `None` if there is nothing to say.
pub(super) fn reason(name: &str, line: &Line, side: Side, inherited: bool) -> Option<String> {
    let other_side = match side {
        Side::Front => BACK.contains(&name),
        Side::Back => FRONT.contains(&name),
        Side::Both => false,
    };
    if NOTHING_TO_DO.contains(&name) || (other_side && inherited) {
        return None;
    }
    if other_side {
        let section = if side == Side::Front { "frontend" } else { "backend" };
        return Some(format!("has no effect in a {section}, in HAProxy neither; move it to the other side"));
    }
    if let Some(option) = name.strip_prefix("option ") {
        return Some(of_option(option).to_owned());
    }
    if let Some(which) = name.strip_prefix("timeout ") {
        return Some(of_timeout(which).to_owned());
    }
    Some(of_directive(name, line).to_owned())
}

fn of_option(option: &str) -> &'static str {
    match option {
        "dontlognull" | "dontlog-normal" | "log-separate-errors" | "logasap" => {
            "see `logging.access_filter` for what the access log has"
        }
        "abortonclose" => "a client that leaves gives up its place in the queue; leave it out",
        "nolinger" => "a session that ends well ends with FIN; leave it out",
        "transparent" => "there is no transparent proxy; write the address of a backend",
        "persist" | "prefer-last-server" => "see `source_hash` for affinity",
        "independent-streams" => "see `client_idle` and `backend_idle`, which look at one socket each",
        "log-proto" => "no counterpart; leave it out",
        option if option.starts_with("http") || option.contains("forwardfor") || option.contains("h1-") => {
            "of HTTP, which nothing here reads; leave it out"
        }
        _ => "no counterpart; leave it out",
    }
}

fn of_timeout(which: &str) -> &'static str {
    match which {
        "http-request" | "http-keep-alive" | "tarpit" => "of HTTP, which nothing here reads; leave it out",
        "client-hs" => "of TLS, which the backends end; leave it out",
        _ => "no counterpart; see `timeouts`",
    }
}

fn of_directive(name: &str, line: &Line) -> &'static str {
    match name {
        "maxconn" => "of a `frontend` or `listen`; see `max_connections`",
        "fullconn" => "the limits of backends do not move; see `max_connections`",
        "rate-limit" => "of a `frontend` or `listen`; see `rate_limit`",
        "log" | "log-format" | "log-format-sd" | "log-tag" | "error-log-format" | "log-steps" => {
            "sessions are logged to a file or standard error, as `tcplog` or `json`; see `logging.access_log`"
        }
        "acl" => "see `allow` and `deny` of a listener; what uses it is reported too",
        "use-server" => "backends are chosen by the algorithm alone; write a listener for each choice",
        "tcp-response" => "answers are not judged by rules; leave it out",
        "stick-table" | "stick" => "affinity needs no table: see `algorithm: source_hash`",
        "persist" | "cookie" | "appsession" => "see `algorithm: source_hash` for affinity",
        "stats" => "see `admin`, which has a page, metrics and JSON",
        "dispatch" => "write its address as a backend",
        "server-template" => {
            "write a backend for each server; one name with several addresses is one backend"
        }
        "email-alert" => "alerts come from the metrics; see docs/METRICS.md",
        "monitor-net" | "monitor-uri" | "monitor" => "see `/healthz` and `/readyz` of the admin API",
        "load-server-state-from-file" | "server-state-file-name" => "states are not kept; leave it out",
        "bind-process" => "every core listens; see `runtime.cores`",
        "filter" => "there are no filters; leave it out",
        "errorfile"
        | "errorfiles"
        | "errorloc"
        | "errorloc302"
        | "errorloc303"
        | "capture"
        | "compression"
        | "redirect"
        | "rspadd"
        | "reqadd"
        | "http-request"
        | "http-response"
        | "http-after-response"
        | "http-error"
        | "http-reuse"
        | "http-send-name-header"
        | "unique-id-format"
        | "unique-id-header" => "of HTTP, which nothing here reads; leave it out",
        _ if line.word(0) == "option" => "no counterpart; leave it out",
        _ => "not known here; leave it out, or look for it in docs/CONFIGURATION.md",
    }
}
