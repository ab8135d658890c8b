//! Set-up: a balancer in a process of its own with an admin socket, and `ringway ctl` as another process. Claim: the
//! exit status is 0 done, 1 refused, 2 wrong usage, 3 nobody there; scripts get one JSON document, people get tables;
//! an output that is closed is no panic.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Backend, Process, backend, eventually, is_reset, is_root, process, run_to_end};

const RUN: &str = env!("CARGO_BIN_EXE_ringway");

/// A process with an admin socket, and one echoing backend.
struct Asked {
    process: Process,
    socket: PathBuf,
    backend: Backend,
    _folder: TempDir,
}

fn asked() -> Asked {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let backend = backend().echo().start();
    let admin = format!("listen_address: off, socket: {}", socket.display());
    let process = process().backends([&backend]).admin(&admin).start();
    Asked { process, socket, backend, _folder: folder }
}

impl Asked {
    fn command(&self, arguments: &str) -> Command {
        ctl(&self.socket, arguments)
    }

    fn ctl(&self, arguments: &str) -> Output {
        run_to_end(&mut self.command(arguments))
    }

    /// Runs `ctl` and returns what it prints.
    #[track_caller]
    fn prints(&self, arguments: &str) -> String {
        let output = self.ctl(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.prints(&format!("{arguments} --json"))).unwrap()
    }

    /// Runs `ctl`, which the process refuses, and returns what it says.
    #[track_caller]
    fn is_refused(&self, arguments: &str) -> String {
        let output = self.ctl(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn ctl(socket: &Path, arguments: &str) -> Command {
    let mut command = Command::new(RUN);
    command.arg("ctl").args(arguments.split_whitespace()).arg("--socket").arg(socket);
    command
}

#[test]
fn status_and_backends_are_tables_for_people_and_one_document_for_scripts() {
    let asked = asked();
    let _open = asked.process.echoing_client();
    let status = asked.prints("status");
    for words in ["running", "LISTENER", "ACCEPTED", "UPSTREAM", "1 of 1", "CORE", "COMPLETIONS"] {
        assert!(status.contains(words), "{words}: {status}");
    }
    assert!(status.contains(&format!("pid {}", asked.process.id())), "{status}");
    assert!(!status.contains('\x1b'), "no colour in a pipe: {status}");
    let backends = asked.prints("backends");
    let row = backends.lines().find(|line| line.starts_with("u/")).unwrap();
    assert!(row.contains(" up "), "{backends}");
    assert!(row.contains(&asked.backend.address().to_string()), "{backends}");
    let document = asked.json("status");
    assert_eq!(document["pid"], asked.process.id());
    assert_eq!(document["listeners"][0]["active"], 1);
    assert_eq!(asked.json("backends")["upstreams"][0]["backends"][0]["health"], "up");
}

#[test]
fn configuration_and_readiness_come_from_the_process() {
    let asked = asked();
    assert!(asked.prints("config").contains("listeners:"));
    assert!(asked.json("config")["listeners"].is_array());
    assert_eq!((asked.prints("ready"), asked.prints("ready l")), ("ready\n".into(), "ready\n".into()));
    assert_eq!(asked.json("ready")["ready"], true);
    assert!(asked.is_refused("ready nobody").contains("nobody"));
}

#[test]
fn what_the_process_refuses_ends_with_1_and_its_reason() {
    let asked = asked();
    assert!(asked.is_refused("kill 18446744073709551615").contains("18446744073709551615"));
    assert!(asked.is_refused("explain nonsense").contains("nonsense"));
    assert!(asked.is_refused("explain 127.0.0.1 --listener nobody").contains("nobody"));
    assert!(asked.is_refused("set nobody/a weight=1").contains("no upstream has this name"));
    assert!(asked.is_refused("remove u/nobody").contains("no backend has this name"));
    let last = format!("remove u/{}", asked.backend.address());
    assert!(asked.is_refused(&last).starts_with("ringway ctl: "), "the last backend stays");
}

#[test]
fn a_process_that_runs_as_its_file_says_shows_no_difference() {
    let asked = asked();
    assert_eq!(asked.prints("diff"), "the file says what runs\n");
    assert_eq!(asked.json("diff")["changes"], Value::Array(Vec::new()));
}

#[test]
fn log_level_changes_while_the_process_runs() {
    let asked = asked();
    asked.process.echoing_client().finish().unwrap();
    let lines = || asked.process.log().matches("closed").count();
    assert_eq!(lines(), 0, "{}", asked.process.log());
    assert_eq!(asked.prints("log-level debug"), "log records are written from level debug on\n");
    eventually("sessions are logged", || {
        asked.process.echoing_client().finish().unwrap();
        lines() > 0
    });
}

#[test]
fn drain_ends_the_process_with_its_last_session() {
    let mut asked = asked();
    let open = asked.process.echoing_client();
    asked.prints("drain");
    eventually("it is unready", || asked.ctl("ready").status.code() == Some(1));
    assert_eq!(String::from_utf8(asked.ctl("ready").stdout).unwrap(), "unready\n");
    open.echo(b"served to the end").unwrap();
    open.finish().unwrap();
    assert_eq!(asked.process.exit().code(), Some(0));
    assert_eq!(asked.ctl("ready").status.code(), Some(3), "nobody is there any more");
}

#[test]
fn killed_session_is_reset_and_others_go_on() {
    let asked = asked();
    let (first, second) = (asked.process.echoing_client(), asked.process.echoing_client());
    let name = first.address().to_string();
    let sessions = asked.json("sessions");
    let sessions = sessions["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    let of_first = sessions.iter().find(|session| session["client"] == name.as_str()).unwrap();
    let id = of_first["id"].as_u64().unwrap();
    let table = asked.prints("sessions --limit 10 --listener l");
    assert!(table.lines().any(|line| line.contains(&name) && line.contains("relaying")), "{table}");
    assert_eq!(asked.prints("sessions --client 127.0.0.9").lines().count(), 1, "the titles alone");
    asked.prints(&format!("kill {id}"));
    assert!(is_reset(&first.echo(b"?").unwrap_err()));
    second.echo(b"goes on").unwrap();
    assert!(asked.is_refused(&format!("kill {id}")).contains(&id.to_string()));
}

#[test]
fn explanation_names_the_backend_and_each_rule() {
    let asked = asked();
    let explanation = asked.prints("explain 127.0.0.1");
    assert!(explanation.starts_with("u/"), "{explanation}");
    let document = asked.json("explain 127.0.0.1 --listener l");
    let rules = document["rules"].as_array().unwrap();
    let mut lines = explanation.lines().skip_while(|line| !line.starts_with("RULE")).skip(1);
    assert!(!rules.is_empty(), "{document}");
    for rule in rules {
        let (line, name) = (lines.next().unwrap(), rule["rule"].as_str().unwrap());
        assert!(
            line.starts_with(name) && line.ends_with(rule["verdict"].as_str().unwrap()),
            "{line}: {rule}"
        );
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in
        ["", "kill", "kill x", "log-level loud", "status --watch 0", "sessions --limit 0", "reboot"]
    {
        let output = run_to_end(&mut ctl(Path::new("/nonexistent"), arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments}: {output:?}");
    }
}

/// Returns what a command says to whom nobody answers.
#[track_caller]
fn reaches_nobody(command: &mut Command) -> String {
    let output = run_to_end(command);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn socket_of_another_service_is_doubted() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("other.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // The command may have given up.
            let _ = stream.unwrap().write_all(b"220 mail.example ESMTP\r\n");
        }
    });
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (path, remedy) in [(&socket, "does the path name the admin socket"), (&file, "start `ringway` again")]
    {
        let text = reaches_nobody(&mut ctl(path, "status"));
        assert!(text.contains(path.to_str().unwrap()) && text.contains(remedy), "{text}");
    }
}

#[test]
fn process_that_hangs_costs_five_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let _silent = UnixListener::bind(&socket).unwrap();
    let text = reaches_nobody(&mut ctl(&socket, "status"));
    assert!(text.contains("no answer within 5 s; the process is stopped or overloaded"), "{text}");
}

/// Root may ask anyone, so another user asks: with a copy of the binary, in a place where that user may run it.
#[test]
fn who_may_not_ask_learns_how_to_be_let_in() {
    let asked = asked();
    let folder = tempfile::tempdir().unwrap();
    let (binary, inside) = (folder.path().join("ringway"), folder.path().join("inside"));
    std::fs::copy(RUN, &binary).unwrap();
    std::fs::create_dir(&inside).unwrap();
    let set_mode =
        |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    set_mode(folder.path(), 0o755);
    std::os::unix::fs::symlink(&asked.socket, inside.join("admin.sock")).unwrap();
    set_mode(&inside, 0o000);
    let mut command = Command::new(&binary);
    if is_root() {
        command.uid(65_534).gid(65_534);
    }
    let text = reaches_nobody(command.args(["ctl", "status", "--socket"]).arg(inside.join("admin.sock")));
    // So that the folder can be removed.
    set_mode(&inside, 0o755);
    assert!(
        text.contains("permission denied; use `sudo`, or let your group in with `admin.socket_group`"),
        "{text}"
    );
}

#[test]
fn nobody_there_ends_with_3_and_names_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let said = reaches_nobody;
    let text = said(&mut ctl(&socket, "status"));
    assert!(text.contains("admin.sock: no such socket"), "{text}");
    // Left over by a process that was killed.
    drop(UnixListener::bind(&socket).unwrap());
    let text = said(Command::new(RUN).args(["ctl", "ready"]).env("RINGWAY_SOCKET", &socket));
    assert!(text.contains("nobody listens any more"), "{text}");
}

#[test]
fn default_socket_is_the_variable_and_then_the_users() {
    let asked = asked();
    let ready = |name: &str, value: &Path| {
        let mut command = Command::new(RUN);
        command.args(["ctl", "ready"]).env_remove("RINGWAY_SOCKET").env(name, value);
        run_to_end(&mut command).status.code()
    };
    assert_eq!(ready("RINGWAY_SOCKET", &asked.socket), Some(0));
    // Where the system's socket is there, it comes first.
    if !Path::new("/run/ringway/admin.sock").exists() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("ringway")).unwrap();
        std::os::unix::fs::symlink(&asked.socket, folder.path().join("ringway/admin.sock")).unwrap();
        assert_eq!(ready("XDG_RUNTIME_DIR", folder.path()), Some(0));
    }
}

#[test]
fn watch_prints_a_line_each_time_for_scripts() {
    let asked = asked();
    let mut child = asked.command("status --watch 1 --json").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(2);
    let uptimes: Vec<_> = lines
        .map(|line| {
            serde_json::from_str::<Value>(&line.unwrap()).unwrap()["uptime_seconds"].as_f64().unwrap()
        })
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(uptimes[1] > uptimes[0], "{uptimes:?}");
}

/// Status 101, and a dump of the stack, would be those of a panic.
#[test]
fn closed_pipe_is_no_panic() {
    let asked = asked();
    for arguments in ["status", "sessions", "config", "status --json", "status --watch 1"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = asked.command(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said), (Some(0), String::new()), "{arguments}");
    }
    let full = "exec \"$RINGWAY\" ctl config >/dev/full";
    let output = run_to_end(Command::new("sh").args(["-c", full]).env("RINGWAY_SOCKET", &asked.socket));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"), "{output:?}");
}

#[test]
fn completions_and_manual_pages_are_made_from_the_command_line() {
    let line = |line: &str| {
        let output = run_to_end(Command::new("bash").arg("-c").arg(line));
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(line("eval \"$(\"$RINGWAY\" completions bash)\" && complete -p ringway").contains("ringway"));
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(line(&format!("\"$RINGWAY\" completions {shell}")).contains("log-level"), "{shell}");
    }
    assert!(line("\"$RINGWAY\" man").contains(".TH ringway 1"));
    line("set -o pipefail; \"$RINGWAY\" man | head -n 1");
    let folder = tempfile::tempdir().unwrap();
    let output = run_to_end(Command::new(RUN).args(["man", "--dir"]).arg(folder.path()));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for page in ["ringway.1", "ringway-ctl.1", "ringway-ctl-status.1", "ringway-top.1"] {
        assert!(std::fs::read_to_string(folder.path().join(page)).unwrap().contains(".TH"), "{page}");
    }
    assert_eq!(run_to_end(Command::new(RUN).args(["completions", "cmd.exe"])).status.code(), Some(2));
}

#[test]
fn top_needs_a_terminal() {
    let output = run_to_end(Command::new(RUN).arg("top"));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ctl status --watch"), "{output:?}");
}
