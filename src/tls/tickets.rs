//! Tickets, with which clients resume sessions: on any core, after a reload, and at the successor of this process.
//!
//! All of them come from one secret of the process. Each epoch of 6 h hashes it into the next one, so nobody can open what was
//! sealed before the last two epochs, whatever is stolen later. What seals the tickets of a listener is derived from the
//! secret and the [`Owner`].
//!
//! A ticket is the epoch (8 bytes), a random nonce, and the sealed state of the session, which the epoch is a part of.

use std::collections::HashMap;
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

use crate::base::Shared;

/// How long one secret seals tickets. For as long again it opens them.
const EPOCH: Duration = Duration::from_secs(6 * 3_600);

/// Bytes of the number of the epoch in front of a ticket.
const EPOCH_BYTES: usize = 8;

/// The secret of the process.
pub struct Tickets(Shared<Mutex<State>>);

/// Gone from memory once it is dropped, with what was derived from it.
struct Secret {
    bytes: Zeroizing<[u8; 32]>,
    /// What seals the tickets of each owner that had some.
    keys: HashMap<[u8; 32], Arc<LessSafeKey>>,
}

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
        Self(Shared::new(Mutex::new(State {
            epoch: 0,
            since: now,
            current: Secret::of(secret),
            previous: None,
        })))
    }

    /// Goes on with what a predecessor has left; `None` if it makes no sense.
    #[must_use]
    pub fn inherit(handed: &HandedTickets) -> Option<Self> {
        Self::inherit_at(handed, Instant::now())
    }

    fn inherit_at(handed: &HandedTickets, now: Instant) -> Option<Self> {
        let secret = |bytes: &[u8]| bytes.try_into().map(|bytes| Secret::of(Zeroizing::new(bytes))).ok();
        let since = now.checked_sub(Duration::from_secs(handed.age_seconds)).unwrap_or(now);
        let current = secret(&handed.current)?;
        let previous = handed.previous.as_deref().and_then(secret);
        Some(Self(Shared::new(Mutex::new(State { epoch: handed.epoch, since, current, previous }))))
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
            current: state.current.bytes.to_vec(),
            previous: state.previous.as_ref().map(|secret| secret.bytes.to_vec()),
        })
    }

    /// Returns the tickets of a listener.
    #[must_use]
    pub fn of(self: &Arc<Self>, owner: &Owner) -> Arc<dyn ProducesTickets> {
        Arc::new(OfListener { tickets: Arc::clone(self), owner: owner.digest() })
    }

    /// Looks at the state of a time. All shards wait for each other here, so a look has to be short.
    fn at<T>(&self, now: Instant, look: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.write().lock().unwrap_or_else(PoisonError::into_inner);
        state.advance(now);
        look(&mut state)
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
    fn secret(&mut self, epoch: u64) -> Option<&mut Secret> {
        match self.epoch.checked_sub(epoch)? {
            0 => Some(&mut self.current),
            1 => self.previous.as_mut(),
            _ => None,
        }
    }
}

impl Secret {
    fn of(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { bytes, keys: HashMap::new() }
    }

    /// Returns the secret of the next epoch, from which this one cannot be had.
    fn next(&self) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(b"ringway tickets: next epoch");
        context.update(&*self.bytes);
        let mut next = Zeroizing::new([0; 32]);
        next.copy_from_slice(context.finish().as_ref());
        Self::of(next)
    }

    /// Returns what seals the tickets of a listener: derived once, because that takes longer than all else under the lock.
    fn key(&mut self, owner: &[u8; 32]) -> Option<Arc<LessSafeKey>> {
        if let Some(key) = self.keys.get(owner) {
            return Some(Arc::clone(key));
        }
        let secret = Salt::new(HKDF_SHA256, b"ringway tickets").extract(&*self.bytes);
        let info = [&owner[..]];
        let key = secret.expand(&info, &AES_256_GCM).ok()?;
        let key = Arc::new(LessSafeKey::new(UnboundKey::from(key)));
        self.keys.insert(*owner, Arc::clone(&key));
        Some(key)
    }
}

/// Whose tickets they are. Each part has its length in front, so that no two lists of parts are the same bytes.
pub struct Owner(Context);

impl Owner {
    /// Begins with the name of a listener.
    #[must_use]
    pub fn new(listener: &str) -> Self {
        let mut owner = Self(Context::new(&SHA256));
        owner.add(b"listener", listener.as_bytes());
        owner
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
    owner: [u8; 32],
}

impl OfListener {
    fn seal(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (epoch, key) = self.tickets.at(now, |state| (state.epoch, state.current.key(&self.owner)));
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
            self.tickets.at(now, |state| state.secret(number).and_then(|secret| secret.key(&self.owner)));
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

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &[u8] = b"the state of a session";

    fn listener(tickets: &Arc<Tickets>, owner: &Owner) -> OfListener {
        OfListener { tickets: Arc::clone(tickets), owner: owner.digest() }
    }

    fn web(tickets: &Arc<Tickets>) -> OfListener {
        listener(tickets, &Owner::new("web"))
    }

    #[test]
    fn a_ticket_opens_where_it_was_made_and_nowhere_else() {
        let now = Instant::now();
        let tickets = Arc::new(Tickets::new(now));
        let own = web(&tickets);
        let ticket = own.seal(STATE, now).expect("a ticket");
        assert!(!ticket.windows(STATE.len()).any(|window| window == STATE), "it is sealed");
        assert_ne!(own.seal(STATE, now).expect("a ticket"), ticket);
        assert_eq!(own.open(&ticket, now).as_deref(), Some(STATE));
        assert_eq!(web(&tickets).open(&ticket, now).as_deref(), Some(STATE), "on any core, after a reload");

        let with = |parts: &[(&[u8], &[u8])]| {
            let mut owner = Owner::new("web");
            parts.iter().for_each(|(kind, content)| owner.add(kind, content));
            owner
        };
        let others = [
            Owner::new("web2"),
            with(&[(b"ca", b"one")]),
            with(&[(b"ca", b"onetwo")]),
            with(&[(b"ca", b"one"), (b"ca", b"two")]),
            with(&[(b"crl", b"one")]),
        ];
        for (position, one) in others.iter().enumerate() {
            assert_eq!(listener(&tickets, one).open(&ticket, now), None, "{position}");
            let theirs = listener(&tickets, one).seal(STATE, now).expect("a ticket");
            for (at, other) in others.iter().enumerate() {
                assert_eq!(listener(&tickets, other).open(&theirs, now).is_some(), at == position);
            }
        }
        assert_eq!(web(&Arc::new(Tickets::new(now))).open(&ticket, now), None, "another process");
    }

    #[test]
    fn a_ticket_opens_in_its_epoch_and_the_next_one() {
        let start = Instant::now();
        let tickets = Arc::new(Tickets::new(start));
        let own = web(&tickets);
        let first = own.seal(STATE, start).expect("a ticket");
        let late = start + EPOCH - Duration::from_secs(1);
        let last = own.seal(STATE, late).expect("a ticket");
        let next = start + 2 * EPOCH - Duration::from_secs(1);
        assert!(own.open(&first, next).is_some() && own.open(&last, next).is_some());
        let newer = own.seal(STATE, next).expect("a ticket");
        let after = start + 2 * EPOCH;
        assert!(own.open(&first, after).is_none() && own.open(&last, after).is_none());
        assert!(own.open(&newer, after).is_some());
        assert_eq!(
            tickets.at(after, |state| state.current.keys.len()),
            0,
            "what was derived goes with its secret"
        );
        // An idle process comes to the same secrets, and what was is gone.
        let much_later = start + 100 * EPOCH;
        assert!(own.open(&newer, much_later).is_none());
        let ticket = own.seal(STATE, much_later).expect("a ticket");
        assert!(own.open(&ticket, much_later + EPOCH).is_some());
    }

    #[test]
    fn a_successor_opens_the_tickets_of_its_predecessor() {
        let start = Instant::now();
        let old = Arc::new(Tickets::new(start));
        let before = web(&old).seal(STATE, start).expect("a ticket");
        let handed_at = start + EPOCH + Duration::from_secs(60);
        let current = web(&old).seal(STATE, handed_at).expect("a ticket");
        let handed = old.hand_on_at(handed_at);
        let text = serde_json::to_string(&handed).expect("JSON");
        let read: HandedTickets = serde_json::from_str(&text).expect("the same");
        assert!(read == handed && read != HandedTickets::default());
        let new = Arc::new(Tickets::inherit_at(&read, handed_at).expect("it makes sense"));
        assert!(
            web(&new).open(&before, handed_at).is_some() && web(&new).open(&current, handed_at).is_some()
        );
        // And the other way round, while the old process still serves.
        let theirs = web(&new).seal(STATE, handed_at + EPOCH).expect("a ticket");
        assert!(web(&old).open(&theirs, handed_at + EPOCH).is_some(), "both go on in step");
        for strange in ["{}", r#"{"current": [1]}"#] {
            let strange: HandedTickets = serde_json::from_str(strange).expect("JSON");
            assert!(Tickets::inherit_at(&strange, start).is_none());
        }
    }

    #[test]
    fn nothing_tells_the_secret() {
        let tickets = Arc::new(Tickets::default());
        let handed = tickets.hand_on();
        let texts = [format!("{tickets:?}"), format!("{handed:?}"), format!("{:?}", web(&tickets))];
        let secret = format!("{:?}", handed.current);
        let first = &secret[1..secret.len() - 1];
        assert!(texts.iter().all(|text| !text.contains(first) && text.len() < 80), "{texts:?}");
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_opens(garbage: Vec<u8>, epoch in 0_u64..3, at in 0_usize..80, flip in 1_u8..) {
            let now = Instant::now();
            let own = web(&Arc::new(Tickets::new(now)));
            proptest::prop_assert_eq!(own.open(&garbage, now), None);
            let known = [&epoch.to_be_bytes()[..], &garbage].concat();
            proptest::prop_assert_eq!(own.open(&known, now), None);
            let mut ticket = own.seal(STATE, now).expect("a ticket");
            proptest::prop_assert_eq!(own.open(&ticket[..at.min(ticket.len() - 1)], now), None);
            let at = at % ticket.len();
            ticket[at] ^= flip;
            proptest::prop_assert_eq!(own.open(&ticket, now), None);
        }
    }
}
