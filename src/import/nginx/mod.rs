//! `nginx.conf`: its block `stream` becomes a plan.
//!
//! In nginx the `server` has time-outs and retries, here the upstream: an `upstream` that servers of different
//! settings share becomes several.

mod reasons;
mod server;
mod settings;
mod tls;
mod tokens;
mod upstream;

use super::plan::{Entry, Listener, Plan, Upstream};
use super::report::Findings;
use super::units::{nginx_size, nginx_time};
use settings::Settings;
use tokens::Directive;

/// Where Ringway differs whatever the file says.
pub(super) const DIFFERENCES: [&str; 5] = [
    "Every backend is checked by a connection each 30s; `healthcheck: off` ends that.",
    "A backend is ejected after 5 consecutive failures for up to 30s; nginx: 1 and 10s.",
    "Two other backends are tried by default; nginx tries all.",
    "Idle limits that are not written are 1h (nginx: 10m), and `connect` is 5s (nginx: 60s).",
    "Keepalive is on, and the end of one side always reaches the other.",
];

/// Translates a file.
pub(super) fn plan(text: &[u8], plan: &mut Plan, findings: &mut Findings) {
    let text = String::from_utf8_lossy(text);
    let directives = tokens::directives(&text, findings);
    process(&directives, plan, findings);
    for block in directives.iter().filter(|directive| directive.name == "stream") {
        if block.block.is_none() {
            findings.add(&block.origin(), "has no block; write `stream { }`");
        }
        stream(block.block.as_deref().unwrap_or_default(), plan, findings);
    }
}

/// Translates what stands outside of blocks.
fn process(directives: &[Directive], plan: &mut Plan, findings: &mut Findings) {
    let mut workers = Some(1);
    for directive in directives {
        let (origin, text) = (directive.origin(), directive.argument(0));
        match directive.name.as_str() {
            "stream" | "events" => {}
            "worker_processes" => {
                workers = text.parse::<u64>().ok();
                match workers {
                    Some(count) => {
                        plan.process.set("runtime.cores", count, &origin);
                    }
                    None if text == "auto" => {}
                    None => findings.add(&origin, "not a number; see `runtime.cores`"),
                }
            }
            "worker_shutdown_timeout" => match nginx_time(text) {
                Some(time) => {
                    plan.process.set("runtime.shutdown_timeout", time.text_or_off(), &origin);
                }
                None => findings.add(&origin, "not a time; write one such as `30s`"),
            },
            _ => findings.add(&origin, reasons::of_main(directive)),
        }
    }
    let events = directives.iter().filter(|directive| directive.name == "events");
    for directive in events.flat_map(|events| events.block.iter().flatten()) {
        let origin = directive.origin();
        let connections = directive.argument(0).parse::<u64>().ok();
        match (directive.name.as_str(), connections.zip(workers)) {
            ("worker_connections", Some((connections, workers))) => {
                let sessions = connections.saturating_mul(workers) / 2;
                plan.process
                    .set("runtime.max_connections", sessions, &origin)
                    .differs("sessions of the process; nginx counts both connections, for each worker");
            }
            ("worker_connections", None) => {
                let why = "depends on the number of workers; see `runtime.max_connections`";
                findings.add(&origin, why);
            }
            _ => findings.add(&origin, "an adjustment of nginx's own; leave it out"),
        }
    }
}

fn stream(directives: &[Directive], plan: &mut Plan, findings: &mut Findings) {
    let mut common = Settings::default();
    let blocks: Vec<&Directive> =
        directives.iter().filter(|directive| directive.name == "upstream").collect();
    for directive in directives {
        let known = matches!(directive.name.as_str(), "upstream" | "server") || common.add(directive);
        if !known {
            findings.add(&directive.origin(), reasons::of_stream(directive));
            common.note(directive);
        }
    }
    buffers(&common, plan, findings);
    let mut made = Vec::new();
    let mut served = Vec::new();
    for directive in directives.iter().filter(|directive| directive.name == "server") {
        serve(directive, &common, (&blocks, &mut served), &mut made, plan, findings);
    }
    for block in blocks.iter().filter(|block| !served.contains(&block.argument(0).to_owned())) {
        let why = "no `server` that is taken over passes to it";
        findings.add(&block.origin(), format!("{why}{}", block.extent()));
    }
}

/// Sets the size of buffers, of which there is one for the process.
fn buffers(settings: &Settings<'_>, plan: &mut Plan, findings: &mut Findings) {
    let Some(directive) = settings.find("proxy_buffer_size") else { return };
    let origin = directive.origin();
    match nginx_size(directive.argument(0)) {
        Some(bytes) if !plan.process.has("runtime.relay.buffer_size") => {
            plan.process.set("runtime.relay.buffer_size", format!("{bytes}B"), &origin);
        }
        Some(_) => {
            findings.add(&origin, "one for the process, and set before; see `runtime.relay.buffer_size`")
        }
        None => findings.add(&origin, "not a size; see `runtime.relay.buffer_size`"),
    }
}

/// An upstream that was made: the target, the settings as text, and its name.
type Made = (String, String, String);

/// Adds the listeners of a `server`, and its upstream if there is none with the same settings.
fn serve<'a>(
    directive: &'a Directive,
    common: &Settings<'a>,
    (blocks, served): (&[&Directive], &mut Vec<String>),
    made: &mut Vec<Made>,
    plan: &mut Plan,
    findings: &mut Findings,
) {
    let mut settings = common.inherited();
    let mut entry = Entry::new(directive.origin());
    let (mut listens, mut target) = (Vec::new(), None);
    for inner in directive.block.iter().flatten() {
        match inner.name.as_str() {
            "listen" => listens.push(inner),
            "proxy_pass" => target = Some(inner),
            _ if settings.add(inner) => {}
            _ => {
                findings.add(&inner.origin(), reasons::of_stream(inner));
                settings.note(inner);
            }
        }
    }
    let pass = match fixed_target(target, findings) {
        Ok(pass) => pass,
        Err(why) => {
            findings.add(&directive.origin(), format!("{why}{}", directive.extent()));
            return;
        }
    };
    buffers_of_server(&settings, common, plan, findings);
    settings.listener(&mut entry, findings);
    let mut accepts = Vec::new();
    for listen in listens {
        let mut entry = Entry { origin: listen.origin(), ..entry.clone() };
        if let Some(accept) = server::listen(listen, &settings, &mut entry, findings) {
            accepts.push((accept, entry));
        }
    }
    if accepts.is_empty() {
        findings.add(
            &directive.origin(),
            format!("has no `listen` that can be taken over{}", directive.extent()),
        );
        return;
    }
    served.push(pass.argument(0).to_owned());
    let upstream = upstream_for(pass, blocks, &settings, made, plan, findings);
    for (accept, mut entry) in accepts {
        let (name, origin) = (plan.listener_names.claim(&upstream), entry.origin.clone());
        entry.set_text("name", &name, &origin);
        plan.listeners.push(Listener { entry, accept, upstream: upstream.clone() });
    }
}

/// Returns the `proxy_pass` of a server, or why it cannot have an upstream.
fn fixed_target<'a>(
    target: Option<&'a Directive>,
    findings: &mut Findings,
) -> Result<&'a Directive, &'static str> {
    let pass = target.ok_or("has no `proxy_pass`, so it has no upstream")?;
    if pass.argument(0).contains('$') {
        let why = "depends on a variable; an upstream is fixed: write one, and import again";
        findings.add(&pass.origin(), why);
        return Err("has no fixed upstream");
    }
    Ok(pass)
}

/// Takes the size of buffers from a server that has its own.
fn buffers_of_server(own: &Settings<'_>, common: &Settings<'_>, plan: &mut Plan, findings: &mut Findings) {
    let line = |settings: &Settings<'_>| settings.find("proxy_buffer_size").map(|directive| directive.line);
    if line(own) != line(common) {
        buffers(own, plan, findings);
    }
}

/// Returns the name of the upstream of a `proxy_pass`, which is made unless there is one already.
fn upstream_for(
    pass: &Directive,
    blocks: &[&Directive],
    settings: &Settings<'_>,
    made: &mut Vec<Made>,
    plan: &mut Plan,
    findings: &mut Findings,
) -> String {
    let target = pass.argument(0).to_owned();
    let block = blocks.iter().find(|block| block.argument(0) == target);
    let mut entry = Entry::new(block.map_or_else(|| pass.origin(), |block| block.origin()));
    settings.upstream(&mut entry, findings);
    tls::of_upstream(settings, &mut entry);
    let keys: Vec<String> = entry.keys.iter().map(|key| format!("{}: {}", key.path, key.value)).collect();
    let keys = keys.join("\n");
    if let Some((_, _, name)) = made.iter().find(|(one, other, _)| *one == target && *other == keys) {
        return name.clone();
    }
    if made.iter().any(|(one, ..)| *one == target) {
        entry.comment("the same servers once more, because the settings of this listener differ");
    }
    let name = plan.upstream_names.claim(&target);
    let origin = entry.origin.clone();
    entry.set_text("name", &name, &origin);
    let backends = match block {
        Some(block) => upstream::upstream(block, &name, &mut entry, findings),
        None => single(pass, &name, findings),
    };
    made.push((target, keys, name.clone()));
    plan.upstreams.push(Upstream { name: name.clone(), entry, backends });
    name
}

/// Returns the backend of a `proxy_pass` that names an address.
fn single(pass: &Directive, name: &str, findings: &mut Findings) -> Vec<Entry> {
    let origin = pass.origin();
    let mut backend = Entry::new(origin.clone());
    backend.set_text("name", name, &origin);
    match upstream::address(pass.argument(0), &mut backend, &origin) {
        Ok(()) => vec![backend],
        Err(why) => {
            findings.add(&origin, format!("{why}; no `upstream` of the file has this name"));
            Vec::new()
        }
    }
}
