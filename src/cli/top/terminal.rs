//! The terminal while `top` has it, and as it was afterwards: at the end, after an error, and after a panic.

use std::io::{self, Stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

/// Whether the terminal is ours. Only the drawing thread writes: when it takes the terminal, and when it gives it back.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal, given back on drop.
pub(super) struct Screen {
    /// Draws on it.
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// The standard output is no terminal, or does not let itself be set.
    pub(super) fn take() -> io::Result<Self> {
        give_back_after_a_panic();
        TAKEN.store(true, Ordering::Relaxed);
        let taken = enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen))
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        taken.map(|terminal| Self { terminal }).inspect_err(|_| give_back())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    if TAKEN.swap(false, Ordering::Relaxed) {
        // A terminal that is gone needs nothing.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// A panic of the drawing thread gives the terminal back before its message is printed, so that it can be read. Panics
/// of other threads do not end the display.
fn give_back_after_a_panic() {
    let drawing = std::thread::current().id();
    let next = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() == drawing {
            give_back();
        }
        next(panic);
    }));
}
