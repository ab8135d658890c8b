//! Why a session ended, a connection was denied, or a connect failed: closed enums shared by counters, logs and
//! tests.

macro_rules! reasons {
    ($($(#[$doc:meta])+ $reason:ident = $name:literal, $letters:literal;)+) => {
        /// Why a session ended. Every accepted connection that was not denied gets exactly one reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum CloseReason {
            $($(#[$doc])+ $reason,)+
        }

        impl CloseReason {
            /// Every reason, in the order of the discriminants.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$reason),+];

            /// The number of reasons: the size of a table with one entry for each.
            pub const COUNT: usize = [$($name),+].len();

            /// Returns the name in metrics and logs. The two half-closes share a name; their letters tell
            /// them apart.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }

            /// Returns who ended a session, and when, for a session that ended while it relayed.
            const fn usual_letters(self) -> &'static str {
                match self {
                    $(Self::$reason => $letters,)+
                }
            }
        }
    };
}

// Each reason with its name and its letters; see `CloseReason::letters`.
reasons! {
    /// Both sides ended their streams and everything was delivered.
    Normal = "normal", "--";
    /// The client left before it had a backend connection.
    ClientLeft = "client_left", "C*";
    /// The client reset its connection while data could still flow.
    ClientReset = "client_reset", "CD";
    /// The backend reset its connection while data could still flow.
    BackendReset = "backend_reset", "SD";
    /// The backend's stream ended in TCP and not in TLS: the end of its answer may have been cut off.
    Truncated = "truncated", "SD";
    /// The client stopped answering: its connection ended in a kernel time-out.
    ClientDead = "client_dead", "cD";
    /// The backend stopped answering: its connection ended in a kernel time-out.
    BackendDead = "backend_dead", "sD";
    /// Every backend that was tried refused or failed the connection.
    ConnectFailed = "connect_failed", "SC";
    /// All attempts together, or the last one, took too long.
    ConnectTimeout = "connect_timeout", "sC";
    /// No backend was eligible.
    NoBackend = "no_backend", "SC";
    /// Every backend was full, and so was the queue.
    QueueFull = "queue_full", "PQ";
    /// Every backend stayed full for as long as a client may wait.
    QueueTimeout = "queue_timeout", "sQ";
    /// The client did not begin with a valid PROXY header, its TLS handshake failed, or no route takes it.
    HandshakeFailed = "handshake_failed", "PR";
    /// The client's PROXY header, its ClientHello or its TLS handshake was not complete in time.
    HandshakeTimeout = "handshake_timeout", "cR";
    /// No byte moved on the client's socket for `client_idle`.
    ClientIdle = "client_idle", "cD";
    /// No byte moved on the backend's socket for `backend_idle`.
    BackendIdle = "backend_idle", "sD";
    /// The client had ended its stream, and the rest of the backend's answer was dropped so that the
    /// backend's connection could be used again.
    AnswerCut = "answer_cut", "PD";
    /// The backend had ended its stream and the client was silent for `half_close`.
    HalfCloseClient = "half_close", "cD";
    /// The client had ended its stream and the backend was silent for `half_close`.
    HalfCloseBackend = "half_close", "sD";
    /// The session reached `timeouts.session`.
    SessionTimeout = "session_timeout", "PD";
    /// The backend of the session went down, and `on_down` closes sessions.
    BackendDown = "backend_down", "DD";
    /// The session was on a backup, a primary came back, and `on_up` closes sessions.
    PrimaryUp = "primary_up", "UD";
    /// This process lacked a descriptor, a local port or memory.
    Resource = "resource", "RC";
    /// The drain deadline, or an order to stop at once, ended the session.
    Shutdown = "shutdown", "K*";
    /// An operator ended the session.
    Killed = "killed", "K*";
    /// A broken invariant or a panic inside the session.
    Internal = "internal", "I*";
}

/// A closed set of reasons of which each has a name.
macro_rules! named {
    ($(#[$top:meta])+ $name:ident { $($(#[$doc:meta])+ $reason:ident = $text:literal;)+ }) => {
        $(#[$top])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$doc])+ $reason,)+
        }

        impl $name {
            /// Every reason, in the order of the discriminants.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$reason),+];

            /// The number of reasons.
            pub const COUNT: usize = [$($text),+].len();

            /// Returns the name in metrics and logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $text,)+
                }
            }

            /// Returns the position of the reason in a table with one entry for each.
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

named! {
    /// Why a connection was denied: it was accepted and reset, and got no backend. In the order in which the rules are asked.
    DenyReason {
        /// `max_connections` of the listener.
        ListenerLimit = "listener_limit";
        /// `runtime.max_connections`, or as many as there are descriptors for.
        ProcessLimit = "process_limit";
        /// The peer is none whose PROXY header is believed.
        Untrusted = "untrusted";
        /// `deny` has the client, or `allow` does not have it.
        Acl = "acl";
        /// `per_source.rate`.
        SourceRate = "source_rate";
        /// `per_source.max_connections`.
        SourceLimit = "source_limit";
        /// `rate_limit` of the listener.
        Rate = "rate";
    }
}

named! {
    /// Why a connect to a backend failed.
    ConnectFailure {
        /// The backend's host answered that nothing listens there.
        Refused = "refused";
        /// The network or the backend's host reported another error.
        Unreachable = "unreachable";
        /// No answer in time.
        Timeout = "timeout";
        /// The TLS handshake failed: its certificate is not good, or the two have nothing in common.
        Tls = "tls";
    }
}

named! {
    /// Why the TLS handshake of a client came to nothing.
    TlsFailure {
        /// As many handshakes as may go on at a time were going on.
        Limit = "limit";
        /// It was not complete in time.
        Timeout = "timeout";
        /// The client ended the connection.
        Closed = "closed";
        /// The client's certificate is missing, or not good.
        Certificate = "certificate";
        /// The two have no version, cipher, or protocol (ALPN) in common.
        Incompatible = "incompatible";
        /// The client said that it fails, in an alert: it may not believe the certificate.
        Alert = "alert";
        /// What the client sent is not TLS.
        Invalid = "invalid";
    }
}

named! {
    /// How a TLS handshake began.
    TlsHandshake {
        /// With certificate and key exchange.
        Full = "full";
        /// With a ticket of an earlier one.
        Resumed = "resumed";
    }
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionPhase {
    /// Its client has still to say who it is.
    Handshake,
    /// It waits for a permit of a backend.
    Queued,
    /// It looks for a backend, or connects to one.
    Connecting,
    /// It relays.
    Relaying,
    /// It delivers the last bytes before its end.
    Ending,
}

impl CloseReason {
    /// Returns who ended the session and when, as the two letters of a tcplog line: C client, S backend, P limit or
    /// rule, R resource, K operator, D backend marked down, U primary up, I internal, c and s time-out of a side, -
    /// normal; and R handshake, Q queued, C connecting, D data, - after.
    #[must_use]
    pub fn letters(self, phase: SessionPhase) -> [u8; 2] {
        let [who, when] = *self.usual_letters().as_bytes() else { unreachable!("two letters each") };
        let when = match (when, phase) {
            (b'*', SessionPhase::Handshake) => b'R',
            (b'*', SessionPhase::Queued) => b'Q',
            (b'*', SessionPhase::Connecting) => b'C',
            (b'*', SessionPhase::Relaying | SessionPhase::Ending) => b'D',
            _ => when,
        };
        [who, when]
    }

    /// Returns whether the backend broke the session after it had taken the connection: by a reset, or because it
    /// vanished or was silent until a timeout. The letters are `SD` and `sD`. Many a good backend forgets the end of TLS
    /// (`Truncated`), so that is not held against it.
    #[must_use]
    pub const fn blames_backend(self) -> bool {
        use CloseReason::{BackendDead, BackendIdle, BackendReset, HalfCloseBackend};
        matches!(self, BackendReset | BackendDead | BackendIdle | HalfCloseBackend)
    }

    /// Returns whether sessions with this reason got no backend although the client wanted one. Some sessions
    /// with `BackendReset` got none either, which the reason alone does not tell.
    #[must_use]
    pub const fn turns_away(self) -> bool {
        use CloseReason::{
            ConnectFailed, ConnectTimeout, HandshakeFailed, NoBackend, QueueFull, QueueTimeout, Resource,
        };
        let got_no_backend =
            matches!(self, ConnectFailed | ConnectTimeout | NoBackend | QueueFull | QueueTimeout | Resource);
        // A trusted peer that sends no header is set up wrongly. One that is silent may have wanted nothing.
        got_no_backend || matches!(self, HandshakeFailed)
    }

    /// Returns the position of the reason in a table with one entry for each.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}
