//! Addresses that have left the name of a backend: with `on_down: close`, sessions on one of them end when it
//! is dead.
//!
//! A verdict on a backend concerns the addresses it has now. Where its name has moved, sessions may go on at
//! the old one, and without this nobody would look after them.

use std::rc::Rc;

use tokio::task::JoinSet;
use tokio::time;

use crate::base::{Address, limits};
use crate::upstream::Health;

use super::judge::{Judge, Judgement};
use super::probe::Connect;
use super::rules::{RiseFall, Verdict};

/// The addresses of one backend that are watched; dropping it ends that.
pub(super) struct Departed {
    tasks: JoinSet<Address>,
    watched: Vec<Address>,
}

impl Departed {
    pub(super) fn new() -> Self {
        Self { tasks: JoinSet::new(), watched: Vec::new() }
    }

    /// Watches those of the `old` addresses that are not among the `new` ones, as far as there is room.
    pub(super) fn follow<C: Connect>(&mut self, judge: &Rc<Judge<C>>, old: &[Address], new: &[Address]) {
        while let Some(ended) = self.tasks.try_join_next() {
            match ended {
                Ok(address) => self.watched.retain(|watched| *watched != address),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        for address in old.iter().filter(|address| !new.contains(address)) {
            if self.watched.contains(address) {
                continue;
            }
            if self.watched.len() == limits::ADDRESSES_PER_BACKEND_MAX {
                log::debug!("{address} is not watched: too many addresses have left this name");
                return;
            }
            self.watched.push(address.clone());
            self.tasks.spawn_local(watch(Rc::clone(judge), address.clone()));
        }
    }
}

/// Checks an address until it is dead, or the name leads there again; returns it.
async fn watch<C: Connect>(judge: Rc<Judge<C>>, address: Address) -> Address {
    let mut rules = RiseFall::new(&judge.check);
    // It served sessions.
    rules.observe(Verdict::Success);
    loop {
        time::sleep(rules.next_check(&judge.check, false, judge.board.chance())).await;
        if judge.board.state(judge.which).addresses.contains(&address) {
            return address;
        }
        let Judgement::Verdict { verdict, cause, .. } = judge.judge(std::slice::from_ref(&address)).await
        else {
            continue;
        };
        if rules.observe(verdict).is_some_and(|transition| transition.to == Health::Down) {
            judge.board.gone(judge.which, &address, cause);
            return address;
        }
    }
}
