//! The checkers of all backends of a generation: begun, left alone or ended as the next one asks.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use super::board::HealthStates;
use super::checker::Checker;
use super::judge::{Judge, Slots};
use super::probe::{Connect, Question};
use crate::base::{BackendKey, limits};
use crate::config::{AdminState, BackendAddress, HealthCheck, OpenSessions};
use crate::protocol::proxy::Version;
use crate::telemetry::counters::HealthCounters;
use crate::tls::BackendTls;
use crate::upstream::Snapshot;

/// The first checks start spread over this much for each backend, so that a thousand of them are no burst;
/// over `limits::FIRST_CHECK_SPREAD_MAX` at most, so that the first verdicts come soon.
const FIRST_SPREAD_EACH: Duration = Duration::from_millis(1);

/// See the module documentation.
pub(super) struct Checkers<C> {
    board: Rc<HealthStates>,
    counters: Arc<HealthCounters>,
    slots: Rc<Slots>,
    connect: Rc<C>,
    running: BTreeMap<BackendKey, Running>,
    pub(super) tasks: JoinSet<()>,
}

/// A checker, and what it goes by.
struct Running {
    rules: Rules,
    handle: AbortHandle,
}

/// What a checker goes by; with another one of these there is another checker.
#[derive(Clone, PartialEq)]
struct Rules {
    check: HealthCheck,
    /// The question may name it.
    address: BackendAddress,
    watches_departed: bool,
    announces: Option<Version>,
    tls: Option<BackendTls>,
}

impl<C: Connect> Checkers<C> {
    pub(super) fn new(board: Rc<HealthStates>, counters: Arc<HealthCounters>, connect: C) -> Self {
        let (slots, connect) = (Rc::new(Slots::default()), Rc::new(connect));
        Self { board, counters, slots, connect, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Checks the backends of this generation from now on, those that stay as before. Call it after the board has
    /// adopted the generation.
    pub(super) fn adopt(&mut self, snapshot: &Snapshot) {
        let wanted = wanted(snapshot);
        self.running.retain(|which, running| {
            let stays = wanted.get(which) == Some(&running.rules);
            if !stays {
                running.handle.abort();
            }
            stays
        });
        let new: Vec<_> = wanted.into_iter().filter(|(which, _)| !self.running.contains_key(which)).collect();
        let spread = FIRST_SPREAD_EACH.saturating_mul(u32::try_from(new.len()).unwrap_or(u32::MAX));
        let spread = spread.min(limits::FIRST_CHECK_SPREAD_MAX);
        for (which, rules) in new {
            let checker = self.checker(which, &rules);
            let handle = self.tasks.spawn_local(checker.run(spread));
            self.running.insert(which, Running { rules, handle });
        }
    }

    fn checker(&self, which: BackendKey, rules: &Rules) -> Checker<C> {
        let judge = Rc::new(Judge {
            which,
            check: rules.check.clone(),
            question: Question::new(&rules.check, &rules.address, rules.tls.as_ref()),
            announces: rules.announces,
            board: Rc::clone(&self.board),
            checks: self.counters.backend(which),
            slots: Rc::clone(&self.slots),
            connect: Rc::clone(&self.connect),
        });
        Checker { judge, watches_departed: rules.watches_departed }
    }
}

/// Returns which backends are checked, and how.
fn wanted(snapshot: &Snapshot) -> BTreeMap<BackendKey, Rules> {
    let mut wanted = BTreeMap::new();
    for shared in snapshot.upstreams() {
        let Some(check) = &shared.config().healthcheck else { continue };
        let watches_departed = shared.config().on_down == OpenSessions::Close;
        for (backend, entry) in shared.numbers().iter().zip(&shared.config().backends) {
            if entry.admin_state != AdminState::Maint {
                let rules = Rules {
                    check: check.clone(),
                    address: entry.address.clone(),
                    watches_departed,
                    announces: shared.config().send_proxy,
                    tls: shared.tls_of(*backend).cloned(),
                };
                wanted.insert(BackendKey { upstream: shared.id(), backend: *backend }, rules);
            }
        }
    }
    wanted
}
