//! What two configurations differ in, and what of it a process cannot take over while it runs.

use super::*;

const FILE: &str = "
runtime: {cores: 2}
listeners:
  - {name: web, address: ':80', upstream: web}
  - {name: ssh, address: '127.0.0.1:22', upstream: ssh}
upstreams:
  - name: web
    backends:
      - {name: a, address: 10.0.0.1, port: 80}
      - {name: b, address: 'fe80::1%2', port: 80, weight: 3}
  - {name: ssh, backends: [{name: a, address: 'unix:/run/ssh'}]}
";

/// Returns the changes that a replacement in the file makes, as `ctl` shows them.
#[track_caller]
fn changed(from: &str, to: &str) -> Vec<String> {
    assert!(FILE.contains(from), "{from}");
    let changes = changes(&valid(FILE), &valid(&FILE.replace(from, to)));
    changes.into_iter().map(|change| shown(&change)).collect()
}

fn shown(Change { what, before, after }: &Change) -> String {
    match (before, after) {
        (None, Some(after)) => format!("+ {what}: {after}"),
        (Some(before), None) => format!("- {what}: {before}"),
        (before, after) => format!("~ {what}: {before:?} -> {after:?}").replace("Some(", "").replace(')', ""),
    }
}

#[test]
fn a_value_is_one_change_with_the_path_of_its_key() {
    assert_eq!(
        changed("name: ssh, backends", "name: ssh, healthcheck: {interval: 5s}, backends"),
        [r#"~ upstreams.ssh.healthcheck.interval: "30s" -> "5s""#,]
    );
    assert_eq!(
        changed("weight: 3", "weight: 4, backup: true"),
        [
            r#"~ upstreams.web.backends.b.weight: "3" -> "4""#,
            r#"~ upstreams.web.backends.b.backup: "false" -> "true""#
        ]
    );
    assert_eq!(changed("address: ':80'", "address: ':81'"), [r#"~ listeners.web.address: ":80" -> ":81""#]);
}

#[test]
fn a_section_that_is_switched_off_is_one_change() {
    let off = changed("name: ssh, backends", "name: ssh, healthcheck: off, backends");
    assert_eq!(off.len(), 1, "{off:?}");
    assert!(off[0].starts_with(r#"~ upstreams.ssh.healthcheck: "{type: tcp, interval: 30s, "#), "{off:?}");
    assert!(off[0].ends_with(r#" -> "off""#), "{off:?}");
}

#[test]
fn an_object_is_one_change_with_what_tells_most_about_it() {
    assert_eq!(
        changed(
            "  - {name: ssh, address: '127.0.0.1:22', upstream: ssh}\n",
            "  - {name: dns, address: ':53', upstream: ssh}\n"
        ),
        ["- listeners.ssh: 127.0.0.1:22, upstream ssh", "+ listeners.dns: :53, upstream ssh"]
    );
    assert_eq!(
        changed("name: a, address: 10", "name: c, address: 10"),
        ["- upstreams.web.backends.a: 10.0.0.1:80", "+ upstreams.web.backends.c: 10.0.0.1:80",]
    );
    assert_eq!(
        changed("name: b", "name: c"),
        ["- upstreams.web.backends.b: [fe80::1%2]:80", "+ upstreams.web.backends.c: [fe80::1%2]:80",]
    );
    assert_eq!(
        changed("name: a, address: 'unix:/run/ssh'", "name: b, address: 'unix:/run/ssh'"),
        ["- upstreams.ssh.backends.a: unix:/run/ssh", "+ upstreams.ssh.backends.b: unix:/run/ssh",]
    );
    let without = FILE.lines().filter(|line| !line.contains("ssh")).collect::<Vec<_>>().join("\n");
    let gone: Vec<_> = changes(&valid(FILE), &valid(&without)).iter().map(shown).collect();
    assert_eq!(
        gone,
        ["- listeners.ssh: 127.0.0.1:22, upstream ssh", "- upstreams.ssh: 1 backend, round_robin"]
    );
}

#[test]
fn order_in_the_file_means_nothing() {
    let backends = "      - {name: a, address: 10.0.0.1, port: 80}\n";
    let other = FILE
        .replace(backends, "")
        .replace("  - {name: ssh, backends", &format!("{backends}  - {{name: ssh, backends"));
    assert_ne!(other, FILE);
    let listener = "  - {name: web, address: ':80', upstream: web}\n";
    let other = other.replace(listener, "").replace("upstreams:\n", &format!("{listener}upstreams:\n"));
    let ssh = "  - {name: ssh, backends: [{name: a, address: 'unix:/run/ssh'}]}\n";
    let other = other.replace(ssh, "").replace("upstreams:\n", &format!("upstreams:\n{ssh}"));
    assert_eq!(changes(&valid(FILE), &valid(&other)), []);
}

#[test]
fn what_operators_want_of_a_backend_is_a_change() {
    let before = valid(FILE);
    let mut after = before.clone();
    after.upstreams[0].backends[1].admin_state = AdminState::Drain;
    let changes: Vec<_> = changes(&before, &after).iter().map(shown).collect();
    assert_eq!(changes, [r#"~ upstreams.web.backends.b.state: "ready" -> "drain""#]);
}

#[test]
fn every_key_that_cannot_change_is_named_with_the_remedy() {
    let before = valid(FILE);
    let refused = |lines: &str| {
        not_live(&before, &valid(&format!("{}{lines}", FILE.replace("runtime: {cores: 2}", ""))))
    };
    assert_eq!(
        refused("runtime: {cores: auto, relay: {splice: off}, max_connections: 9, drain_timeout: 1m}"),
        [
            "`runtime.cores` is 2 and would become auto, which a running process cannot change; restart it, or run \
             `ringway ctl upgrade`",
            "`runtime.relay.splice` is auto and would become off, which a running process cannot change; restart it, \
             or run `ringway ctl upgrade`",
        ]
    );
    let lines =
        "runtime: {cores: 2}\nlogging: {level: debug, format: json, access_log: /a}\nadmin: {socket: off}";
    let named: Vec<_> = refused(lines).iter().map(|line| line.split('`').nth(1).map(str::to_owned)).collect();
    let expected = ["logging.format", "logging.access_log", "admin.socket"];
    assert_eq!(named, expected.map(|key| Some(key.to_owned())));
    let live =
        FILE.replace(":80'", ":81'").replace("weight: 3", "weight: 4").replace("name: ssh", "name: shell");
    assert_eq!(not_live(&before, &valid(&live.replace("upstream: ssh", "upstream: shell"))), [""; 0]);
}
