//! Addresses that did not answer lately, of the backends of one upstream: for a while they are tried after
//! the others, by all sessions of the shard. The next check of such an address may be half a minute away, or
//! there may be none.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::base::{Address, BackendId, Tick};

/// How long an address that did not answer is tried after the others of its backend.
const MEMORY: Duration = Duration::from_secs(30);

/// The number of such addresses that are remembered.
const KEPT: usize = 64;

/// See the module documentation.
#[derive(Default)]
pub(super) struct Unresponsive(RefCell<VecDeque<(BackendId, Address, Tick)>>);

impl Unresponsive {
    pub(super) fn note(&self, backend: BackendId, address: &Address, now: Tick) {
        let mut notes = self.0.borrow_mut();
        notes.retain(|note| (note.0, &note.1) != (backend, address));
        if notes.len() == KEPT {
            notes.pop_front();
        }
        notes.push_back((backend, address.clone(), now.after(MEMORY)));
    }

    /// Returns the addresses of a backend in the order to try.
    pub(super) fn order(&self, backend: BackendId, addresses: Rc<[Address]>, now: Tick) -> Rc<[Address]> {
        let mut notes = self.0.borrow_mut();
        while notes.pop_front_if(|note| note.2 <= now).is_some() {}
        let is_noted = |address: &Address| notes.iter().any(|note| (note.0, &note.1) == (backend, address));
        if notes.is_empty() || addresses.len() < 2 || !addresses.iter().any(is_noted) {
            return addresses;
        }
        let (noted, others): (Vec<_>, Vec<_>) = addresses.iter().cloned().partition(is_noted);
        others.into_iter().chain(noted).collect()
    }
}
