//! The process: its shards, its sessions, its health thread, and the events that come to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use ringway::admission::Limit;
use ringway::base::ShardPlace;
use ringway::base::{BackendId, CloseReason, ShardId};
use ringway::shard::Phase;
use ringway::upstream::{SharedUpstream, Snapshot, UpstreamTable};

use super::health::HealthThread;
use super::session::{Answer, End, Session, Stage};
use super::setup::{Event, Plan};
use super::shadow::{Budget, Line, View};
use super::shard::Shard;
use super::trace::note;

pub struct World {
    pub rng: Rng,
    pub plan: Plan,
    /// Milliseconds.
    pub now: u64,
    pub shards: Vec<Shard>,
    pub sessions: Vec<Session>,
    pub ids: u32,
    pub panics: u64,
    pub shared: Arc<SharedUpstream>,
    pub limit: Arc<Limit>,
    pub health: HealthThread,
    /// How the backends really are.
    pub is_well: Vec<bool>,
    /// A shard is in the middle of a step.
    is_between: bool,
    // Shadows.
    pub line: Line,
    pub budget: Budget,
    /// Where the client with a key goes when these are the candidates.
    pub homes: BTreeMap<(Vec<(BackendId, u32)>, u64), BackendId>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::new(&mut rng);
        let upstream = plan.upstream();
        let backends = upstream.backends.len();
        let mut health = HealthThread::new(upstream);
        let config = Arc::new(plan.config.clone());
        let on_report = health.on_report();
        let snapshot = Snapshot::build(config, plan.shards, Some(&on_report), None).expect("numbers");
        let shared = Arc::clone(&snapshot.upstreams()[0]);
        health.failures = shared.failures().cloned();
        let shard = |index: usize| {
            let by = ShardId(index as u16);
            let place = ShardPlace { shard: by, shards: plan.shards, seed };
            Shard {
                now: 0,
                table: UpstreamTable::new(Arc::clone(&shared), place, None),
                counters: Arc::default(),
                phase: Phase::Running,
                states: None,
                new_phase: None,
                grants: VecDeque::new(),
                is_notified: false,
                pooled: (0..backends).map(|_| Vec::new()).collect(),
                view: View::new(backends),
                closed: [0; CloseReason::COUNT],
            }
        };
        Self {
            now: 0,
            shards: (0..plan.shards).map(shard).collect(),
            sessions: Vec::new(),
            ids: 0,
            panics: 0,
            limit: Arc::new(Limit::new(plan.sessions, plan.shards)),
            health,
            is_well: (0..backends).map(|_| rng.u32(..5) > 0).collect(),
            is_between: false,
            line: Line::default(),
            budget: Budget::new(upstream.retry_budget),
            homes: BTreeMap::new(),
            shared,
            plan,
            rng,
        }
    }

    /// A whole run.
    pub fn run(&mut self) {
        // Mostly a process has found its backends before the first client comes.
        if self.rng.u32(..5) > 0 {
            self.resolve();
            (0..4 * self.is_well.len()).for_each(|_| self.check_backend());
            self.settle();
        }
        for _ in 0..self.plan.steps {
            self.step();
            self.check();
        }
        self.finish();
    }

    fn step(&mut self) {
        let shard = self.rng.usize(..self.shards.len());
        match self.plan.event(&mut self.rng) {
            Event::Arrive => {
                // A shard that has slept looks at the clock first.
                if self.rng.u32(..4) > 0 {
                    self.turn(shard);
                }
                self.arrive(shard);
            }
            Event::Crowd => {
                for _ in 0..self.rng.u32(..60) {
                    let shard = self.rng.usize(..self.shards.len());
                    self.arrive(shard);
                }
            }
            Event::Storm => self.storm(),
            Event::Turn => self.turn(shard),
            Event::Mail => {
                self.take_mail(shard);
            }
            Event::Poll => {
                // Once in a while a task is woken for nothing.
                let any = self.rng.u32(..10) == 0;
                if let Some(index) = self.any_session(|session| any || session.woken) {
                    self.poll(index);
                }
            }
            Event::Clock => self.clock(),
            Event::Answer => self.answer(),
            Event::Relay => self.relay(),
            Event::Pool if self.plan.pools => self.pool(),
            Event::Pool => {}
            Event::ClientLeaves => self.client_leaves(),
            Event::SessionPanics => {
                if let Some(index) = self.any_session(|_| true) {
                    note(self.now, format_args!("session {} panics", self.sessions[index].id));
                    self.panics += 1;
                    self.drop_session(index);
                }
            }
            Event::BackendChanges => self.backend_changes(),
            Event::Check => self.check_backend(),
            Event::Report => {
                self.take_report();
            }
            Event::HealthTimer => {
                self.health_timer();
            }
            Event::Publish => {
                self.publish();
            }
            Event::Resolve => self.resolve(),
            Event::Settle => self.settle(),
        }
    }

    /// Other shards go on while one of them is in the middle of a step.
    pub fn let_others_run(&mut self, shard: usize) {
        if std::mem::replace(&mut self.is_between, true) {
            return;
        }
        for _ in 0..self.rng.u32(..4) {
            let ends = self.rng.bool();
            let others = |other: &Session| other.shard != shard && (ends || other.woken);
            if let Some(index) = self.any_session(others) {
                if let Stage::Relaying { end, .. } = &mut self.sessions[index].stage {
                    *end = Some(End::Other(CloseReason::Normal));
                }
                self.poll(index);
            }
        }
        self.is_between = false;
    }

    /// For a while all connects are refused, on all shards.
    fn storm(&mut self) {
        note(self.now, format_args!("all connects are refused"));
        for _ in 0..self.rng.u32(..8) {
            for session in &mut self.sessions {
                if let Stage::Connecting { answer, .. } = &mut session.stage {
                    answer.get_or_insert(Answer::Refused);
                    session.woken = true;
                }
            }
            while let Some(index) = self.any_session(|session| session.woken) {
                self.poll(index);
                self.check();
            }
        }
    }

    /// Time goes on; now and then the process was stopped for long.
    fn clock(&mut self) {
        let jump = match self.rng.u32(..40) {
            0 => self.rng.u64(..100_000),
            1 | 2 => self.rng.u64(..3_000),
            _ => self.rng.u64(..=self.plan.pace),
        };
        self.now += jump;
        note(self.now, format_args!("{jump} ms later"));
    }

    /// Delivers everything there is and polls every task that has a reason, until nothing is left to do at
    /// this time.
    fn settle(&mut self) {
        note(self.now, format_args!("everything is delivered"));
        for _ in 0..10_000 {
            let mut is_busy = false;
            while self.take_report() || self.health_timer() || self.publish() {
                is_busy = true;
            }
            for shard in 0..self.shards.len() {
                self.turn(shard);
                is_busy |= self.take_mail(shard);
            }
            if let Some(index) = self.any_session(|session| session.woken) {
                self.poll(index);
                is_busy = true;
            }
            self.check();
            if !is_busy {
                return self.check_settled();
            }
        }
        panic!("it never settles");
    }

    /// No client comes any more; those that are there come to an end, by itself or because the process
    /// closes.
    fn finish(&mut self) {
        note(self.now, format_args!("the end begins"));
        let phase = if self.rng.bool() { Phase::Draining } else { Phase::Closing };
        self.shards.iter_mut().for_each(|shard| shard.new_phase = Some(phase));
        for round in 0.. {
            self.settle();
            if self.sessions.is_empty() {
                break;
            }
            assert!(round < 1_000 && phase != Phase::Closing, "{} sessions never end", self.sessions.len());
            for session in &mut self.sessions {
                match &mut session.stage {
                    Stage::Connecting { answer, .. } => *answer = Some(Answer::Connected),
                    Stage::Relaying { end, .. } => *end = Some(End::Other(CloseReason::Normal)),
                    Stage::Waiting { .. } | Stage::Between => continue,
                }
                session.woken = true;
            }
            self.now += 10;
        }
        while let Some(due) = self.health.next_due() {
            assert!(due > self.now, "the health thread was settled");
            self.now = due;
            self.settle();
        }
        self.check_end();
    }
}
