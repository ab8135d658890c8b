//! What a shard does at a moment, small enough to be published at every step.

use std::fmt;

/// What a shard does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It takes completions from its ring, or looks for something to do.
    Ring,
    /// It accepts clients.
    Accept,
    /// It takes messages of other threads.
    Inbox,
    /// It looks after its pools.
    Pool,
    /// It looks for a backend for this session.
    Open(u64),
    /// It relays for this session.
    Relay(u64),
    /// It ends this session.
    End(u64),
}

impl Activity {
    const KIND_BITS: u32 = 3;

    /// Returns the session that it is done for.
    #[must_use]
    pub fn session(self) -> Option<u64> {
        match self {
            Self::Ring | Self::Accept | Self::Inbox | Self::Pool => None,
            Self::Open(session) | Self::Relay(session) | Self::End(session) => Some(session),
        }
    }

    /// Returns the activity as a number.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        let (kind, session) = match self {
            Self::Ring => (0, 0),
            Self::Accept => (1, 0),
            Self::Inbox => (2, 0),
            Self::Pool => (3, 0),
            Self::Open(session) => (4, session),
            Self::Relay(session) => (5, session),
            Self::End(session) => (6, session),
        };
        session << Self::KIND_BITS | kind
    }

    /// Returns the activity of a number that [`Self::to_bits`] has returned.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        let session = bits >> Self::KIND_BITS;
        match bits & ((1 << Self::KIND_BITS) - 1) {
            1 => Self::Accept,
            2 => Self::Inbox,
            3 => Self::Pool,
            4 => Self::Open(session),
            5 => Self::Relay(session),
            6 => Self::End(session),
            _ => Self::Ring,
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring => f.write_str("taking completions"),
            Self::Accept => f.write_str("accepting clients"),
            Self::Inbox => f.write_str("taking messages"),
            Self::Pool => f.write_str("looking after its pools"),
            Self::Open(session) => write!(f, "looking for a backend for session {session}"),
            Self::Relay(session) => write!(f, "relaying for session {session}"),
            Self::End(session) => write!(f, "ending session {session}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activity_survives_as_a_number() {
        let session = (1 << 60) - 1;
        for activity in [
            Activity::Ring,
            Activity::Accept,
            Activity::Inbox,
            Activity::Pool,
            Activity::Open(session),
            Activity::Relay(0),
            Activity::End(session),
        ] {
            assert_eq!(Activity::from_bits(activity.to_bits()), activity);
        }
    }
}
