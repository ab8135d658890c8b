//! Whole files: what is translated, what is reported, and that no file can do harm.

use super::{Format, Import, guess, import};
use crate::config::{self, Config};

mod haproxy;
mod nginx;
mod properties;

/// Translates, and checks that the configuration is valid.
#[track_caller]
fn translated(text: impl AsRef<[u8]>, format: Format) -> (Config, Import) {
    let import = import("file", text.as_ref(), format);
    let yaml =
        import.yaml.clone().unwrap_or_else(|| panic!("nothing was translated: {:#?}", import.left_out));
    match config::parse("file", yaml.as_bytes()) {
        Ok(parsed) => (parsed.config, import),
        Err(report) => panic!("{report}\nof\n{yaml}"),
    }
}

/// Asserts that a line is reported with these words.
#[track_caller]
fn reported(import: &Import, line: usize, words: &str) {
    let found = import.left_out.iter().any(|left| left.line == line && left.to_string().contains(words));
    assert!(found, "line {line}: {words:?} is not in {:#?}", import.left_out);
}

/// Returns the indented example behind `begin` in docs/MIGRATION.md, and the YAML that it becomes.
fn example(begin: &str) -> (String, &'static str) {
    let page = include_str!("../../../docs/MIGRATION.md");
    let (_, rest) = page.split_once(begin).expect("the example");
    let (text, rest) = rest.split_once("\nbecomes\n").expect("what it becomes");
    let (_, rest) = rest.split_once("```yaml\n").expect("YAML");
    let (yaml, _) = rest.split_once("```").expect("its end");
    let text =
        text.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
    (text, yaml)
}

/// What the document says is what the program does.
#[test]
fn examples_of_the_document_become_what_it_says() {
    for (begin, format) in
        [("This `haproxy.cfg`\n", Format::Haproxy), ("This part of `nginx.conf`\n", Format::Nginx)]
    {
        let (text, yaml) = example(begin);
        assert_eq!(guess(text.as_bytes()), Some(format));
        let written = config::parse("document", yaml.as_bytes()).expect("a valid example").config;
        assert_eq!(translated(&text, format).0.to_yaml(), written.to_yaml());
    }
}

#[test]
fn format_is_guessed_by_content() {
    let haproxy = "global\n  daemon\nlisten a # {\n bind :1\n";
    let nginx = "# global\nevents {}\nstream {\n  server { listen 1; }\n}\n";
    assert_eq!(guess(haproxy.as_bytes()), Some(Format::Haproxy));
    assert_eq!(guess(nginx.as_bytes()), Some(Format::Nginx));
    for neither in ["", "a: 1\n", "\u{feff}", "\0"] {
        assert_eq!(guess(neither.as_bytes()), None, "{neither:?}");
    }
}

#[test]
fn file_without_tcp_is_nothing() {
    for (text, format, words) in [
        ("listen a\n mode http\n bind :1\n server b 10.0.0.1:1\n", Format::Haproxy, "lines 2 to 4"),
        ("http {\n server { listen 80; }\n}\n", Format::Nginx, "lines 1 to 3"),
    ] {
        let import = import("file", text.as_bytes(), format);
        assert!(import.yaml.is_none() && import.listeners == 0);
        reported(&import, 1, words);
    }
}
