//! The layers of the crate, read from the source: a module uses its own folder or lower ones, no files import
//! each other in a circle, pure code is pure, and the runtimes stay behind the doors that were made for them
//! (`docs/maintainers/ARCHITECTURE.md`).
//!
//! This reads text, not Rust: paths that begin with `crate::`, and names of foreign APIs, outside of
//! comments, strings and test modules. The checker is tested on bad examples below, so that it cannot pass by
//! seeing nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::path::{Path, PathBuf};

/// The folders, lowest first; the six layers in the comments. A folder may use itself and those above it in
/// this list, but none of its own line.
const ORDER: [&[&str]; 17] = [
    &["base"],
    // Pure: bytes, numbers and time in, values out.
    &["balance"],
    &["protocol"],
    &["config"],
    &["import"],
    // What handshakes of TLS need, made of the configuration.
    &["tls"],
    // State that threads share: atomics and short locks.
    &["admission"],
    &["upstream"],
    &["steering"],
    // Mechanisms.
    &["uring"],
    &["net"],
    &["telemetry"],
    &["relay", "pool"],
    // Planes.
    &["shard", "health", "control"],
    // Assembly.
    &["server"],
    &["cli"],
    &["main", "lib"],
];

/// Folders and files that are pure.
const PURE: [&str; 6] =
    ["balance/", "protocol/", "config/", "import/", "health/rules/", "upstream/serving.rs"];

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
    // The wall clock may jump; only log records carry it, and certificates are checked by it.
    Reserved { name: "SystemTime", allowed: &["telemetry", "cli"] },
];

/// What pure code does not touch: clocks, sockets, threads, files, locks, callbacks, and randomness without a
/// seed.
const IMPURE: [&str; 24] = [
    "Mutex",
    "RwLock",
    "Condvar",
    "dyn Fn",
    "dyn FnMut",
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

/// Folders of what a shard does for messages and sessions.
const DATA_PLANE: [&str; 9] =
    ["tls", "admission", "upstream", "steering", "uring", "net", "relay", "pool", "shard"];

/// What is written elsewhere, and by no message: file, and how what is written ends.
const OWN_WRITES: [(&str, &str); 9] = [
    // A cache line of each shard, which another one writes near the limit.
    ("admission/limit.rs", "self.credit(shard)"),
    ("admission/limit.rs", "credits[shard.index()]"),
    ("admission/limit.rs", "|credits|credits"),
    ("admission/limit.rs", "credit"),
    // A reload changes the addresses of an upstream.
    ("pool/mod.rs", "self.notice.changed"),
    ("pool/mod.rs", "self.task"),
    // After a turn that was too long.
    ("uring/heartbeat.rs", "self.at"),
    ("uring/heartbeat.rs", "self.stall.at"),
    // At the start.
    ("uring/locked.rs", "ONE"),
];

/// One line of one module, without comments and strings.
struct Line<'a> {
    path: &'a Path,
    folder: &'a str,
    place: String,
    text: String,
}

#[test]
fn modules_use_lower_folders_only() {
    assert_none(&source("src"), layer_faults);
}

#[test]
fn pure_code_touches_no_clock_socket_thread_file_or_lock() {
    assert_none(&source("src"), purity_faults);
}

#[test]
fn runtimes_stay_behind_their_doors() {
    assert_none(&source("src"), reserved_faults);
}

/// The audit of `base::Shared` counts what is written through it: so all that several cores write is in one.
#[test]
fn what_several_cores_write_is_shared_by_name() {
    assert_none(&source("src"), shared_faults);
}

#[test]
fn every_folder_has_a_position_in_the_order() {
    for (path, _) in source("src") {
        assert!(position_of(folder_of(&path)).is_some(), "{} has no layer", path.display());
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for root in ["src", "benches/load"] {
        let circles = circles(&source(root));
        assert!(circles.is_empty(), "{root}:\n{}", circles.join("\n"));
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
            + faults_of(&all, shared_faults).len()
    };
    let bad = [
        ("base/a.rs", "use crate::config::Config;"),
        ("balance/a.rs", "use crate::{base::CloseReason, telemetry::counters};"),
        ("config/a.rs", "use crate::{\n    base,\n    net,\n};"),
        ("balance/a/b.rs", "fn f() { let now = std::time::Instant::now(); }"),
        ("config/a.rs", "use std::{fs, io};"),
        ("config/a.rs", "use std::net::{IpAddr, TcpStream};"),
        ("balance/a.rs", "use std::sync::Mutex;"),
        ("upstream/serving.rs", "struct A { callback: Box<dyn Fn()> }"),
        ("health/rules/a.rs", "use std::sync::{Arc, RwLock};"),
        ("relay/a.rs", "fn f(shard: &crate::shard::Shard) {}"),
        ("uring/a.rs", "use crate::net::Listening;"),
        ("uring/a.rs", "use tokio::net::TcpStream;"),
        ("shard/a.rs", "use crate::health::HealthThread;"),
        ("health/a.rs", "use glommio::timer;"),
        ("health/a.rs", "let begin = std::time::SystemTime::now();"),
        ("control/a.rs", "pub(in crate::server) fn f() {}"),
        ("relay/a.rs", "self.count.fetch_add(1, Relaxed);"),
        ("upstream/a.rs", "self.count\n    .get()\n    .compare_exchange_weak(0, 1, SeqCst, SeqCst);"),
        ("shard/a.rs", "let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);"),
        ("steering/a.rs", "self.is_full.swap(true, Relaxed);"),
        ("uring/a.rs", "if let Ok(all) = self.all.try_lock() {}"),
        (
            "admission/limit.rs",
            "self.a.write().fetch_add(1, Relaxed) + self.taken.get().fetch_sub(credits, Relaxed);",
        ),
    ];
    for (path, text) in bad {
        assert_eq!(faults(path, text), 1, "{path}: {text}");
    }
    let good = [
        ("base/a.rs", "//! As crate::config says.\nfn f() { println!(\"crate::shard tokio\"); } // glommio"),
        (
            "config/a.rs",
            "use crate::base::{CloseReason, limits};\nuse std::net::SocketAddr;\nuse std::time::Duration;",
        ),
        ("config/a.rs", "use crate::balance;\n#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}"),
        ("admission/a.rs", "use std::sync::Mutex;"),
        ("net/a.rs", "use crate::uring::{Ring, Socket};"),
        ("cli/a.rs", "use crate::{base, control, server};\nfn f() { tokio::spawn(async {}); }"),
        ("config/tests.rs", "use std::time::Instant;"),
        ("config/tests/hostile.rs", "use std::time::Instant;"),
        (
            "relay/a.rs",
            "self.count.write().fetch_add(1, Relaxed);\nself.0.swap(1, 2);\nself.list.lock_all();",
        ),
        ("control/a.rs", "self.count.fetch_add(1, Relaxed);"),
        ("uring/locked.rs", "let one = ONE.lock();"),
    ];
    for (path, text) in good {
        assert_eq!(faults(path, text), 0, "{path}: {text}");
    }
}

/// Every way of naming another file, in a circle and in a straight line.
#[test]
fn circle_is_found_however_it_is_written() {
    let circles_of = |files: &[(&str, &str)]| {
        let files: Vec<_> =
            files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        circles(&files).len()
    };
    let root = ("a/mod.rs", "mod b;\nmod c;\npub use b::B;\npub use c::C;");
    let bad = [
        ("use super::c::C;", "use super::b::B;"),
        ("use super::c::C;", "fn f(b: &crate::a::b::B) {}"),
        ("use super::{c, d};", "use super::{\n    b::{self, B},\n};"),
        // What a folder re-exports belongs to the file it comes from.
        ("use super::C;", "use crate::a::{B, D};"),
    ];
    for (b, c) in bad {
        assert_eq!(circles_of(&[root, ("a/b.rs", b), ("a/c.rs", c)]), 1, "{b} / {c}");
    }
    assert_eq!(circles_of(&[root, ("a/b.rs", "use super::c::C;"), ("a/c.rs", "// super::b\nfn f() {}")]), 0);
    // A module and its own folder: a child that uses what its parent defines, which uses it.
    let parent = "mod b;\npub struct A(b::B);\nfn f() { b::g() }";
    assert_eq!(circles_of(&[("a/mod.rs", parent), ("a/b.rs", "use super::A;")]), 1);
    assert_eq!(circles_of(&[("a/mod.rs", "mod b;\npub struct A;"), ("a/b.rs", "use super::A;")]), 0);
}

/// The checks say nothing about an empty tree, so there must be one.
#[test]
fn source_is_read() {
    let source = source("src");
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
            let line = Line {
                path,
                folder: folder_of(path),
                place: format!("src/{}:{number}", path.display()),
                text,
            };
            faults.extend(check(&line).into_iter().map(|fault| format!("{}: {fault}", line.place)));
        }
    }
    faults
}

fn layer_faults(line: &Line<'_>) -> Vec<String> {
    let own = position_of(line.folder);
    let wrong =
        |used: &String| used != line.folder && (position_of(used).is_none() || position_of(used) >= own);
    let fault = |used: String| format!("{} uses {used}, which is not below it", line.folder);
    crate_folders(&line.text).into_iter().filter(wrong).map(fault).collect()
}

fn is_pure(path: &Path) -> bool {
    PURE.iter().any(|pure| path.to_str().unwrap().starts_with(pure))
}

fn purity_faults(line: &Line<'_>) -> Vec<String> {
    if !is_pure(line.path) {
        return Vec::new();
    }
    let paths = expand_std(&line.text);
    let used = IMPURE
        .iter()
        .filter(|name| if name.contains("::") { paths.contains(*name) } else { has_word(&paths, name) });
    used.map(|name| format!("pure code uses {name}")).collect()
}

fn reserved_faults(line: &Line<'_>) -> Vec<String> {
    // Pure code may not use the clock either, and has a fault of its own for it.
    let foreign = |reserved: &&Reserved| !is_pure(line.path) && !reserved.allowed.contains(&line.folder);
    let used = RESERVED.iter().filter(foreign).filter(|reserved| has_word(&line.text, reserved.name));
    used.map(|reserved| format!("{} uses {}", line.folder, reserved.name)).collect()
}

/// Writes of atomics, but for plain stores, which are those of counters with one writer, and locks.
fn shared_faults(line: &Line<'_>) -> Vec<String> {
    if !DATA_PLANE.contains(&line.folder) {
        return Vec::new();
    }
    let text: String = line.text.split_whitespace().collect();
    let orders = ["Relaxed", "AcqRel", "Acquire", "Release", "SeqCst"];
    let is_atomic = orders.iter().any(|order| text.contains(order));
    let path = line.path.to_str().unwrap();
    let is_fault = |written: &str, write: &str| {
        let is_counted = written.ends_with(".write()");
        // A method of that name is the place that locks.
        let is_method = write == ".lock()" && written.ends_with("self");
        let is_own = OWN_WRITES.iter().any(|(file, end)| path == *file && written.ends_with(end));
        // Others exchange the parts of a slice.
        let is_other = write == ".swap(" && !is_atomic;
        !(is_counted || is_method || is_own || is_other)
    };
    let writes = [".fetch_", ".compare_exchange", ".swap(", ".lock()", ".try_lock()"];
    let found = writes.iter().flat_map(|write| text.match_indices(write).map(move |(at, _)| (at, *write)));
    let faults = found.filter(|(at, write)| is_fault(&text[..*at], write));
    faults.map(|(_, write)| format!("{write} on what is no base::Shared")).collect()
}

/// Each circle of files as the paths on it.
///
/// A file uses another one where it names a path into it: `crate::`, `super::` or a child module, resolved
/// through what the files between re-export. A `mod` or `pub use` line alone is no use: it is what a folder's
/// door consists of.
fn circles(source: &[(PathBuf, String)]) -> Vec<String> {
    let files: Vec<_> = source.iter().filter(|(path, _)| !is_test_file(path)).collect();
    let modules: Vec<Vec<String>> = files.iter().map(|(path, _)| module_of(path)).collect();
    let doors: Vec<_> = files.iter().map(|(_, text)| re_exports(&code(text))).collect();
    let find = |module: &[String]| modules.iter().position(|known| known == module);
    // The file in which a path ends: the longest module it names, and from a door on to where its item comes
    // from.
    let resolve = |path: &[String]| -> Option<usize> {
        let mut at = (1..=path.len()).rev().find_map(|length| Some((find(&path[..length])?, length)))?;
        while let Some((name, module)) =
            path.get(at.1).and_then(|item| doors[at.0].iter().find(|(n, _)| n == item))
        {
            debug_assert_eq!(Some(name), path.get(at.1));
            let target: Vec<_> = modules[at.0].iter().chain(module).cloned().collect();
            at = (find(&target)?, at.1);
        }
        Some(at.0)
    };
    let uses: Vec<Vec<usize>> = files
        .iter()
        .enumerate()
        .map(|(index, (_, text))| {
            let named = named_paths(&code(text), &modules[index]);
            let mut used: Vec<_> =
                named.iter().filter_map(|path| resolve(path)).filter(|&to| to != index).collect();
            used.sort_unstable();
            used.dedup();
            used
        })
        .collect();
    // What is left when files that no other on a circle uses, or that use none, are taken away again and
    // again.
    let mut left: Vec<_> = (0..files.len()).collect();
    loop {
        let before = left.len();
        let known = left.clone();
        left.retain(|one| {
            uses[*one].iter().any(|to| known.contains(to))
                && known.iter().any(|from| uses[*from].contains(one))
        });
        if left.len() == before {
            break;
        }
    }
    let reaches = |from: usize| {
        let mut seen = vec![from];
        let mut next = 0;
        while let Some(&at) = seen.get(next) {
            seen.extend(
                uses[at].iter().filter(|to| left.contains(to) && !seen.contains(to)).collect::<Vec<_>>(),
            );
            next += 1;
        }
        seen
    };
    let mut circles: Vec<Vec<usize>> = Vec::new();
    for &one in &left {
        if circles.iter().flatten().any(|known| *known == one) {
            continue;
        }
        let circle: Vec<_> =
            reaches(one).into_iter().filter(|&other| other == one || reaches(other).contains(&one)).collect();
        if circle.len() > 1 {
            circles.push(circle);
        }
    }
    let shown = |circle: &Vec<usize>| {
        let pairs = circle
            .iter()
            .flat_map(|from| uses[*from].iter().filter(|to| circle.contains(to)).map(move |to| (from, to)));
        let pairs =
            pairs.map(|(from, to)| format!("{} -> {}", files[*from].0.display(), files[*to].0.display()));
        pairs.collect::<Vec<_>>().join(", ")
    };
    circles.iter().map(shown).collect()
}

/// The module of a file, from the root on: `a/b.rs` and `a/b/mod.rs` are `a::b`.
fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<_> = path
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_str().unwrap().to_owned())
        .collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "main" | "lib")) {
        module.pop();
    }
    module
}

/// What a file passes on of its children: the name, and the module below that it comes from.
fn re_exports(code: &str) -> Vec<(String, Vec<String>)> {
    let mut exports = Vec::new();
    for (_, statement) in statements(code) {
        let statement = statement.trim();
        let Some(begin) = statement.starts_with("pub").then(|| statement.find("use ")).flatten() else {
            continue;
        };
        let tree = statement[begin + "use ".len()..].trim_end_matches(';');
        for path in expand_tree(tree) {
            if let Some((name, module)) = path.split_last().filter(|(_, module)| !module.is_empty()) {
                exports.push((name.clone(), module.to_vec()));
            }
        }
    }
    exports
}

/// All paths of a file that lead to files of this crate, from the root on.
fn named_paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let children: Vec<String> = code
        .lines()
        .filter_map(|line| {
            let line = line
                .trim()
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub ");
            line.strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
        })
        .collect();
    let mut paths = Vec::new();
    for (_, statement) in statements(code) {
        let statement = statement.trim();
        if statement.starts_with("pub") && statement.contains("use ") {
            continue;
        }
        for tree in trees(statement) {
            for path in expand_tree(tree) {
                let above = path.iter().take_while(|part| *part == "super").count();
                let first = &path[above.min(path.len() - 1)];
                let base: &[String] = match path[0].as_str() {
                    "crate" => &[],
                    "super" if above <= module.len() => &module[..module.len() - above],
                    "self" => module,
                    _ if children.contains(first) => module,
                    _ => continue,
                };
                let skipped = match path[0].as_str() {
                    "crate" | "self" => 1,
                    _ => above,
                };
                paths.push(base.iter().chain(&path[skipped..]).cloned().collect());
            }
        }
    }
    paths
}

/// Where paths of a statement begin: at each word that is followed by `::` and does not follow one.
fn trees(statement: &str) -> Vec<&str> {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    let mut begins = Vec::new();
    let mut word = None;
    for (index, character) in statement.char_indices() {
        match (is_part(character), word) {
            (true, None) => word = Some(index),
            (false, Some(begin)) => {
                let in_path = statement[..begin].ends_with("::");
                if !in_path && statement[index..].starts_with("::") {
                    begins.push(&statement[begin..]);
                }
                word = None;
            }
            _ => {}
        }
    }
    // Inside the braces of a tree, words begin paths of their own only for the tree.
    match statement.starts_with("use ") {
        true => begins.into_iter().take(1).collect(),
        false => begins,
    }
}

/// The single paths of `a::{b, c::D}`; of other text the path at its begin.
fn expand_tree(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    if let Some(rest) = tree.strip_prefix("self").filter(|rest| !rest.starts_with("::")) {
        let _ = rest;
        return vec![Vec::new()];
    }
    let Some(first) = first_word(tree) else { return Vec::new() };
    let Some(rest) = tree[first.len()..].strip_prefix("::") else { return vec![vec![first]] };
    let below = match rest.strip_prefix('{') {
        Some(list) => top_of_list(list).iter().flat_map(|item| expand_tree(item)).collect(),
        None => expand_tree(rest),
    };
    let with_first = |mut path: Vec<String>| {
        path.insert(0, first.clone());
        path
    };
    match below.is_empty() {
        true => vec![vec![first]],
        false => below.into_iter().map(with_first).collect(),
    }
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

/// `std::{a::{b, c}, d}` names `std::a` and `std::d`; appended to the text, so that one search finds both
/// ways.
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

/// The text without comments, without what is in strings, and without what stands under `#[cfg(test)]`; lines
/// stay.
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

fn position_of(folder: &str) -> Option<usize> {
    ORDER.iter().position(|folders| folders.contains(&folder))
}

/// The folder of `src` a file is in, or the file's own name at the top.
fn folder_of(path: &Path) -> &str {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Every file below a folder, by its path within.
fn source(folder: &str) -> Vec<(PathBuf, String)> {
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found.sort();
    found
}
