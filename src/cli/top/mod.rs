//! `ringway top`: a running process on a terminal, read once a second. [`watch`] is the display alone, for the demo too.

mod app;
pub(super) mod args;
mod draw;
mod feed;
mod keys;
mod terminal;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use crossbeam_channel::{Receiver, bounded, select, tick};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::api::{Api, ApiError};
use super::grid::Tone;
use args::TopArguments;
use feed::{Ask, Asking, News};
use keys::Action;
use terminal::Screen;

pub(super) use app::App;
pub(super) use feed::{Feed, Look, Order};

/// Nobody answers on the socket.
const NOBODY: u8 = 3;
/// Wrong usage.
const USAGE: u8 = 2;
/// How soon the thread that reads keys notices the end.
const KEYS_INTERVAL: Duration = Duration::from_millis(100);

/// Shows a running process until a key or a signal ends it.
///
/// # Errors
///
/// The terminal does not let itself be set, read or written.
pub fn top(arguments: &TopArguments) -> anyhow::Result<ExitCode> {
    if !io::stdout().is_terminal() {
        eprint("ringway top: the standard output is no terminal; use `ringway ctl status --watch`");
        return Ok(ExitCode::from(USAGE));
    }
    let api = Api::new(arguments.socket.as_deref())?;
    let first = match api.read("/v1/status") {
        Ok(status) => status,
        Err(error) => {
            eprint(&format!("ringway top: {error}"));
            let is_nobody = matches!(error, ApiError::Nobody { .. });
            return Ok(ExitCode::from(if is_nobody { NOBODY } else { 1 }));
        }
    };
    let mut app = App::new();
    app.note_look(Look { status: first, sessions: None });
    let stop = signalled().context("cannot handle signals")?;
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
    let mut screen = Screen::take().context("the terminal cannot be set")?;
    let keys = Keys::start()?;
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
            recv(keys.events) -> event => match event {
                Ok(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => match keys::press(&mut app, key) {
                    Action::Nothing => {}
                    Action::Quit => return Ok(()),
                    Action::Look => look = true,
                    Action::Give(order) => drop(asking.ask(Ask::Give(order))),
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

/// Returns a channel that is disconnected by the first signal that asks for the end.
fn signalled() -> io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;
    let (alive, stop) = bounded(0);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let _ = signals.forever().next();
        drop(alive);
    })?;
    Ok(stop)
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

/// Writes a line to standard error; if that is closed, the exit status has to say it all.
fn eprint(line: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr().lock(), "{line}");
}
