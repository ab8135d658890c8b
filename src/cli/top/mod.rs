//! `ringway top`: a running process on a terminal, read once a second. [`watch`] is the display alone, for the demo too.

mod app;
pub(super) mod args;
mod draw;
mod feed;
mod keys;
mod signals;
mod terminal;

use std::env;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use crossbeam_channel::{Receiver, bounded, select, tick};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::api::Api;
use super::complain;
use super::grid::Tone;
use args::TopArguments;
use feed::{Ask, Asking, News};
use keys::Action;
use signals::{Job, Jobs};
use terminal::Screen;

pub(super) use app::App;
pub(super) use feed::{Feed, Look, Order};

/// Wrong usage.
const USAGE: u8 = 2;
const UNSET: &str = "the terminal cannot be set";
/// How soon the thread that reads keys notices the end.
const KEYS_INTERVAL: Duration = Duration::from_millis(100);

/// Shows a running process until a key or a signal ends it.
///
/// # Errors
///
/// The terminal does not let itself be set, read or written.
pub fn top(arguments: &TopArguments) -> anyhow::Result<ExitCode> {
    let is_dumb = env::var_os("TERM").is_some_and(|name| name == "dumb");
    if is_dumb || !io::stdout().is_terminal() {
        complain(
            "ringway top: the standard output is no terminal to draw on; use `ringway ctl status --watch`",
        );
        return Ok(ExitCode::from(USAGE));
    }
    let api = Api::new(arguments.socket.as_deref())?;
    let first = match api.read("/v1/status") {
        Ok(status) => status,
        Err(error) => {
            complain(format_args!("ringway top: {error}"));
            return Ok(ExitCode::from(error.exit_status()));
        }
    };
    let mut app = App::new();
    app.note_look(Look { status: first, sessions: None });
    let stop = signals::end().context("cannot handle signals")?;
    let interval = Duration::from_secs(arguments.interval);
    watch(app, Box::new(api), interval, &stop, || None)?;
    Ok(ExitCode::SUCCESS)
}

/// Shows a process until a key ends the display or `stop` is disconnected. `aside` is asked before each reading for a
/// line of its own.
///
/// # Errors
///
/// The terminal does not let itself be set, read or written.
pub(super) fn watch(
    mut app: App,
    feed: Box<dyn Feed>,
    interval: Duration,
    stop: &Receiver<()>,
    mut aside: impl FnMut() -> Option<(String, Tone)>,
) -> anyhow::Result<()> {
    let asking = Asking::start(feed)?;
    let mut screen = Screen::take().context(UNSET)?;
    let (keys, jobs) = (Keys::start()?, Jobs::start()?);
    let ticks = tick(interval);
    let mut waiting = false;
    loop {
        screen.terminal.draw(|frame| draw::draw(frame, &app)).context("the terminal cannot be written")?;
        let mut look = false;
        select! {
            recv(stop) -> _ => return Ok(()),
            recv(ticks) -> _ => {
                app.aside = aside();
                look = !app.paused;
            }
            recv(asking.news) -> news => match news.map_err(|_| anyhow!("the thread that reads has ended"))? {
                News::Looked(looked) => {
                    waiting = false;
                    match *looked {
                        Ok(look) => app.note_look(look),
                        Err(why) => app.note_lost(why),
                    }
                }
                News::Given(order, given) => app.note_given(&order, given),
            },
            recv(jobs.news) -> job => match job {
                Ok(Job::Stop) => screen.stop().context(UNSET)?,
                Ok(Job::GoOn) => screen.take_again().context(UNSET)?,
                Err(_) => return Err(anyhow!("the thread that waits for signals has ended")),
            },
            recv(keys.events) -> event => match event {
                Ok(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => match keys::press(&mut app, key) {
                    Action::Nothing => {}
                    Action::Quit => return Ok(()),
                    Action::Look => look = true,
                    Action::Give(order) => if !asking.ask(Ask::Give(order.clone())) {
                        app.note_given(&order, Err("other questions wait for the process".to_owned()));
                    },
                    Action::Stop => screen.stop().context(UNSET)?,
                    Action::Redraw => screen.take_again().context(UNSET)?,
                },
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error).context("the terminal cannot be read"),
                Err(_) => return Err(anyhow!("the thread that reads keys has ended")),
            },
        }
        if look && !waiting {
            waiting = asking.ask(Ask::Look { sessions: app.wants_sessions() });
        }
    }
}

/// The thread that reads keys; it ends soon after this value is gone.
struct Keys {
    events: Receiver<io::Result<Event>>,
    over: Arc<AtomicBool>,
}

impl Keys {
    fn start() -> io::Result<Self> {
        let (tell, events) = bounded(0);
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        std::thread::Builder::new().name("keys".into()).spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let event = match event::poll(KEYS_INTERVAL) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let is_last = event.is_err();
                if tell.send(event).is_err() || is_last {
                    return;
                }
            }
        })?;
        Ok(Self { events, over })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
