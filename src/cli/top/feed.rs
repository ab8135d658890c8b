//! Where the readings come from, asked by a thread of its own: a process that hangs must not keep the terminal from
//! answering keys.

use std::io;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::super::api::Api;
use crate::control::Status;
use crate::control::process::SessionPage;

/// Maximum number of sessions of a reading.
pub(super) const SESSIONS_MAX: usize = 1_000;
/// How many questions may wait: one of the clock and one of a key, and a few keys more.
const WAITING_MAX: usize = 8;

/// A process that can be watched.
pub(in super::super) trait Feed: Send {
    /// Takes a reading.
    ///
    /// # Errors
    ///
    /// The process does not answer; the text says why.
    fn look(&mut self, sessions: bool) -> Result<Look, String>;

    /// Gives an order.
    ///
    /// # Errors
    ///
    /// The process does not answer, or refuses; the text says why.
    fn give(&mut self, order: &Order) -> Result<(), String>;
}

/// A reading.
#[derive(Debug)]
pub(in super::super) struct Look {
    /// The status.
    pub(in super::super) status: Status,
    /// Open sessions, or why there are none to see; `None` if they were not asked for.
    pub(in super::super) sessions: Option<Result<SessionPage, String>>,
}

/// What a key can make the process do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Order {
    /// End a session.
    Kill {
        /// Its number.
        session: u64,
        /// Its client, for the question.
        client: String,
    },
    /// Stop as at TERM.
    Drain,
}

/// What the thread is asked for.
pub(super) enum Ask {
    /// A reading, with sessions or without.
    Look {
        /// Whether sessions are wanted.
        sessions: bool,
    },
    /// To give an order.
    Give(Order),
}

/// What the thread has found out.
pub(super) enum News {
    /// A reading, or why there is none. Boxed because most news are small.
    Looked(Box<Result<Look, String>>),
    /// An order was given, or why it was not.
    Given(Order, Result<(), String>),
}

/// The thread that asks.
pub(super) struct Asking {
    asks: Sender<Ask>,
    /// Its news.
    pub(super) news: Receiver<News>,
}

impl Asking {
    /// Starts the thread; it ends when this value is gone.
    pub(super) fn start(mut feed: Box<dyn Feed>) -> io::Result<Self> {
        let (asks, asked) = bounded(WAITING_MAX);
        // As many as may be asked for, so that the thread never waits for the terminal.
        let (tell, news) = bounded(WAITING_MAX + 1);
        std::thread::Builder::new().name("readings".into()).spawn(move || {
            for ask in asked {
                let news = match ask {
                    Ask::Look { sessions } => News::Looked(Box::new(feed.look(sessions))),
                    Ask::Give(order) => {
                        let given = feed.give(&order);
                        News::Given(order, given)
                    }
                };
                if tell.send(news).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { asks, news })
    }

    /// Asks, unless too many questions wait. Returns whether there will be news.
    pub(super) fn ask(&self, ask: Ask) -> bool {
        self.asks.try_send(ask).is_ok()
    }
}

/// A process on the other end of an admin socket.
impl Feed for Api {
    fn look(&mut self, sessions: bool) -> Result<Look, String> {
        let status = self.read("/v1/status").map_err(|error| error.to_string())?;
        let path = format!("/v1/sessions?limit={SESSIONS_MAX}");
        let sessions = sessions.then(|| self.read(&path).map_err(|error| error.to_string()));
        Ok(Look { status, sessions })
    }

    fn give(&mut self, order: &Order) -> Result<(), String> {
        let given = match order {
            Order::Kill { session, .. } => self.delete(&format!("/v1/sessions/{session}")),
            Order::Drain => self.post("/v1/drain", &serde_json::json!({})),
        };
        given.map(drop).map_err(|error| error.to_string())
    }
}
