//! The layers of the house, read from the source: a module uses its own layer's folder or lower layers, the rules are
//! pure, and the runtimes stay behind the doors that were made for them (`docs/maintainers/ARCHITECTURE.md`).
//!
//! This reads text, not Rust: paths that begin with `crate::`, and names of foreign APIs, outside of comments, strings
//! and test modules. The checker is tested on bad examples below, so that it cannot pass by seeing nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails at the place")]

use std::fs;
use std::path::{Path, PathBuf};

/// The layers, lowest first. A folder may use those of lower layers and itself.
const LAYERS: [&[&str]; 5] = [
    &["words"],
    &["rules"],
    &["uring", "net", "relay", "pool", "telemetry"],
    &["shard", "health", "control"],
    &["server", "cli", "main", "lib"],
];

/// Uses between folders of one layer that the design names: relaying and accepting is done on the ring.
const BESIDE: [(&str, &str); 4] = [("relay", "uring"), ("relay", "net"), ("net", "uring"), ("pool", "uring")];

/// A name that only some folders may use.
struct Reserved {
    name: &'static str,
    allowed: &'static [&'static str],
}

const RESERVED: [Reserved; 4] = [
    Reserved { name: "glommio", allowed: &["shard", "uring"] },
    // `cli`: the backends and clients of the demo.
    Reserved { name: "tokio", allowed: &["health", "control", "server", "cli"] },
    Reserved { name: "io_uring", allowed: &["uring"] },
    // The wall clock may jump; only log records carry it.
    Reserved { name: "SystemTime", allowed: &["telemetry"] },
];

/// What pure rules do not touch: clocks, sockets, threads, files, and randomness without a seed.
const IMPURE: [&str; 19] = [
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
    "std::thread",
    "std::fs",
    "std::env",
    "std::process",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "fastrand",
    "socket2",
    "libc",
    "crossbeam_channel",
];

/// One line of one module, without comments and strings.
struct Line<'a> {
    folder: &'a str,
    place: String,
    text: String,
}

#[test]
fn modules_use_their_own_layer_or_lower_ones() {
    assert_none(&source(), layer_faults);
}

#[test]
fn rules_touch_no_clock_socket_thread_or_file() {
    assert_none(&source(), purity_faults);
}

#[test]
fn runtimes_stay_behind_their_doors() {
    assert_none(&source(), reserved_faults);
}

#[test]
fn every_folder_has_a_layer() {
    for (path, _) in source() {
        assert!(layer_of(folder_of(&path)).is_some(), "{} has no layer", path.display());
    }
}

/// Bad modules, one for each kind of fault, and good ones that look like them.
#[test]
fn checker_finds_what_is_wrong_and_nothing_else() {
    let faults = |path: &str, text: &str| {
        let all = [(PathBuf::from(path), text.to_owned())];
        faults_of(&all, layer_faults).len()
            + faults_of(&all, purity_faults).len()
            + faults_of(&all, reserved_faults).len()
    };
    let bad = [
        ("words/a.rs", "use crate::rules::config::Config;"),
        ("rules/a.rs", "use crate::{words::CloseReason, telemetry::counters};"),
        ("rules/a.rs", "use crate::{\n    words,\n    net,\n};"),
        ("rules/a/b.rs", "fn f() { let now = std::time::Instant::now(); }"),
        ("rules/a.rs", "use std::{fs, io};"),
        ("rules/a.rs", "use std::net::{IpAddr, TcpStream};"),
        ("relay/a.rs", "fn f(shard: &crate::shard::Shard) {}"),
        ("net/a.rs", "use crate::relay::Relay;"),
        ("uring/a.rs", "use tokio::net::TcpStream;"),
        ("shard/a.rs", "use crate::health::HealthThread;"),
        ("health/a.rs", "use glommio::timer;"),
        ("health/a.rs", "let begin = std::time::SystemTime::now();"),
        ("control/a.rs", "pub(in crate::server) fn f() {}"),
    ];
    for (path, text) in bad {
        assert_eq!(faults(path, text), 1, "{path}: {text}");
    }
    let good = [
        ("words/a.rs", "//! As crate::rules says.\nfn f() { println!(\"crate::shard tokio\"); } // glommio"),
        (
            "rules/a.rs",
            "use crate::words::{CloseReason, limits};\nuse std::net::SocketAddr;\nuse std::time::Duration;",
        ),
        (
            "rules/a.rs",
            "use crate::rules::balance;\n#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}",
        ),
        ("relay/a.rs", "use crate::uring::{Ring, Socket};"),
        ("server/a.rs", "use crate::{cli, control, words};\nfn f() { tokio::spawn(async {}); }"),
        ("rules/tests.rs", "use std::time::Instant;"),
        ("rules/config/tests/hostile.rs", "use std::time::Instant;"),
    ];
    for (path, text) in good {
        assert_eq!(faults(path, text), 0, "{path}: {text}");
    }
}

/// The checks say nothing about an empty tree, so there must be one.
#[test]
fn source_is_read() {
    let source = source();
    let uses = source.iter().filter(|(_, text)| text.contains("use crate::")).count();
    assert!(source.len() > 40 && uses > 20, "{} files, {uses} with imports", source.len());
}

#[track_caller]
fn assert_none(source: &[(PathBuf, String)], check: fn(&Line<'_>) -> Vec<String>) {
    let faults = faults_of(source, check);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn faults_of(source: &[(PathBuf, String)], check: fn(&Line<'_>) -> Vec<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in source {
        if is_test_file(path) {
            continue;
        }
        for (number, text) in statements(&code(text)) {
            let line =
                Line { folder: folder_of(path), place: format!("src/{}:{number}", path.display()), text };
            faults.extend(check(&line).into_iter().map(|fault| format!("{}: {fault}", line.place)));
        }
    }
    faults
}

fn layer_faults(line: &Line<'_>) -> Vec<String> {
    let own = layer_of(line.folder);
    let wrong = |used: &String| {
        let layer = layer_of(used);
        layer.is_none() || layer > own || layer == own && !may_use_beside(line.folder, used)
    };
    let fault = |used: String| format!("{} uses {used}, which is no lower layer", line.folder);
    crate_folders(&line.text).into_iter().filter(wrong).map(fault).collect()
}

/// The assembly is one house; of the other layers' folders each stands alone, but for what is written down.
fn may_use_beside(folder: &str, used: &str) -> bool {
    folder == used || layer_of(folder) == Some(LAYERS.len() - 1) || BESIDE.contains(&(folder, used))
}

fn purity_faults(line: &Line<'_>) -> Vec<String> {
    if line.folder != "rules" {
        return Vec::new();
    }
    let paths = expand_std(&line.text);
    let used = IMPURE
        .iter()
        .filter(|name| if name.contains("::") { paths.contains(*name) } else { has_word(&paths, name) });
    used.map(|name| format!("rules use {name}")).collect()
}

fn reserved_faults(line: &Line<'_>) -> Vec<String> {
    // `rules` may not use it either, and says so itself.
    let foreign = |reserved: &&Reserved| line.folder != "rules" && !reserved.allowed.contains(&line.folder);
    let used = RESERVED.iter().filter(foreign).filter(|reserved| has_word(&line.text, reserved.name));
    used.map(|reserved| format!("{} uses {}", line.folder, reserved.name)).collect()
}

/// The folders a statement names behind `crate::`, single or in braces; `crate` alone is none.
fn crate_folders(text: &str) -> Vec<String> {
    let mut folders = Vec::new();
    for (begin, _) in text.match_indices("crate::") {
        let rest = &text[begin + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => folders.extend(first_word(rest)),
            Some(list) => folders.extend(top_of_list(list).iter().filter_map(|item| first_word(item))),
        }
    }
    folders
}

/// `std::{a::{b, c}, d}` names `std::a` and `std::d`; appended to the text, so that one search finds both ways.
fn expand_std(text: &str) -> String {
    let mut expanded = text.to_owned();
    for (begin, _) in text.match_indices("std::{") {
        for item in top_of_list(&text[begin + "std::{".len()..]) {
            expanded.push_str(&format!(" std::{}", item.trim()));
        }
    }
    expanded
}

/// The items of a list whose opening brace is gone, down to its closing one.
fn top_of_list(list: &str) -> Vec<String> {
    let (mut items, mut depth) = (vec![String::new()], 0);
    for character in list.chars() {
        match character {
            '}' if depth == 0 => break,
            ',' if depth == 0 => {
                items.push(String::new());
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        items.last_mut().unwrap().push(character);
    }
    items
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text
        .trim_start()
        .chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect();
    (!word.is_empty()).then_some(word)
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    text.match_indices(word).any(|(begin, _)| {
        !text[..begin].ends_with(is_part) && !text[begin + word.len()..].starts_with(is_part)
    })
}

/// Lines, but a `use` over several lines as one, with the number of its first line.
fn statements(text: &str) -> Vec<(usize, String)> {
    let mut statements: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        if open {
            statements.last_mut().unwrap().1.push_str(line.trim());
        } else {
            statements.push((index + 1, line.to_owned()));
        }
        let statement = statements.last().unwrap().1.trim_start();
        let is_use = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "]
            .iter()
            .any(|begin| statement.starts_with(begin));
        open = is_use && !statement.contains(';');
    }
    statements
}

/// The text without comments, without what is in strings, and without what stands under `#[cfg(test)]`; lines stay.
fn code(text: &str) -> String {
    let mut code = String::new();
    let (mut in_string, mut raw) = (false, false);
    for line in text.lines() {
        let characters: Vec<char> = line.chars().collect();
        let mut index = 0;
        while index < characters.len() {
            match (characters[index], characters.get(index + 1)) {
                ('\\', _) if in_string && !raw => index += 1,
                ('"', _) => {
                    in_string = !in_string;
                    raw = in_string && index > 0 && matches!(characters[index - 1], 'r' | '#');
                }
                _ if in_string => {}
                ('/', Some('/')) => break,
                // A character literal may be a quotation mark.
                ('\'', Some('"')) if characters.get(index + 2) == Some(&'\'') => index += 2,
                ('\'', Some('\\')) => index += 3,
                (character, _) => code.push(character),
            }
            index += 1;
        }
        code.push('\n');
    }
    without_tests(&code)
}

/// Drops the item behind each `#[cfg(test)]`, up to its closing brace or its semicolon.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        if !line.trim_start().starts_with("#[cfg(test)]") {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        kept.push('\n');
        let mut depth = 0_i32;
        for line in lines.by_ref() {
            kept.push('\n');
            depth += line.matches('{').count() as i32 - line.matches('}').count() as i32;
            let ends = line.contains('}') || line.trim_end().ends_with(';');
            if depth <= 0 && ends {
                break;
            }
        }
    }
    kept
}

fn is_test_file(path: &Path) -> bool {
    let in_folder = path.parent().is_some_and(|folder| folder.ends_with("tests"));
    in_folder || path.file_name().is_some_and(|name| name == "tests.rs" || name == "testing.rs")
}

fn layer_of(folder: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&folder))
}

/// The folder of `src` a file is in, or the file's own name at the top.
fn folder_of(path: &Path) -> &str {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Every file of `src`, by its path within.
fn source() -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, root: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found.sort();
    found
}
