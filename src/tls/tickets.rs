//! Tickets, with which clients resume sessions: on any core, after a reload, and at the successor of this process.
//!
//! All of them come from one secret of the process. Each epoch of 6 h hashes it into the next one, so nobody can open what was
//! sealed before the last two epochs, whatever is stolen later. What seals the tickets of a listener is derived from the
//! secret and the [`Identity`] of the listener.
//!
//! A ticket is the epoch (8 bytes), a random nonce, and the sealed state of the session, which the epoch is a part of.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// How long one secret seals tickets. For as long again it opens them.
const EPOCH: Duration = Duration::from_secs(6 * 3_600);

/// Bytes of the number of the epoch in front of a ticket.
const EPOCH_BYTES: usize = 8;

/// The secret of the process.
pub struct Tickets(Mutex<State>);

/// Gone from memory once it is dropped.
struct Secret(Zeroizing<[u8; 32]>);

struct State {
    epoch: u64,
    /// When the epoch has begun.
    since: Instant,
    current: Secret,
    /// That of the epoch before.
    previous: Option<Secret>,
}

/// What a process leaves to its successor. It has to stay secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedTickets {
    epoch: u64,
    age_seconds: u64,
    current: Vec<u8>,
    previous: Option<Vec<u8>>,
}

impl fmt::Debug for HandedTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedTickets").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl Tickets {
    /// Begins with a random secret.
    fn new(now: Instant) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        // Fails nowhere that Ringway runs; without it, tickets would be a risk, and so they are not worth going on.
        rand::fill(&mut *secret).expect("the system has randomness");
        Self(Mutex::new(State { epoch: 0, since: now, current: Secret(secret), previous: None }))
    }

    /// Goes on with what a predecessor has left; `None` if it makes no sense.
    #[must_use]
    pub fn inherit(handed: &HandedTickets) -> Option<Self> {
        Self::inherit_at(handed, Instant::now())
    }

    fn inherit_at(handed: &HandedTickets, now: Instant) -> Option<Self> {
        let secret = |bytes: &[u8]| bytes.try_into().map(|bytes| Secret(Zeroizing::new(bytes))).ok();
        let since = now.checked_sub(Duration::from_secs(handed.age_seconds)).unwrap_or(now);
        let current = secret(&handed.current)?;
        let previous = handed.previous.as_deref().and_then(secret);
        Some(Self(Mutex::new(State { epoch: handed.epoch, since, current, previous })))
    }

    /// Returns what the successor of this process goes on with.
    #[must_use]
    pub fn hand_on(&self) -> HandedTickets {
        self.hand_on_at(Instant::now())
    }

    fn hand_on_at(&self, now: Instant) -> HandedTickets {
        self.at(now, |state| HandedTickets {
            epoch: state.epoch,
            age_seconds: now.saturating_duration_since(state.since).as_secs(),
            current: state.current.0.to_vec(),
            previous: state.previous.as_ref().map(|secret| secret.0.to_vec()),
        })
    }

    /// Returns the tickets of a listener.
    #[must_use]
    pub fn of(self: &Arc<Self>, identity: &Identity) -> Arc<dyn ProducesTickets> {
        Arc::new(OfListener { tickets: Arc::clone(self), identity: identity.digest() })
    }

    /// Looks at the state of a time.
    fn at<T>(&self, now: Instant, look: impl FnOnce(&State) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.advance(now);
        look(&state)
    }
}

impl State {
    /// Goes on to the epoch of this time.
    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_secs() / EPOCH.as_secs();
        for _ in 0..passed {
            let next = self.current.next();
            self.previous = Some(std::mem::replace(&mut self.current, next));
            self.epoch += 1;
            self.since += EPOCH;
        }
    }

    /// Returns the secret of an epoch, if tickets of it are opened.
    fn secret(&self, epoch: u64) -> Option<&Secret> {
        match self.epoch.checked_sub(epoch)? {
            0 => Some(&self.current),
            1 => self.previous.as_ref(),
            _ => None,
        }
    }
}

impl Secret {
    /// Returns the secret of the next epoch, from which this one cannot be had.
    fn next(&self) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(b"ringway tickets: next epoch");
        context.update(&*self.0);
        let mut next = Zeroizing::new([0; 32]);
        next.copy_from_slice(context.finish().as_ref());
        Self(next)
    }

    /// Returns what seals the tickets of a listener.
    fn key(&self, identity: &[u8; 32]) -> Option<LessSafeKey> {
        let secret = Salt::new(HKDF_SHA256, b"ringway tickets").extract(&*self.0);
        let info = [&identity[..]];
        let key = secret.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }
}

/// Whose tickets they are. Each part has its length in front, so that no two lists of parts are the same bytes.
pub struct Identity(Context);

impl Identity {
    /// Begins with the name of a listener.
    #[must_use]
    pub fn new(listener: &str) -> Self {
        let mut identity = Self(Context::new(&SHA256));
        identity.add(b"listener", listener.as_bytes());
        identity
    }

    /// Adds what else has to be the same.
    pub fn add(&mut self, kind: &[u8], content: &[u8]) {
        for part in [kind, content] {
            self.0.update(&(part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.clone().finish().as_ref());
        digest
    }
}

struct OfListener {
    tickets: Arc<Tickets>,
    identity: [u8; 32],
}

impl OfListener {
    fn seal(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (epoch, key) = self.tickets.at(now, |state| (state.epoch, state.current.key(&self.identity)));
        let (key, epoch) = (key?, epoch.to_be_bytes());
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = [&epoch[..], &nonce, plain].concat();
        let sealed = &mut ticket[EPOCH_BYTES + NONCE_LEN..];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(epoch), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (epoch, rest) = ticket.split_first_chunk::<EPOCH_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let number = u64::from_be_bytes(*epoch);
        let key =
            self.tickets.at(now, |state| state.secret(number).and_then(|secret| secret.key(&self.identity)));
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key?.open_in_place(nonce, Aad::from(*epoch), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

impl fmt::Debug for OfListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfListener").finish_non_exhaustive()
    }
}

impl ProducesTickets for OfListener {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // A ticket opens for this long at least.
        EPOCH.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, Instant::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, Instant::now())
    }
}
