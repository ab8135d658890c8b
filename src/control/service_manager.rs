//! What the service manager, which is systemd mostly, is told: sd_notify(3). Without one nothing is told.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::base::Plain;

/// Says that the process listens.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// Says that the process ends, so that its end is not taken for a crash.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Says that the process loads its configuration again. [`ready`] says that it is done, whatever came of it.
pub fn reloading() {
    // The manager tells by the time whether it has asked for this reload, sd_notify(3).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell_all(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("the time of the reload is unknown: {}", Plain(&error)),
    }
}

/// Says that another process of the service is its main process from now on.
pub fn main_pid(pid: u32) {
    tell(NotifyState::MainPid(pid));
}

/// Says in a sentence how the process is, for `systemctl status`.
pub fn status(text: &str) {
    // A second line would be taken for another message.
    tell(NotifyState::Status(&text.replace('\n', " ")));
}

fn tell(state: NotifyState<'_>) {
    tell_all(&[state]);
}

fn tell_all(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!(event = "service_manager", cause = error.to_string();
            "the service manager cannot be told: {}", Plain(&error));
    }
}

/// How often the service manager wants a sign of life, if it does (`WatchdogSec=`).
pub(super) struct SignsOfLife {
    interval: Option<Duration>,
    last: Option<Instant>,
}

impl SignsOfLife {
    /// Three in each period, so that one of them may be late.
    const IN_A_PERIOD: u32 = 3;

    /// Reads what the service manager wants from the environment.
    pub(super) fn wanted() -> Self {
        Self { interval: sd_notify::watchdog_enabled().map(|period| period / Self::IN_A_PERIOD), last: None }
    }

    /// Gives one if it is time.
    pub(super) fn give(&mut self, now: Instant) {
        let Some(interval) = self.interval else { return };
        if self.last.is_none_or(|last| now - last >= interval) {
            self.last = Some(now);
            tell(NotifyState::Watchdog);
        }
    }
}
