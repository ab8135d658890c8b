//! Set-up: the binary and a file. Claim: exit status and last line are as promised, in each way of asking; a
//! file that is not valid never makes it hang or panic. The problems themselves are tested in
//! `src/config/tests`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::run_to_end;

const RUN: &str = env!("CARGO_BIN_EXE_ringway");
const VALID: &str = "loadbalancer:\n  listen_address: \":8080\"\n  algorithm: \"round_robin\"\nbackends:\n  - address: \
                     \"localhost\"\n    port: 8081\nhealthcheck:\n  interval: 30s\n  timeout: 5s\n";
/// An unknown key, a port too large, and a name twice.
const THREE_ERRORS: &str = "loadbalancer:\n  listen_adress: \":8080\"\n  listen_address: \":8080\"\nbackends:\n  - {name: a, \
                            address: 127.0.0.1, port: 70000}\n  - {name: b, address: 127.0.0.1, port: 81}\n  - {name: \
                            b, address: 127.0.0.1, port: 82}\n";

fn file(text: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn ringway(arguments: &[&str], path: &Path) -> Output {
    run_to_end(Command::new(RUN).args(arguments).arg(path))
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn every_way_to_check_a_valid_file_says_so() {
    let (_folder, path) = file(VALID);
    let ways: [&[&str]; 7] = [
        &["check"],
        &["check", "-f"],
        &["check", "--config"],
        &["-t", "-f"],
        &["--check", "-f"],
        &["-t", "-config"],
        &["run", "-t", "-f"],
    ];
    for way in ways {
        let output = ringway(way, &path);
        assert_eq!(output.status.code(), Some(0), "{way:?}: {output:?}");
        assert_eq!(last_line(&output), format!("{}: configuration is valid", path.display()), "{way:?}");
    }
}

#[test]
fn all_problems_come_in_one_run() {
    let (_folder, path) = file(THREE_ERRORS);
    let output = ringway(&["check", "-f"], &path);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(last_line(&output), format!("{}: 3 errors", path.display()), "{output:?}");
}

#[test]
fn each_problem_has_line_key_and_suggestion() {
    let (_folder, path) = file(THREE_ERRORS);
    let output = ringway(&["check", "-f"], &path);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [":2:3: ", ":5:", ":7:"] {
        assert!(text.contains(&format!("{}{line}", path.display())), "{line} in {text}");
    }
    for words in ["listen_adress", "listen_address`", "backends[0].port", "70000", "^"] {
        assert!(text.contains(words), "{words} in {text}");
    }
}

#[test]
fn run_with_an_invalid_file_ends_with_1() {
    let (_folder, path) = file(THREE_ERRORS);
    let output = ringway(&["-f"], &path);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("3 errors"), "{said}");
}

#[test]
fn hostile_files_are_refused_without_a_panic() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n";
    let files: [&[u8]; 8] = [
        b"",
        b"\0\0\0",
        b"\xff\xfe\x00",
        b"a: 1\n---\nb: 2\n",
        b"\tloadbalancer: 1\n",
        bomb.as_bytes(),
        &b"[".repeat(100_000),
        &b"x".repeat(2 << 20),
    ];
    for text in files {
        let (_folder, path) = file(text);
        let output = ringway(&["check", "-f"], &path);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
        assert!(output.stdout.len() < 1 << 20, "{} bytes said", output.stdout.len());
    }
}

#[test]
fn what_is_no_file_is_refused() {
    for path in ["/nonexistent/f.yaml", "/", "/dev/zero"] {
        let output = ringway(&["check", "-f"], Path::new(path));
        assert_eq!(output.status.code(), Some(1), "{path}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(path), "{path}: {output:?}");
    }
}

#[test]
fn byte_order_mark_and_windows_line_ends_are_fine() {
    let (_folder, path) = file(format!("\u{feff}{}", VALID.replace('\n', "\r\n")));
    let output = ringway(&["check", "-f"], &path);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn printed_configuration_prints_the_same() {
    let (_folder, path) = file(VALID);
    let printed = ringway(&["config", "-f"], &path);
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    let (_again, path) = file(&printed.stdout);
    assert_eq!(ringway(&["check", "-f"], &path).status.code(), Some(0));
    let again = ringway(&["config", "-f"], &path);
    assert_eq!(String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&printed.stdout));
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [["--no-such-option"].as_slice(), &["no-such-command"], &["check", "--seconds", "1"]] {
        let output = run_to_end(Command::new(RUN).args(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}

#[test]
fn version_and_help_end_with_0() {
    for argument in ["--version", "--help"] {
        let output = run_to_end(Command::new(RUN).arg(argument));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("ringway"), "{output:?}");
    }
}

/// `/dev/full` takes no byte. Status 101, and a dump of the stack, would be those of a panic.
#[test]
fn output_that_takes_nothing_does_not_change_the_exit_status() {
    let line = |line: &str| run_to_end(Command::new("sh").arg("-c").arg(line)).status.code();
    assert_eq!(line("exec \"$RINGWAY\" -f /nonexistent 2>/dev/full"), Some(1));
    assert_eq!(line("exec \"$RINGWAY\" demo --seconds 1 >/dev/full 2>/dev/full"), Some(0));
}

/// As scripts fill in templates: through the standard input, a descriptor of the shell, or a file that is a
/// link.
#[test]
fn file_comes_through_a_pipe_too() {
    let (folder, path) = file(VALID);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("f.yaml", &link).unwrap();
    for line in [
        "cat \"$FILE\" | \"$RINGWAY\" check -",
        "cat \"$FILE\" | \"$RINGWAY\" check -f -",
        "cat \"$FILE\" | \"$RINGWAY\" check -f /dev/stdin",
        "(sleep 0.1; cat \"$FILE\") | \"$RINGWAY\" -f /dev/stdin check",
        "\"$RINGWAY\" check -f - < \"$FILE\"",
        "\"$RINGWAY\" check -f /dev/fd/3 3< \"$FILE\"",
        "cat \"$FILE\" | \"$RINGWAY\" config - | \"$RINGWAY\" -t -f -",
        "\"$RINGWAY\" check \"$LINK\"",
    ] {
        let output = run_to_end(Command::new("sh").arg("-c").arg(line).env("FILE", &path).env("LINK", &link));
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        assert!(last_line(&output).ends_with("configuration is valid"), "{line}: {output:?}");
    }
    let endless = "head -c 3000000 /dev/zero | \"$RINGWAY\" check -f -";
    let output = run_to_end(Command::new("sh").arg("-c").arg(endless));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(last_line(&output).contains("has more than 1048576 bytes"), "{output:?}");
}

/// The file is valid all the same: it may be meant for another machine.
#[test]
fn what_this_machine_lacks_is_a_warning() {
    let lacks = |runtime: &str, listen: &str, more: &str| {
        let text = format!(
            "runtime: {{{runtime}}}\nloadbalancer: {{listen_address: '{listen}', backlog: 1000000}}\nbackends: ['a:1']\n{more}"
        );
        let (_folder, path) = file(text);
        let output = ringway(&["check", "-f"], &path);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(last_line(&output).ends_with("configuration is valid"), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = lacks("cores: 1000", "192.0.2.1:80", "logging: {target: /nonexistent/log}");
    for words in [
        "warning: on this machine: runtime.cores: 1000 cores are wanted",
        "192.0.2.1:80 is not an address of this machine",
        "logging.target: the folder /nonexistent is not there",
        "not looked at: whether the addresses are free",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let text = lacks("cores: 1, max_connections: 1000000", "unix:/nonexistent/x", "");
    for words in
        ["descriptors are needed for 1000000 sessions", "net.core.somaxconn", "the folder /nonexistent"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn an_option_that_is_in_vain_is_wrong_usage() {
    for arguments in [["-f", "a", "check", "b"].as_slice(), &["--pid-file", "p", "check", "a"], &["a.yaml"]] {
        let output = run_to_end(Command::new(RUN).args(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}

/// The configuration goes to standard output, everything else to standard error, each line with its place.
#[test]
fn import_prints_a_valid_configuration_and_what_it_does_not_have() {
    let (_folder, path) =
        file("listen a\n bind 127.0.0.1:1\n acl x src 10.0.0.1\n server b 10.0.0.1:1 check\n");
    let output = ringway(&["import"], &path);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(notes.starts_with(&format!("{}:3: acl x src 10.0.0.1: ", path.display())), "{notes}");
    assert_eq!(notes.lines().count(), 2, "{notes}");

    let (_folder, translated) = file(&output.stdout);
    assert_eq!(ringway(&["check"], &translated).status.code(), Some(0), "{output:?}");
}

#[test]
fn import_of_nothing_exits_with_one_and_prints_nothing() {
    let (_folder, http) = file("http {\n server { listen 80; }\n}\n");
    let (_folder, unknown) = file("a: 1\n");
    for (path, words) in [
        (http.as_path(), ":1: http: nothing here reads HTTP"),
        (unknown.as_path(), "write `--from haproxy` or `--from nginx`"),
        (Path::new("/nonexistent"), "cannot be read"),
    ] {
        let output = ringway(&["import"], path);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{output:?}");
    }
}
