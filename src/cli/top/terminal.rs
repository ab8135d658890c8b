//! The terminal while `top` has it, and as it was afterwards: at the end, after an error, and after a panic.

use std::io::{self, Stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use signal_hook::consts::signal::SIGSTOP;
use signal_hook::low_level::raise;

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
        Ok(Self { terminal: take()? })
    }

    /// Takes the terminal anew: the next picture is drawn as a whole.
    ///
    /// # Errors
    ///
    /// The terminal does not let itself be set.
    pub(super) fn take_again(&mut self) -> io::Result<()> {
        give_back();
        self.terminal = take()?;
        Ok(())
    }

    /// Gives the terminal back and stops the process, as Ctrl-Z does elsewhere. Returns when the process is continued and
    /// has the terminal again.
    ///
    /// # Errors
    ///
    /// The terminal does not let itself be set.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        give_back();
        raise(SIGSTOP)?;
        self.take_again()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    TAKEN.store(true, Ordering::Relaxed);
    enable_raw_mode()
        .and_then(|()| execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All)))
        .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())))
        .inspect_err(|_| give_back())
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
