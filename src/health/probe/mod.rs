//! One check of one backend: a connection that is made, an exchange on it, and its end.
//!
//! Invariants: all of it takes one `timeout`; what comes from the backend is bounded by `limits::CHECK_*`,
//! and what of it stands in a cause is escaped and cut.

mod connection;
mod ending;
mod error;
mod http;
mod mysql;
mod postgres;
mod redis;
mod secured;
mod send_expect;
mod smtp;
mod talk;
#[cfg(test)]
mod testing;
mod tls;

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{self, Instant};

use crate::base::limits::LATE;
use crate::base::{Address, Plain};
use crate::config::{BackendAddress, CheckKind, HealthCheck, Step};
use crate::net::LocalFailure;
use crate::protocol::proxy::Version;
use crate::tls::BackendTls;

use error::ExchangeError;
use http::Get;
use mysql::Login;
use postgres::Startup;
use secured::Secured;
use send_expect::Dialogue;
use smtp::Greeting;
use talk::Talk;
use tls::Handshake;

pub(super) use connection::{Connect, Connection, Sockets};

/// What is missing where time runs out in a handshake.
const UNENDED: &str = "no end of the TLS handshake";

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeOutcome {
    /// One of the addresses, which has this position, took a connection, and did on it what was asked.
    Success(usize),
    /// None did; for each that was tried, why.
    Failure(String),
    /// None did, and some took too long; for each that was tried, why.
    Timeout(String),
    /// This process could not even try; why.
    Local(String),
    /// The time ran out while this process was not running: it says nothing.
    Frozen,
}

/// What a backend is asked on a connection that stands.
#[derive(Debug)]
pub(super) enum Question {
    /// Nothing: that it stands is enough.
    Tcp,
    /// A request of HTTP.
    Http(Get),
    /// A handshake of TLS.
    Tls(Handshake),
    /// Bytes, step by step.
    SendExpect(Arc<[Step]>),
    /// A PING of Redis.
    Redis,
    /// A start of a session of PostgreSQL.
    Postgres(Startup),
    /// A login at MySQL or MariaDB.
    Mysql(Login),
    /// A greeting of SMTP.
    Smtp(Greeting),
    /// Any of the others, inside of TLS.
    Secured(Secured, Box<Question>),
}

impl Question {
    /// What `check` asks a backend of this address, in TLS if it has that.
    pub(super) fn new(check: &HealthCheck, backend: &BackendAddress, tls: Option<&BackendTls>) -> Self {
        let question = Self::plain(check, backend, tls);
        match (&question, tls) {
            (_, None) | (Self::Tcp | Self::Tls(_), _) => question,
            (Self::Http(_), Some(tls)) => {
                Self::Secured(Secured::new(tls, Some(&["http/1.1"])), Box::new(question))
            }
            (_, Some(tls)) => Self::Secured(Secured::new(tls, None), Box::new(question)),
        }
    }

    fn plain(check: &HealthCheck, backend: &BackendAddress, tls: Option<&BackendTls>) -> Self {
        match &check.kind {
            CheckKind::Tcp => Self::Tcp,
            CheckKind::Http(http) => {
                Self::Http(Get::new(http, backend, check.port, tls.map(BackendTls::name)))
            }
            CheckKind::Tls { host } => Self::Tls(match tls {
                Some(tls) => Handshake::checked(host.as_deref(), tls),
                None => Handshake::new(host.as_deref(), backend),
            }),
            CheckKind::SendExpect { steps } => Self::SendExpect(Arc::clone(steps)),
            CheckKind::Redis => Self::Redis,
            CheckKind::Postgres(postgres) => Self::Postgres(Startup::new(postgres)),
            CheckKind::Mysql { user } => Self::Mysql(Login::new(user.as_deref())),
            CheckKind::Smtp { host } => Self::Smtp(Greeting::new(host)),
        }
    }

    /// Asks and takes the answer. If that is not over at `due`: what was missing.
    async fn ask(
        &self,
        mut connection: Connection,
        due: Instant,
    ) -> Result<Result<(), ExchangeError>, String> {
        match self {
            Self::Tcp => Ok(Ok(())),
            Self::Http(get) => {
                let asked = time::timeout_at(due, get.run(connection)).await;
                asked.map_err(|_| "no HTTP response".to_owned())
            }
            Self::Tls(handshake) => {
                let asked = time::timeout_at(due, handshake.run(connection, due)).await;
                asked.map_err(|_| UNENDED.to_owned())
            }
            Self::SendExpect(steps) => {
                let mut dialogue = Dialogue::new(steps);
                let asked = time::timeout_at(due, dialogue.run(&mut connection)).await;
                asked.map_err(|_| dialogue.missing())
            }
            Self::Redis => converse(connection, due, redis::run).await,
            Self::Postgres(startup) => converse(connection, due, async |talk| startup.run(talk).await).await,
            Self::Mysql(login) => converse(connection, due, async |talk| login.run(talk).await).await,
            Self::Smtp(greeting) => converse(connection, due, async |talk| greeting.run(talk).await).await,
            Self::Secured(secured, question) => {
                match time::timeout_at(due, secured.shake_hands(connection)).await {
                    Ok(Ok(stream)) => Box::pin(question.ask(Box::new(stream), due)).await,
                    Ok(Err(error)) => Ok(Err(error)),
                    Err(_) => Err(UNENDED.to_owned()),
                }
            }
        }
    }
}

/// Asks in messages.
async fn converse(
    connection: Connection,
    due: Instant,
    run: impl AsyncFnOnce(&mut Talk) -> Result<(), ExchangeError>,
) -> Result<Result<(), ExchangeError>, String> {
    let mut talk = Talk::new(connection);
    let asked = time::timeout_at(due, run(&mut talk)).await;
    asked.map_err(|_| talk.missing())
}

/// Attempts the addresses in order until one takes a connection. They share `timeout`: each gets an equal
/// part of what is left, so that a black hole in front does not hide a live one behind (as Go's `net.Dialer`
/// does it).
///
/// The first that takes a connection is asked, and its answer decides: sessions would go there as well, so no
/// address behind it could make up for it. The answer has all the time that is left.
pub(super) async fn probe(
    connect: &impl Connect,
    addresses: &[Address],
    question: &Question,
    announces: Option<Version>,
    timeout: Duration,
) -> ProbeOutcome {
    let deadline = Instant::now() + timeout;
    let mut causes = String::new();
    let (mut is_timeout, mut is_local) = (false, true);
    for (index, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = (deadline.saturating_duration_since(now)).div_f64((addresses.len() - index) as f64);
        let due = now + share;
        let connection = match time::timeout_at(due, connect.connect(address, announces)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                is_local &= LocalFailure::of(&error, address).is_some();
                add(&mut causes, address, &Plain(&error));
                continue;
            }
            Err(_) if Instant::now() > due + LATE => return ProbeOutcome::Frozen,
            Err(_) => {
                (is_timeout, is_local) = (true, false);
                add(&mut causes, address, &format_args!("no answer in {share:.0?}"));
                continue;
            }
        };
        match question.ask(connection, deadline).await {
            Ok(Ok(())) => return ProbeOutcome::Success(index),
            Ok(Err(error)) => {
                (is_timeout, is_local) = (false, error.is_own);
                add(&mut causes, address, &error.cause);
            }
            Err(_) if Instant::now() > deadline + LATE => return ProbeOutcome::Frozen,
            Err(missing) => {
                (is_timeout, is_local) = (true, false);
                add(&mut causes, address, &format_args!("{missing} in {timeout:?}"));
            }
        }
        break;
    }
    if is_timeout {
        ProbeOutcome::Timeout(causes)
    } else if is_local {
        ProbeOutcome::Local(causes)
    } else {
        ProbeOutcome::Failure(causes)
    }
}

/// Adds the cause of one address to those of the others.
fn add(causes: &mut String, address: &Address, cause: &dyn Display) {
    let separator = if causes.is_empty() { "" } else { "; " };
    // Writing to a string does not fail.
    let _ = write!(causes, "{separator}{address}: {cause}");
}

#[cfg(test)]
mod tests;
