//! Signals: those that ask for the end, and those by which a shell stops and continues its jobs.

use std::io;

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::signal::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::{Handle, Signals};

/// Returns a channel that is disconnected by the first signal that asks for the end.
///
/// # Errors
///
/// No thread or descriptor is left.
pub(super) fn end() -> io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;
    let (alive, stop) = bounded(0);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let _ = signals.forever().next();
        drop(alive);
    })?;
    Ok(stop)
}

/// What a shell wants of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// To stop and leave the terminal to the shell.
    Stop,
    /// To go on after a stop, of whatever kind it was.
    GoOn,
}

/// The thread that waits for these signals; it ends with this value.
pub(super) struct Jobs {
    /// What came.
    pub(super) news: Receiver<Job>,
    handle: Handle,
}

impl Jobs {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// No thread or descriptor is left.
    pub(super) fn start() -> io::Result<Self> {
        let mut signals = Signals::new([SIGTSTP, SIGCONT])?;
        let handle = signals.handle();
        let (tell, news) = bounded(0);
        std::thread::Builder::new().name("jobs".into()).spawn(move || {
            for signal in signals.forever() {
                let job = if signal == SIGTSTP { Job::Stop } else { Job::GoOn };
                if tell.send(job).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { news, handle })
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.handle.close();
    }
}
