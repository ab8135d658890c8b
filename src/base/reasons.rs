//! Why a session ended: one closed enum that counters, logs and tests share.

/// The one reason a session ended with. Every accepted session that was not denied gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// Both sides ended their streams and everything was delivered.
    Normal,
    /// The client left before it had a backend connection.
    ClientLeft,
    /// The client reset its connection while data could still flow.
    ClientReset,
    /// The backend reset its connection while data could still flow.
    BackendReset,
    /// The client did not answer any more: its connection ended in a time-out of the kernel's.
    ClientDead,
    /// The backend did not answer any more: its connection ended in a time-out of the kernel's.
    BackendDead,
    /// Every tried backend refused or failed the connection.
    ConnectFailed,
    /// The tries together, or the last of them, took too long.
    ConnectTimeout,
    /// No backend was eligible.
    NoBackend,
    /// Every backend was full, and the queue too.
    QueueFull,
    /// Every backend stayed full for as long as a client may wait.
    QueueTimeout,
    /// No byte moved on the client's socket for `client_idle`.
    ClientIdle,
    /// No byte moved on the backend's socket for `backend_idle`.
    BackendIdle,
    /// The client had ended its stream, and what the backend still said was cut off for the reuse of its connection.
    AnswerCut,
    /// The backend had ended its stream and the client was silent for `half_close`.
    HalfCloseClient,
    /// The client had ended its stream and the backend was silent for `half_close`.
    HalfCloseBackend,
    /// The session reached `timeouts.session`.
    SessionTimeout,
    /// Its backend went down, and `on_down` closes sessions.
    BackendDown,
    /// It was on a backup, a primary came back, and `on_up` closes sessions.
    PrimaryUp,
    /// This process lacked a descriptor, a local port or memory.
    Resource,
    /// The drain deadline, or a stop at once, ended it.
    Shutdown,
    /// A broken invariant or a panic inside the session.
    Internal,
}

impl CloseReason {
    /// How many reasons there are: the size of a table with one entry for each.
    pub const COUNT: usize = Self::ALL.len();

    /// Every reason, in the order of its discriminant.
    pub const ALL: [Self; 22] = [
        Self::Normal,
        Self::ClientLeft,
        Self::ClientReset,
        Self::BackendReset,
        Self::ClientDead,
        Self::BackendDead,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::NoBackend,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::ClientIdle,
        Self::BackendIdle,
        Self::AnswerCut,
        Self::HalfCloseClient,
        Self::HalfCloseBackend,
        Self::SessionTimeout,
        Self::BackendDown,
        Self::PrimaryUp,
        Self::Resource,
        Self::Shutdown,
        Self::Internal,
    ];

    /// Whether a client that ended so got no backend, and would have liked one; one that a backend reset may be among them, too.
    #[must_use]
    pub const fn turns_away(self) -> bool {
        use CloseReason::{ConnectFailed, ConnectTimeout, NoBackend, QueueFull, QueueTimeout, Resource};
        matches!(self, ConnectFailed | ConnectTimeout | NoBackend | QueueFull | QueueTimeout | Resource)
    }

    /// The position in a table with one entry for each reason.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in metrics and logs. The two half-closes share one; the letters tell them apart.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::ClientLeft => "client_left",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "backend_reset",
            Self::ClientDead => "client_dead",
            Self::BackendDead => "backend_dead",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::NoBackend => "no_backend",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::ClientIdle => "client_idle",
            Self::BackendIdle => "backend_idle",
            Self::AnswerCut => "answer_cut",
            Self::HalfCloseClient | Self::HalfCloseBackend => "half_close",
            Self::SessionTimeout => "session_timeout",
            Self::BackendDown => "backend_down",
            Self::PrimaryUp => "primary_up",
            Self::Resource => "resource",
            Self::Shutdown => "shutdown",
            Self::Internal => "internal",
        }
    }

    /// Who ended the session and when, in the two letters of a tcplog line.
    #[must_use]
    pub const fn letters(self) -> &'static str {
        match self {
            Self::Normal => "--",
            Self::ClientLeft => "CC",
            Self::ClientReset => "CD",
            Self::BackendReset => "SD",
            Self::ConnectFailed | Self::NoBackend => "SC",
            Self::ConnectTimeout => "sC",
            Self::QueueFull => "PQ",
            Self::QueueTimeout => "sQ",
            Self::ClientIdle | Self::ClientDead | Self::HalfCloseClient => "cD",
            Self::BackendIdle | Self::BackendDead | Self::HalfCloseBackend => "sD",
            Self::SessionTimeout | Self::AnswerCut => "PD",
            Self::BackendDown => "DD",
            Self::PrimaryUp => "UD",
            Self::Resource => "RC",
            Self::Shutdown => "KD",
            Self::Internal => "ID",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_of_every_reason_is_its_place_in_all() {
        for (position, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position, "{}", reason.name());
        }
    }
}
