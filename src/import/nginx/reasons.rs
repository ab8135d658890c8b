//! Why a directive is not taken over, and what to do.

use super::tokens::Directive;

/// Says why a directive outside of `stream` is not taken over.
pub(super) fn of_main(directive: &Directive) -> String {
    let why = match directive.name.as_str() {
        "http" => "nothing here reads HTTP; keep it in nginx, or pass it on as TCP",
        "mail" => "there is no mail proxy; keep it in nginx",
        "include" => INCLUDE,
        "server" | "upstream" => "stands outside of `stream`; put `stream { }` around it, and import again",
        "user" | "daemon" | "master_process" | "worker_priority" | "env" | "working_directory"
        | "worker_rlimit_core" => "a matter of the service manager; see configs/systemd/ringway.service",
        "worker_rlimit_nofile" => {
            "see `LimitNOFILE` of the service manager; the soft limit is raised to the hard one"
        }
        "pid" => "given on the command line; write `--pid-file FILE` there",
        "error_log" => "records go to standard error, or to a file; see `logging.target` and `logging.level`",
        "worker_cpu_affinity" => "shards are pinned to CPUs; write a list such as `0-3` into `runtime.cores`",
        "load_module" => "there are no modules; leave it out",
        _ => "no counterpart in `runtime`, `logging` or `admin`; leave it out",
    };
    format!("{why}{}", directive.extent())
}

const INCLUDE: &str = "other files are not read; import what `nginx -T` prints, which has them all";

/// Says why a directive of `stream` or of a `server` in it is not taken over.
pub(super) fn of_stream(directive: &Directive) -> String {
    let name = directive.name.as_str();
    let why = match name {
        "include" => INCLUDE,
        "limit_conn" | "limit_conn_zone" | "limit_conn_log_level" | "limit_conn_dry_run" => {
            "zones are not translated; see `per_source`"
        }
        "access_log" | "log_format" | "open_log_file_cache" => {
            "the access log has a format of its own, `tcplog` or `json`; see `logging.access_log`"
        }
        "error_log" => "records go to standard error, or to a file; see `logging.target` and `logging.level`",
        "resolver" | "resolver_timeout" => "the system's resolver is asked; see `resolve`",
        "proxy_upload_rate" | "proxy_download_rate" => "not taken over; write `bandwidth` of the listener",
        "proxy_requests" | "proxy_responses" => "of UDP, which there is none of; leave it out",
        "ssl_preread" => {
            "with `map $ssl_preread_server_name` it is `sni.routes` of the listener; write them by hand"
        }
        "map" | "geo" | "geoip_country" | "geoip_city" | "split_clients" | "set" | "server_name" => {
            "an upstream is fixed for each listener; what uses it is reported too"
        }
        "return" | "pass" => "answers nothing itself; leave it out",
        "variables_hash_max_size"
        | "variables_hash_bucket_size"
        | "map_hash_max_size"
        | "map_hash_bucket_size" => "an adjustment of nginx's own; leave it out",
        "preread_timeout" | "preread_buffer_size" => {
            "see `timeouts.handshake`; 16 KiB are read ahead for `sni`"
        }
        "proxy_protocol_timeout" => "see `timeouts.handshake`",
        "set_real_ip_from" => "see `proxy_protocol.trusted`, which says whose header is believed",
        name if name.starts_with("ssl_") => "see `tls` of a listener, in docs/TLS.md",
        name if name.starts_with("proxy_ssl") => "see `tls` of an upstream, in docs/TLS.md",
        name if name.starts_with("js_") => "there are no scripts; leave it out",
        _ => "no counterpart; leave it out, or look for it in docs/CONFIGURATION.md",
    };
    format!("{why}{}", directive.extent())
}

/// Returns whether a directive keeps clients out, which the translation then does not.
pub(super) fn keeps_out(name: &str) -> bool {
    name == "limit_conn"
}
