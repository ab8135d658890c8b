//! `ringway ctl`: asks a running process through its admin socket, and prints tables for people or the answers as they
//! are for scripts.

pub(super) mod args;
mod changes;
mod output;
mod pages;

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::api::{self, Api, ApiError, REFUSED};
use super::complain;
use super::grid::{Cell, Grid, Tone};
use super::readings::{self, Readings};
use crate::control::process::Explanation;
use args::{CtlArguments, CtlCommand};
use output::Output;

const STATUS: &str = "/v1/status";

/// The exit status of clap.
const WRONG_USAGE: u8 = 2;

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A key is given twice.
    #[error("`{0}` is given twice; give it once")]
    Usage(&'static str),
    /// The output cannot be written.
    #[error("the output cannot be written: {}", crate::base::Plain(.0))]
    Output(#[from] std::io::Error),
}

/// Runs a command. Returns the exit status: 0 done, 1 refused, 3 nobody there.
#[must_use]
pub fn ctl(arguments: &CtlArguments) -> ExitCode {
    let done = Api::new(arguments.socket.as_deref()).map_err(Failure::Output).and_then(|api| {
        let output = Output::new(arguments.json);
        Ctl { api, output }.run(&arguments.command)
    });
    match done {
        Ok(status) => status,
        // Who reads has seen enough, as in `ctl sessions | head`.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            failure.to_string().lines().for_each(|line| complain(format_args!("ringway ctl: {line}")));
            ExitCode::from(match failure {
                Failure::Api(error) => error.exit_status(),
                Failure::Usage(_) => WRONG_USAGE,
                Failure::Output(_) => REFUSED,
            })
        }
    }
}

struct Ctl {
    api: Api,
    output: Output,
}

impl Ctl {
    fn run(&self, command: &CtlCommand) -> Result<ExitCode, Failure> {
        match command {
            CtlCommand::Status { watch: None } => self.status()?,
            CtlCommand::Status { watch: Some(seconds) } => self.watch(Duration::from_secs(*seconds))?,
            CtlCommand::Backends => self.backends()?,
            CtlCommand::Sessions(wanted) => self.sessions(wanted)?,
            CtlCommand::Ready { listener } => return self.ready(listener.as_deref()),
            CtlCommand::Explain { client, listener, sni } => {
                self.explain(client, listener.as_deref(), sni.as_deref())?;
            }
            CtlCommand::Kill { session } => {
                let answer = self.api.delete(&format!("/v1/sessions/{session}"))?;
                self.output.answer(&answer, &format!("session {session} is killed"))?;
            }
            CtlCommand::Drain => {
                let answer = self.api.post("/v1/drain", &json!({}))?;
                self.output.answer(&answer, "the process drains, and ends with its last session")?;
            }
            CtlCommand::LogLevel { level } => {
                let level = level.as_str().to_lowercase();
                let answer = self.api.post("/v1/log-level", &json!({ "level": level }))?;
                self.output.answer(&answer, &format!("log records are written from level {level} on"))?;
            }
            CtlCommand::Config => self.config()?,
            CtlCommand::Diff => self.diff()?,
            CtlCommand::Reload => self.order(Method::POST, "/v1/reload", &Value::Null)?,
            CtlCommand::Upgrade => self.order(Method::POST, "/v1/upgrade", &Value::Null)?,
            CtlCommand::Set { backend, values } => {
                let values = changes::object(values).map_err(Failure::Usage)?;
                self.order(Method::POST, &backend.path(), &values.into())?;
            }
            CtlCommand::Add { upstream, address, values } => {
                let mut entry = changes::object(values).map_err(Failure::Usage)?;
                entry.insert("address".to_owned(), address.clone().into());
                self.order(Method::POST, &changes::backends_path(upstream), &entry.into())?;
            }
            CtlCommand::Remove { backend } => self.order(Method::DELETE, &backend.path(), &Value::Null)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn order(&self, method: Method, path: &str, body: &Value) -> Result<(), Failure> {
        let answer = self.api.order(method, path, body)?;
        if self.output.json {
            return Ok(self.output.document(&answer)?);
        }
        Ok(self.output.lines(&changes::applied(&api::parse(&answer)?))?)
    }

    fn diff(&self) -> Result<(), Failure> {
        let answer = self.api.get("/v1/diff")?;
        if self.output.json {
            return Ok(self.output.document(&answer)?);
        }
        Ok(self.output.lines(&api::parse::<changes::Differences>(&answer)?.lines())?)
    }

    fn status(&self) -> Result<(), Failure> {
        let answer = self.api.get(STATUS)?;
        if self.output.json {
            return Ok(self.output.document(&answer)?);
        }
        Ok(self.output.lines(&self.status_lines(&Readings::first(api::parse(&answer)?)))?)
    }

    fn watch(&self, interval: Duration) -> Result<(), Failure> {
        let mut readings: Option<Readings> = None;
        loop {
            let answer = self.api.get(STATUS)?;
            if self.output.json {
                self.output.one_line(&answer)?;
            } else {
                let status = api::parse(&answer)?;
                let next = match readings.take() {
                    None => Readings::first(status),
                    Some(before) => before.next(status),
                };
                self.output.again(&self.status_lines(&next))?;
                readings = Some(next);
            }
            std::thread::sleep(interval);
        }
    }

    fn status_lines(&self, readings: &Readings) -> Vec<String> {
        let mut lines = vec![self.output.joined(&readings.header())];
        for grid in [readings.listeners(), readings.upstreams(), readings.cores()] {
            lines.push(String::new());
            lines.extend(self.output.table(&grid));
        }
        lines
    }

    fn backends(&self) -> Result<(), Failure> {
        let answer = self.api.get(STATUS)?;
        if self.output.json {
            return Ok(self.output.document(&answer)?);
        }
        let readings = Readings::first(api::parse(&answer)?);
        Ok(self.output.lines(&self.output.table(&readings.backends()))?)
    }

    fn sessions(&self, wanted: &args::SessionArguments) -> Result<(), Failure> {
        let page = pages::follow(&self.api, wanted)?;
        if self.output.json {
            return Ok(self.output.document(&page.to_string())?);
        }
        let page: crate::control::process::SessionPage = api::parse(&page.to_string())?;
        self.output.lines(&self.output.table(&readings::sessions(&page.sessions)))?;
        if page.next.is_some() {
            complain(format_args!("there are more than {}; --limit shows them", wanted.limit));
        }
        Ok(())
    }

    fn ready(&self, listener: Option<&str>) -> Result<ExitCode, Failure> {
        let path = match listener {
            None => "/readyz".to_owned(),
            Some(name) => format!("/readyz/{}", api::encoded(name)),
        };
        let (ready, text) = self.api.is_it_so(&path)?;
        let word = if ready { "ready" } else { "unready" };
        self.output.answer(&json!({ "ready": ready }).to_string(), word)?;
        if ready {
            return Ok(ExitCode::SUCCESS);
        }
        complain(text);
        Ok(ExitCode::from(REFUSED))
    }

    fn explain(&self, client: &str, listener: Option<&str>, sni: Option<&str>) -> Result<(), Failure> {
        let mut path = format!("/v1/explain?client={}", api::encoded(client));
        if let Some(listener) = listener {
            path.push_str(&format!("&listener={}", api::encoded(listener)));
        }
        if let Some(sni) = sni {
            path.push_str(&format!("&sni={}", api::encoded(sni)));
        }
        let answer = self.api.get(&path)?;
        if self.output.json {
            return Ok(self.output.document(&answer)?);
        }
        let Explanation { client, listener, upstream, backend, core, rules } = api::parse(&answer)?;
        let gets = match &backend {
            Some(backend) => Cell::words(format!("{upstream}/{backend}")).toned(Tone::Good),
            None => Cell::words("no backend now").toned(Tone::Bad),
        };
        let about = Cell::words(format!("(client {client} on listener {listener}, core {core})"));
        let mut lines = vec![self.output.joined(&[gets, about]), String::new()];
        let mut grid = Grid::new(["rule", "verdict"]);
        rules.iter().for_each(|asked| grid.push(vec![Cell::words(&asked.rule), Cell::words(&asked.verdict)]));
        lines.extend(self.output.table(&grid));
        Ok(self.output.lines(&lines)?)
    }

    fn config(&self) -> Result<(), Failure> {
        let format = if self.output.json { "application/json" } else { "application/yaml" };
        Ok(self.output.document(&self.api.get_as("/v1/config", format)?)?)
    }
}

#[cfg(test)]
mod tests;
