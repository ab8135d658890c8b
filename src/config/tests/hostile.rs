//! Files that were made to hurt.

use super::*;

#[track_caller]
fn refused_soon(text: impl AsRef<[u8]>, headline: &str) {
    let start = Instant::now();
    let found = problems(text);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert!(found[0].starts_with(headline), "{found:#?}");
}

#[test]
fn bytes_that_are_no_text() {
    refused_soon("", "1:1: the file is empty");
    refused_soon("# nothing\n", "1:1: the file is empty");
    refused_soon("---\n", "1:1: the file is empty");
    refused_soon("a: b\0c\n", "1:5: control character U+0000");
    refused_soon("a: \u{1b}[2J\n", "1:4: control character U+001B");
    refused_soon("a: 1\nb: \u{feff}\n", "2:4: control character U+FEFF");
    refused_soon(b"a: 1\n\xc3\xa9: \xff\n", "2:4: byte 0xff is not UTF-8; save");
    refused_soon(b"\xff\xfea\0", "1:1: byte 0xff is not UTF-8; it looks like UTF-16");
    refused_soon("a:\n\tb: 1\n", "2:1: a tab in the indentation");
    refused_soon("a:\n  \tb: 1\n", "2:3: a tab in the indentation");
    refused_soon("[a]", "1:1: not a configuration");
    refused_soon("hello", "1:1: not a configuration");
    refused_soon("a: {", "2:1: not YAML");
    refused_soon("a: 1\n---\nb: 2\n", "2:1: a second document");
}

#[test]
fn depth_and_number_of_values_are_bounded() {
    // The scanner looks ahead here, and has a bound of its own.
    refused_soon("[".repeat(1 << 19), "1:256: not YAML: recursion limit");
    refused_soon(format!("{}{}", "[".repeat(40), "]".repeat(40)), "1:33: nested deeper");
    refused_soon("- ".repeat(1 << 19), "1:65: nested deeper");
    refused_soon("{a: ".repeat(1 << 18), "1:1021: not YAML: recursion limit");
    refused_soon(format!("a: [{}]", "a,".repeat(1 << 18)), "1:199999: more than 100000 values");
    let bomb: String = (1..30).map(|n| format!("k{n}: &k{n} [*k{0}, *k{0}, *k{0}]\n", n - 1)).collect();
    refused_soon(format!("k0: &k0 a\n{bomb}"), "11:17: more than 100000 values");
    let nested: String = (1..50).map(|n| format!("k{n}: &k{n} [*k{}]\n", n - 1)).collect();
    refused_soon(format!("k0: &k0 a\n{nested}"), "32:12: nested deeper");
    refused_soon(vec![b'#'; (1 << 20) + 1], "1:1: larger than 1048576 bytes");
}

#[test]
fn thousands_of_problems_are_counted_and_a_hundred_kept() {
    let keys: String = (0..40_000).map(|n| format!("key{n}: 1\n")).collect();
    let start = Instant::now();
    let report = parse("f", short(&keys).as_bytes()).expect_err("unknown keys");
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert_eq!((report.errors(), report.problems().len()), (40_000, limits::CONFIG_PROBLEMS_MAX));
    assert!(report.to_string().ends_with("f: 39900 more not shown\nf: 40000 errors"));
}

#[test]
fn wrong_defaults_of_many_entries_are_read_in_bounded_time() {
    let defaults: String = (0..20_000).map(|n| format!("    k{n}: 1\n")).collect();
    let entries: String = (0..2_000).map(|n| format!("  - {{name: n{n}, backends: []}}\n")).collect();
    let text = format!("defaults:\n  upstream:\n{defaults}upstreams:\n{entries}");
    refused_soon(text, "3:5: unknown key");
}

#[test]
fn report_on_hostile_text_is_short_and_plain() {
    let key = format!("\"\\e[2J\\n\\u202e{}\"", "x".repeat(1_000_000));
    let report = parse("f\u{1b}[2J", short(&format!("{key}: 1\n")).as_bytes()).expect_err("unknown key");
    let shown = report.to_string();
    assert!(shown.len() < 1_000, "{}", shown.len());
    assert!(!shown.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{shown:?}");
}
