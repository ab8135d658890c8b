//! Edits at run time lie over the file: which are refused, with which words, and which of them a later word of
//! the file ends.

use super::*;

const FILE: &str = "
listeners:
  - {name: web, address: '127.0.0.1:80', upstream: web}
  - {name: ssh, address: '127.0.0.1:22', upstream: ssh}
upstreams:
  - name: web
    backends:
      - {name: a, address: 10.0.0.1, port: 80}
      - {name: b, address: 10.0.0.2, port: 80, weight: 3, max_connections: 10}
  - {name: ssh, source: [10.0.0.9], backends: [{name: s, address: 10.0.0.3, port: 22}]}
";

fn set(backend: &str, weight: Option<u32>, state: Option<AdminState>, max_connections: Option<u32>) -> Edit {
    let (upstream, backend) = ("web".to_owned(), backend.to_owned());
    Edit::Set { upstream, backend, weight, state, max_connections }
}

fn weight(backend: &str, weight: u32) -> Edit {
    set(backend, Some(weight), None, None)
}

fn add(entry: &str) -> Edit {
    Edit::Add { upstream: "web".to_owned(), entry: entry.to_owned() }
}

fn remove(backend: &str) -> Edit {
    Edit::Remove { upstream: "web".to_owned(), backend: backend.to_owned() }
}

/// Returns the overlay after these edits, none of which is refused.
#[track_caller]
fn overlay(file: &Config, edits: impl IntoIterator<Item = Edit>) -> Overlay {
    let mut overlay = Overlay::default();
    for edit in edits {
        let shown = format!("{edit:?}");
        overlay.edit(file, edit).unwrap_or_else(|errors| panic!("{errors:?} of {shown}"));
    }
    overlay
}

/// The backends of `web` in short: `a:1` with its weight, `/10` with its limit, and its state if it is not ready.
fn backends(config: &Config) -> String {
    let upstream = config.upstreams.iter().find(|upstream| upstream.name == "web").expect("web");
    let shown = upstream.backends.iter().map(|backend| {
        let limit = backend.max_connections.map(|most| format!("/{most}")).unwrap_or_default();
        let state = match backend.admin_state {
            AdminState::Ready => "",
            AdminState::Drain => " drain",
            AdminState::Maint => " maint",
        };
        format!("{}:{}{limit}{state}", backend.name, backend.weight)
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Edits, and the backends that run with them.
#[track_caller]
fn runs(edits: impl IntoIterator<Item = Edit>) -> String {
    let file = valid(FILE);
    backends(&overlay(&file, edits).apply(&file))
}

/// Edits, a replacement in the file, and the backends that run then.
#[track_caller]
fn runs_after(edits: impl IntoIterator<Item = Edit>, from: &str, to: &str) -> String {
    assert!(FILE.contains(from), "{from}");
    let mut overlay = overlay(&valid(FILE), edits);
    backends(&overlay.apply(&valid(&FILE.replace(from, to))))
}

#[track_caller]
fn refused(edit: Edit) -> Vec<String> {
    let mut overlay = Overlay::default();
    let errors = overlay.edit(&valid(FILE), edit).expect_err("refused");
    assert_eq!(overlay, Overlay::default());
    errors
}

const B: &str = "      - {name: b, address: 10.0.0.2, port: 80, weight: 3, max_connections: 10}\n";

#[test]
fn values_are_set_one_by_one() {
    assert_eq!(runs([weight("a", 5)]), "a:5, b:3/10");
    assert_eq!(runs([set("b", None, Some(AdminState::Drain), Some(0))]), "a:1, b:3 drain");
    assert_eq!(
        runs([weight("a", 5), set("a", None, Some(AdminState::Maint), Some(7))]),
        "a:5/7 maint, b:3/10"
    );
    assert_eq!(runs([weight("a", 0)]), "a:0, b:3/10");
}

#[test]
fn the_value_of_the_file_ends_an_edit() {
    let file = valid(FILE);
    let ready = set("a", None, Some(AdminState::Ready), None);
    let drain = set("a", Some(5), Some(AdminState::Drain), None);
    for edits in [
        vec![weight("a", 5), weight("a", 1)],
        vec![drain, ready, weight("a", 1)],
        vec![add("10.0.0.4:80"), remove("10.0.0.4:80")],
        vec![remove("b"), add("{name: b, address: 10.0.0.2, port: 80, weight: 3, max_connections: 10}")],
    ] {
        assert_eq!(overlay(&file, edits), Overlay::default());
    }
}

#[test]
fn a_value_that_the_file_changes_wins() {
    let edit = set("b", Some(5), Some(AdminState::Drain), Some(20));
    assert_eq!(runs_after([edit.clone()], "weight: 3", "weight: 4"), "a:1, b:4/20 drain");
    assert_eq!(runs_after([edit.clone()], "max_connections: 10", "max_connections: 11"), "a:1, b:5/11 drain");
    assert_eq!(runs_after([edit], "port: 22", "port: 23"), "a:1, b:5/20 drain");
}

#[test]
fn a_value_that_the_file_changed_and_took_back_stays_the_files() {
    let mut overlay = overlay(&valid(FILE), [weight("b", 5)]);
    overlay.apply(&valid(&FILE.replace("weight: 3", "weight: 4")));
    assert_eq!(backends(&overlay.apply(&valid(FILE))), "a:1, b:3/10");
}

#[test]
fn edits_end_with_their_backend_or_upstream() {
    let file = valid(FILE);
    for edit in [weight("b", 5), remove("b")] {
        let mut overlay = overlay(&file, [edit]);
        assert_eq!(backends(&overlay.apply(&valid(&FILE.replace(B, "")))), "a:1");
        assert_eq!(backends(&overlay.apply(&file)), "a:1, b:3/10");
    }
    let mut overlay = overlay(&file, [add("10.0.0.4:80"), weight("a", 2)]);
    let renamed =
        valid(&FILE.replace("name: web\n", "name: www\n").replace("upstream: web", "upstream: www"));
    assert_eq!(overlay.apply(&renamed), renamed);
    assert_eq!(overlay, Overlay::default());
}

#[test]
fn a_removed_backend_that_the_file_still_has_stays_removed() {
    assert_eq!(runs([remove("b")]), "a:1");
    assert_eq!(runs_after([remove("b")], "weight: 3", "weight: 4"), "a:1");
    assert_eq!(runs_after([weight("b", 9), remove("b")], "port: 22", "port: 23"), "a:1");
}

#[test]
fn an_added_backend_stands_behind_those_of_the_file() {
    assert_eq!(runs([add("10.0.0.4:80")]), "a:1, b:3/10, 10.0.0.4:80:1");
    let json = r#"{"address": "10.0.0.4", "port": 80, "name": "c", "weight": 7, "max_connections": 2}"#;
    assert_eq!(runs([add(json), add("'[::1]:81'")]), "a:1, b:3/10, c:7/2, [::1]:81:1");
    assert_eq!(runs_after([add(json)], B, ""), "a:1, c:7/2");
}

#[test]
fn values_of_an_added_backend_can_be_set() {
    let edits =
        [add("{name: c, address: 'unix:/run/c'}"), set("c", Some(4), Some(AdminState::Drain), Some(9))];
    assert_eq!(runs(edits.clone()), "a:1, b:3/10, c:4/9 drain");
    assert_eq!(
        runs(edits.into_iter().chain([set("c", None, Some(AdminState::Ready), Some(0))])),
        "a:1, b:3/10, c:4"
    );
}

#[test]
fn an_added_backend_that_the_file_has_is_the_files() {
    let edits =
        [add("{name: c, address: 10.0.0.4, port: 80}"), set("c", Some(4), Some(AdminState::Drain), None)];
    let mut overlay = overlay(&valid(FILE), edits);
    let with_c =
        valid(&FILE.replace(B, &format!("{B}      - {{name: c, address: 10.0.0.5, port: 80, weight: 2}}\n")));
    // No file can say that it drains.
    assert_eq!(backends(&overlay.apply(&with_c)), "a:1, b:3/10, c:2 drain");
    assert_eq!(backends(&overlay.apply(&valid(FILE))), "a:1, b:3/10");
}

#[test]
fn another_backend_may_take_the_name_of_a_removed_one() {
    let edits = [remove("b"), add("{name: b, address: 10.0.0.4, port: 80}"), weight("b", 2)];
    assert_eq!(runs(edits.clone()), "a:1, b:2");
    assert_eq!(runs_after(edits.clone(), B, ""), "a:1, b:2");
    assert_eq!(runs(edits.into_iter().chain([remove("b")])), "a:1");
}

#[test]
fn a_file_that_contradicts_the_edits_wins() {
    assert_eq!(runs_after([remove("a")], B, ""), "a:1");
    assert_eq!(runs_after([weight("a", 0)], B, ""), "a:1");
    let listener = "{name: web, address: '127.0.0.1:80'";
    let edits = [add("127.0.0.1:81"), weight("b", 2)];
    assert_eq!(runs_after(edits, listener, &listener.replace(":80'", ":81'")), "a:1, b:3/10");
}

#[test]
fn a_refusal_names_place_value_and_remedy() {
    for (edit, expected) in [
        (weight("a", 1_001), "upstreams.web.backends.a.weight: `1001` is not a whole number from 0 to 1000"),
        (weight("c", 1), "no backend of the upstream `web` is called `c`; `ringway ctl backends` lists them"),
        (
            set("a", None, None, None),
            "upstreams.web.backends.a: no value; give `weight`, `state` or `max_connections`",
        ),
        (
            add("{name: a, address: 10.0.0.4, port: 80}"),
            "upstreams.web.backends.a: the name is already taken; give another `name`, or change that backend with \
             `ringway ctl set`",
        ),
        (
            add("{address: h, port: 80, weight: 5000}"),
            "upstreams.web.backends[].weight: `5000` is not a whole number from 0 to 1000",
        ),
        (
            add("{address: h, port: 80, wieght: 5}"),
            "upstreams.web.backends[].wieght: unknown key `wieght`; did you mean `weight`?",
        ),
        (
            add("unix:/x"),
            "upstreams.web.backends[]: a `unix:` backend needs a name; write `{name: NAME, address: ...}`",
        ),
        (
            add("127.0.0.1:80"),
            "upstreams.web: the backend `127.0.0.1:80` is the listener `127.0.0.1:80` itself; its sessions would go in a circle",
        ),
    ] {
        assert_eq!(refused(edit), [expected]);
    }
    let unknown = Edit::Remove { upstream: "wen".to_owned(), backend: "a".to_owned() };
    assert_eq!(refused(unknown), ["no upstream is called `wen`; did you mean `web`?"]);
    let source = Edit::Add { upstream: "ssh".to_owned(), entry: "'[::1]:22'".to_owned() };
    assert_eq!(
        refused(source),
        ["upstreams.ssh: none of these addresses is IPv6, the family of `[::1]:22`; add one"]
    );
    for garbage in ["", "[", "- a\n- b", "{a: b", "\u{0}"] {
        assert!(!refused(add(garbage)).is_empty());
    }
}

#[test]
fn the_last_backend_with_a_weight_stays() {
    let file = valid(FILE);
    let expected = "upstreams.web: no backend with a weight above 0 would be left; raise the weight of another one \
                    first, or add one; `state=drain` takes a backend out of service, too";
    for (first, last) in
        [(weight("a", 0), weight("b", 0)), (remove("a"), remove("b")), (weight("b", 0), remove("a"))]
    {
        let mut overlay = overlay(&file, [first]);
        assert_eq!(overlay.edit(&file, last), Err(vec![expected.to_owned()]));
    }
}

#[test]
fn no_more_backends_are_added_than_fit() {
    let most = limits::BACKENDS_PER_UPSTREAM_MAX;
    let entries: String = (1..=most).map(|port| format!("      - 10.0.0.7:{port}\n")).collect();
    let file =
        valid(&FILE.replace("      - {name: a, address: 10.0.0.1, port: 80}\n", &entries).replace(B, ""));
    let mut overlay = Overlay::default();
    let errors = overlay.edit(&file, add("10.0.0.8:1")).expect_err("full");
    assert_eq!(
        errors,
        ["upstreams.web.backends.10.0.0.8:1: the upstream has 4096 backends, the most that fit; remove one"]
    );
    let full =
        overlay.edit(&file, remove("10.0.0.7:1")).and_then(|()| overlay.edit(&file, add("10.0.0.8:1")));
    assert_eq!(full, Ok(()));
    // The file wins where there is no room for both.
    let again = valid(
        &FILE
            .replace(
                "      - {name: a, address: 10.0.0.1, port: 80}\n",
                &entries.replace("10.0.0.7:1\n", "10.0.0.9:1\n"),
            )
            .replace(B, ""),
    );
    assert_eq!(overlay.apply(&again), again);
}

#[test]
fn differences_are_what_a_file_would_say() {
    let file = valid(FILE);
    let overlay = overlay(
        &file,
        [weight("a", 5), remove("b"), add("{name: c, address: 10.0.0.4, port: 80, weight: 2}")],
    );
    let differences = overlay.differences(&file);
    let shown: Vec<_> = differences
        .iter()
        .map(|change| (change.what.as_str(), change.before.as_deref(), change.after.as_deref()))
        .collect();
    let entry = "{name: c, address: 10.0.0.4, port: 80, weight: 2, max_connections: 0, backup: false}";
    assert_eq!(
        shown,
        [
            ("upstreams.web.backends.a.weight", Some("1"), Some("5")),
            ("upstreams.web.backends.b", Some("10.0.0.2:80"), None),
            ("upstreams.web.backends.c", None, Some(entry)),
        ]
    );
}

#[test]
fn an_overlay_survives_the_way_to_another_process() {
    let file = valid(FILE);
    let mut before = overlay(
        &file,
        [
            set("a", Some(5), Some(AdminState::Maint), Some(3)),
            remove("b"),
            add("{name: c, address: 'unix:/run/c d', weight: 2}"),
        ],
    );
    let json = serde_json::to_string(&before).expect("JSON");
    let mut after: Overlay = serde_json::from_str(&json).expect("an overlay");
    assert_eq!(after, before);
    assert_eq!(after.apply(&file), before.apply(&file));
    assert_eq!(serde_json::from_str::<Overlay>("{}").expect("an overlay"), Overlay::default());
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let name = || prop::sample::select(vec!["a", "b", "c", "10.0.0.4:80", "s"]);
    let upstream = prop::sample::select(vec!["web", "web", "web", "ssh", "none"]);
    let entry = prop::sample::select(vec![
        "10.0.0.4:80",
        "{name: c, address: h.x, port: 80, weight: 0}",
        "{name: a, address: 'fe80::1%3', port: 80}",
        "{name: b, address: 10.0.0.2, port: 80, weight: 3, max_connections: 10}",
        "{name: 'off', address: 'unix:/off', backup: true, max_connections: 7}",
        "127.0.0.1:80",
        "127.0.0.1:22",
        "{address",
    ]);
    let state =
        prop::option::of(prop::sample::select(vec![AdminState::Ready, AdminState::Drain, AdminState::Maint]));
    let number = || prop::option::of(prop::sample::select(vec![0, 1, 3, 10, 1_000, 1_001]));
    (upstream, 0..4_u8, name(), entry, (number(), state, number())).prop_map(
        |(upstream, kind, backend, entry, (weight, state, max_connections))| {
            let (upstream, backend) = (upstream.to_owned(), backend.to_owned());
            match kind {
                0 => Edit::Add { upstream, entry: entry.to_owned() },
                1 => Edit::Remove { upstream, backend },
                _ => Edit::Set { upstream, backend, weight, state, max_connections },
            }
        },
    )
}

/// The file, and files that follow it.
fn any_file() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        FILE.to_owned(),
        FILE.replace(B, ""),
        FILE.replace("weight: 3", "weight: 1000"),
        FILE.replace("name: b", "name: c"),
        FILE.replace("'127.0.0.1:80'", "':80'"),
        FILE.replace("      - {name: a, address: 10.0.0.1, port: 80}\n", ""),
        FILE.replace("name: ssh, source", "name: none, source").replace("upstream: ssh", "upstream: none"),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edits_and_files_in_any_order_give_a_valid_configuration(
        steps in prop::collection::vec((any_edit(), prop::option::weighted(0.2, any_file())), 1..12),
    ) {
        let mut overlay = Overlay::default();
        let mut file = valid(FILE);
        for (edit, next) in steps {
            file = next.map_or(file, |next| valid(&next));
            let before = overlay.apply(&file);
            let done = overlay.edit(&file, edit);
            let mut config = overlay.apply(&file);
            prop_assert!(done.is_ok() || config == before);
            prop_assert_eq!(overlay.differences(&file).is_empty(), config == file);
            config.upstreams.iter_mut().flat_map(|upstream| &mut upstream.backends).for_each(|backend| {
                backend.admin_state = AdminState::Ready;
            });
            let yaml = config.to_yaml();
            let again = parse("again", yaml.as_bytes())
                .map_err(|report| TestCaseError::fail(format!("{report}\nof\n{yaml}")))?;
            prop_assert_eq!(format!("{config:?}"), format!("{:?}", again.config));
        }
    }
}
