//! `haproxy.cfg`: its sections become a plan.

mod address;
mod back;
mod check;
mod front;
mod options;
mod process;
mod reasons;
mod sections;
mod servers;
mod tls;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Plan;
use super::report::Findings;
use front::Served;
use reasons::{Side, reason};
use sections::{Bag, Kind, Section};

/// The ports that the clients of each backend come to.
type Ports = BTreeMap<String, BTreeSet<u16>>;

/// Where Ringway differs whatever the file says.
pub(super) const DIFFERENCES: [&str; 5] = [
    "A retry goes to another backend, never to the same one again; there are two by default.",
    "A backend that fails five consecutive sessions is ejected for a while; `outlier: off` ends that.",
    "Clients above `runtime.max_connections` are reset; they do not wait in the backlog.",
    "Idle limits that are not written are 1h, `connect` is 5s, and keepalive is on.",
    "Backends see Ringway's address.",
];

/// Translates a file.
pub(super) fn plan(text: &[u8], plan: &mut Plan, findings: &mut Findings) {
    let sections = sections::sections(text, findings);
    let ports = ports(&sections);
    let mut used = Vec::new();
    let mut served: Vec<(String, Served)> = Vec::new();
    // Backends first, because listeners need to know them.
    for section in sections.iter().filter(|section| section.kind == Kind::Backend) {
        let Some(mut bag) = tcp(&sections, section, &mut used, findings) else { continue };
        if served.iter().any(|(name, _)| *name == section.name) {
            findings.add(&section.origin, "another section before it has this name; rename it");
            continue;
        }
        served.push((section.name.clone(), upstream(&mut bag, section, &ports, plan, findings)));
        rest(bag, Side::Back, findings);
    }
    for section in &sections {
        match section.kind {
            Kind::Global => {
                process::global(Bag::of(&sections, section, &mut Vec::new()), &mut plan.process, findings)
            }
            Kind::Listen => listen(&sections, section, &ports, &mut used, plan, findings),
            Kind::Frontend => frontend(&sections, section, &served, &mut used, plan, findings),
            Kind::Other => {
                let why = format!("sections of this kind have no counterpart{}", section.extent());
                findings.add(&section.origin, why);
            }
            Kind::Defaults | Kind::Backend => {}
        }
    }
    for (position, section) in sections.iter().enumerate() {
        let idle = section.kind == Kind::Defaults && !used.contains(&position);
        if idle && !section.directives.is_empty() {
            let why = format!("no part that is taken over uses them{}", section.extent());
            findings.add(&section.origin, why);
        }
    }
}

/// Returns the directives of a proxy that is to be translated. Reports one that is not.
fn tcp<'a>(
    sections: &'a [Section],
    section: &'a Section,
    used: &mut Vec<usize>,
    findings: &mut Findings,
) -> Option<Bag<'a>> {
    let mut defaults = Vec::new();
    let mut bag = Bag::of(sections, section, &mut defaults);
    let mode = bag.take("mode").map_or("tcp", |given| given.line.word(1));
    let why = if mode != "tcp" {
        format!("`mode {mode}`: nothing here reads more than TCP; keep it in HAProxy, or pass it on as TCP")
    } else if bag.take("disabled").is_some() {
        "disabled; remove that line to have it".to_owned()
    } else {
        bag.take("enabled");
        used.append(&mut defaults);
        return Some(bag);
    };
    findings.add(&section.origin, format!("{why}{}", section.extent()));
    None
}

/// Adds the upstream of a `backend` or `listen`.
fn upstream(
    bag: &mut Bag<'_>,
    section: &Section,
    ports: &Ports,
    plan: &mut Plan,
    findings: &mut Findings,
) -> Served {
    let name = plan.upstream_names.claim(&section.name);
    let ports: Vec<u16> = ports.get(&section.name).into_iter().flatten().copied().collect();
    let (upstream, served) = back::upstream(bag, name, &section.origin, &ports, findings);
    plan.upstreams.push(upstream);
    served
}

fn listen(
    sections: &[Section],
    section: &Section,
    ports: &Ports,
    used: &mut Vec<usize>,
    plan: &mut Plan,
    findings: &mut Findings,
) {
    let Some(mut bag) = tcp(sections, section, used, findings) else { return };
    let served = upstream(&mut bag, section, ports, plan, findings);
    listeners(bag, section, &served, Side::Both, plan, findings);
}

fn frontend(
    sections: &[Section],
    section: &Section,
    served: &[(String, Served)],
    used: &mut Vec<usize>,
    plan: &mut Plan,
    findings: &mut Findings,
) {
    let Some(mut bag) = tcp(sections, section, used, findings) else { return };
    let Some(given) = bag.take("default_backend") else {
        let why = "has no `default_backend`; a listener has one upstream: write one, and import again";
        findings.add(&section.origin, format!("{why}{}", section.extent()));
        return;
    };
    let wanted = given.line.word(1);
    let Some((_, served)) = served.iter().find(|(name, _)| name == wanted) else {
        let why = format!("its `default_backend` {wanted} is not taken over; see there");
        findings.add(&section.origin, format!("{why}{}", section.extent()));
        return;
    };
    listeners(bag, section, served, Side::Front, plan, findings);
}

fn listeners(
    mut bag: Bag<'_>,
    section: &Section,
    served: &Served,
    side: Side,
    plan: &mut Plan,
    findings: &mut Findings,
) {
    front::listeners(&mut bag, (&section.name, &section.origin), served, plan, findings);
    if let Some(given) = bag.take("option tcplog") {
        let origin = given.line.origin();
        let comment =
            "the same line as `option tcplog`, with three fields more; to standard error, not to syslog";
        plan.process.set("logging.access_log", "stderr", &origin).differs(comment);
    }
    rest(bag, side, findings);
}

/// Reports what nobody took. What is inherited may be meant for the other side.
fn rest(bag: Bag<'_>, side: Side, findings: &mut Findings) {
    for (name, given) in bag.into_rest() {
        if let Some(why) = reason(&name, given.line, side, given.inherited) {
            findings.add(&given.line.origin(), why);
        }
    }
}

/// Returns the ports that the clients of each backend come to.
fn ports(sections: &[Section]) -> Ports {
    let mut all = Ports::new();
    for section in sections {
        let mut bag = Bag::of(sections, section, &mut Vec::new());
        let backend = match section.kind {
            Kind::Listen => section.name.clone(),
            Kind::Frontend => {
                bag.take("default_backend").map_or_else(String::new, |given| given.line.word(1).to_owned())
            }
            _ => continue,
        };
        let ports = all.entry(backend).or_default();
        for given in bag.take_all(&["bind"]) {
            let accepts = given.line.word(1).split(',').map(|text| address::bind(text, &[]));
            ports.extend(accepts.filter_map(|accept| accept.ok()?.port()));
        }
    }
    all
}
