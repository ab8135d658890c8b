//! Why a session ended: one closed enum that counters, logs and tests share.

macro_rules! reasons {
    ($($(#[$doc:meta])+ $reason:ident = $name:literal, $letters:literal;)+) => {
        /// The one reason a session ended with. Every accepted session that was not denied gets exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum CloseReason {
            $($(#[$doc])+ $reason,)+
        }

        impl CloseReason {
            /// Every reason, in the order of its discriminant.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$reason),+];

            /// How many reasons there are: the size of a table with one entry for each.
            pub const COUNT: usize = [$($name),+].len();

            /// The name in metrics and logs. The two half-closes share one; the letters tell them apart.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }

            /// Who ended the session and when, in the two letters of a tcplog line.
            #[must_use]
            pub const fn letters(self) -> &'static str {
                match self {
                    $(Self::$reason => $letters,)+
                }
            }
        }
    };
}

// Each with its name and its letters.
reasons! {
    /// Both sides ended their streams and everything was delivered.
    Normal = "normal", "--";
    /// The client left before it had a backend connection.
    ClientLeft = "client_left", "CC";
    /// The client reset its connection while data could still flow.
    ClientReset = "client_reset", "CD";
    /// The backend reset its connection while data could still flow.
    BackendReset = "backend_reset", "SD";
    /// The client did not answer any more: its connection ended in a time-out of the kernel's.
    ClientDead = "client_dead", "cD";
    /// The backend did not answer any more: its connection ended in a time-out of the kernel's.
    BackendDead = "backend_dead", "sD";
    /// Every tried backend refused or failed the connection.
    ConnectFailed = "connect_failed", "SC";
    /// The tries together, or the last of them, took too long.
    ConnectTimeout = "connect_timeout", "sC";
    /// No backend was eligible.
    NoBackend = "no_backend", "SC";
    /// Every backend was full, and the queue too.
    QueueFull = "queue_full", "PQ";
    /// Every backend stayed full for as long as a client may wait.
    QueueTimeout = "queue_timeout", "sQ";
    /// No byte moved on the client's socket for `client_idle`.
    ClientIdle = "client_idle", "cD";
    /// No byte moved on the backend's socket for `backend_idle`.
    BackendIdle = "backend_idle", "sD";
    /// The client had ended its stream, and the rest of the backend's answer was cut off, so that its
    /// connection could be used again.
    AnswerCut = "answer_cut", "PD";
    /// The backend had ended its stream and the client was silent for `half_close`.
    HalfCloseClient = "half_close", "cD";
    /// The client had ended its stream and the backend was silent for `half_close`.
    HalfCloseBackend = "half_close", "sD";
    /// The session reached `timeouts.session`.
    SessionTimeout = "session_timeout", "PD";
    /// Its backend went down, and `on_down` closes sessions.
    BackendDown = "backend_down", "DD";
    /// It was on a backup, a primary came back, and `on_up` closes sessions.
    PrimaryUp = "primary_up", "UD";
    /// This process lacked a descriptor, a local port or memory.
    Resource = "resource", "RC";
    /// The drain deadline, or a stop at once, ended it.
    Shutdown = "shutdown", "KD";
    /// A broken invariant or a panic inside the session.
    Internal = "internal", "ID";
}

impl CloseReason {
    /// Whether a client that ended so got no backend, and would have liked one; a client that a backend reset
    /// may be among them, too.
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
}
