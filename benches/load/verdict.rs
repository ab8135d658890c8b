//! What Ringway is meant to reach, and whether it did.

use std::fmt::Write as _;

use crate::figures::{AGAIN, Measure, OWN, Outcome, PEERS, Spread};
use crate::table::ratio_cell;
use crate::workloads::{
    CONNECT, ECHO_16K, ECHO_64, ECHO_1000, IDLE, MIXED, PACED_16K, PACED_64, PACED_64K, PACED_256K,
    PACED_ASK_16K, PACED_ASK_64K, PACED_ASK_256K, STORM, TLS_FULL, TLS_PACED_16K, TLS_RESUMED,
    TLS_TO_BACKEND, TLS_TO_CLIENT, TO_BACKEND_1, TO_BACKEND_16, TO_CLIENT_1, TO_CLIENT_16, WORKLOADS,
};

use Bound::{Above, AtLeast, AtMost};
use Measure::{Cpu, P99, Rate};

/// The subjects a target speaks of.
#[derive(Clone, Copy)]
enum Against {
    /// Each of these; the default and the tuned row are judged apart.
    Each(&'static [&'static str]),
    /// That of the two tuned rows which uses less CPU.
    BetterTuned,
    /// That of all the peers' rows which uses the least CPU.
    BestPeer,
    /// The figure itself.
    Nobody,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Above(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            AtLeast(bound) => value >= bound,
            AtMost(bound) => value <= bound,
            Above(bound) => value > bound,
        }
    }
}

struct Target {
    workload: &'static str,
    against: Against,
    measure: Measure,
    bound: Bound,
    /// Where the generator was the limit of Ringway's own row, this decides instead.
    if_generator_is_the_limit: Option<(Measure, Bound)>,
}

const HAPROXY: Against = Against::Each(&["haproxy", "haproxy auto", "haproxy tuned"]);
const HAPROXY_DEFAULT: Against = Against::Each(&["haproxy"]);
const NGINX: Against = Against::Each(&["nginx", "nginx tuned"]);
const BOTH: Against = Against::Each(&["haproxy", "haproxy auto", "haproxy tuned", "nginx", "nginx tuned"]);
const BOTH_WITH_TLS: Against = Against::Each(&["haproxy", "haproxy tuned", "nginx", "nginx tuned"]);

const fn target(workload: &'static str, against: Against, measure: Measure, bound: Bound) -> Target {
    Target { workload, against, measure, bound, if_generator_is_the_limit: None }
}

const TARGETS: &[Target] = &[
    target(ECHO_64, HAPROXY, Rate, AtLeast(1.25)),
    target(ECHO_64, NGINX, Rate, AtLeast(1.05)),
    target(ECHO_1000, BOTH, Rate, AtLeast(1.20)),
    target(ECHO_16K, BOTH, Rate, AtLeast(1.05)),
    target(PACED_64, HAPROXY, Cpu, AtMost(0.85)),
    target(PACED_64, NGINX, Cpu, AtMost(0.95)),
    target(PACED_16K, Against::BestPeer, Cpu, AtMost(0.95)),
    target(PACED_64K, Against::BestPeer, Cpu, AtMost(1.0)),
    target(PACED_256K, Against::BestPeer, Cpu, AtMost(0.95)),
    target(PACED_ASK_16K, Against::BestPeer, Cpu, AtMost(1.0)),
    target(PACED_ASK_64K, Against::BestPeer, Cpu, AtMost(1.0)),
    target(PACED_ASK_256K, Against::BestPeer, Cpu, AtMost(1.0)),
    target(STORM, HAPROXY, P99, AtMost(1.0)),
    target(CONNECT, HAPROXY, Rate, AtLeast(1.15)),
    target(CONNECT, HAPROXY, Cpu, AtMost(0.85)),
    Target {
        if_generator_is_the_limit: Some((Cpu, AtMost(0.92))),
        ..target(CONNECT, NGINX, Rate, AtLeast(1.05))
    },
    target(TO_BACKEND_16, HAPROXY_DEFAULT, Cpu, AtMost(0.40)),
    target(TO_BACKEND_16, Against::BetterTuned, Cpu, AtMost(0.90)),
    target(TO_CLIENT_16, HAPROXY_DEFAULT, Cpu, AtMost(0.40)),
    target(TO_CLIENT_16, Against::BetterTuned, Cpu, AtMost(0.90)),
    target(TO_BACKEND_1, HAPROXY_DEFAULT, Cpu, AtMost(0.55)),
    target(TO_BACKEND_1, HAPROXY_DEFAULT, Rate, Above(1.0)),
    target(TO_BACKEND_1, Against::BetterTuned, Cpu, AtMost(1.0)),
    target(TO_CLIENT_1, HAPROXY_DEFAULT, Cpu, AtMost(0.55)),
    target(TO_CLIENT_1, HAPROXY_DEFAULT, Rate, Above(1.0)),
    target(TO_CLIENT_1, Against::BetterTuned, Cpu, AtMost(1.0)),
    target(IDLE, Against::Nobody, Rate, AtMost(512.0)),
    target(MIXED, HAPROXY, P99, AtMost(1.0)),
    Target {
        if_generator_is_the_limit: Some((Cpu, AtMost(1.0))),
        ..target(TLS_FULL, BOTH_WITH_TLS, Rate, AtLeast(1.0))
    },
    Target {
        if_generator_is_the_limit: Some((Cpu, AtMost(1.0))),
        ..target(TLS_RESUMED, BOTH_WITH_TLS, Rate, AtLeast(1.0))
    },
    target(TLS_TO_BACKEND, BOTH_WITH_TLS, Cpu, AtMost(1.0)),
    target(TLS_TO_CLIENT, BOTH_WITH_TLS, Cpu, AtMost(1.0)),
    target(TLS_PACED_16K, BOTH_WITH_TLS, Cpu, AtMost(1.0)),
];

/// A target against one subject, judged.
struct Verdict {
    workload: &'static str,
    against: String,
    target: String,
    measured: String,
    verdict: &'static str,
    remark: &'static str,
}

/// The table of the targets, as far as they were measured.
pub(crate) fn verdicts(outcomes: &[Outcome]) -> String {
    let verdicts: Vec<Verdict> = TARGETS.iter().flat_map(|target| target.judge(outcomes)).collect();
    let count = |verdict: &str| verdicts.iter().filter(|judged| judged.verdict == verdict).count();
    let mut text = format!(
        "Targets: {} reached, {} missed, {} not measured. Measured is the median of Ringway's ratios to the other \
         subject, each within one round, and (min to max).\n",
        count(REACHED),
        count(MISSED),
        count(UNKNOWN)
    );
    if count(UNKNOWN) < verdicts.len() {
        let head = ["workload", "against", "target", "measured"];
        let _ = writeln!(text, "  {:<48} {:<30} {:<24} {:<24} verdict", head[0], head[1], head[2], head[3]);
    }
    for judged in verdicts.iter().filter(|judged| judged.verdict != UNKNOWN || !judged.remark.is_empty()) {
        let _ = writeln!(
            text,
            "  {:<48} {:<30} {:<24} {:<24} {}{}",
            judged.workload, judged.against, judged.target, judged.measured, judged.verdict, judged.remark
        );
    }
    text + &floor(outcomes)
}

/// Ringway against itself: how far apart two rows of one build are.
fn floor(outcomes: &[Outcome]) -> String {
    let ratios = outcomes.iter().filter_map(|outcome| outcome.ratio(AGAIN, Cpu)).map(|ratio| ratio.median);
    Spread::of(ratios).map_or_else(String::new, |medians| {
        format!(
            "Ringway against itself at fixed rates: medians of the CPU ratios from {:.2} to {:.2}. What lies within \
             cannot be told apart.\n",
            medians.min, medians.max
        )
    })
}

const REACHED: &str = "reached";
const MISSED: &str = "MISSED";
const UNKNOWN: &str = "not measured";

impl Target {
    fn judge(&self, outcomes: &[Outcome]) -> Vec<Verdict> {
        debug_assert!(WORKLOADS.iter().any(|workload| workload.name == self.workload), "{}", self.workload);
        let outcome = outcomes.iter().find(|outcome| outcome.workload == self.workload);
        match self.against {
            Against::Nobody => vec![self.judge_figure(outcome)],
            Against::Each(subjects) => subjects
                .iter()
                .map(|subject| self.judge_ratio(outcome, Some(*subject), (*subject).to_owned()))
                .collect(),
            Against::BetterTuned => {
                vec![self.judge_lowest(outcome, "better tuned", &["haproxy tuned", "nginx tuned"])]
            }
            Against::BestPeer => vec![self.judge_lowest(outcome, "best", PEERS)],
        }
    }

    fn judge_lowest(&self, outcome: Option<&Outcome>, what: &str, subjects: &[&str]) -> Verdict {
        let lowest = outcome.and_then(|outcome| outcome.lowest(subjects, self.measure));
        self.judge_ratio(outcome, lowest, format!("{what}: {}", lowest.unwrap_or("none")))
    }

    fn judge_ratio(&self, outcome: Option<&Outcome>, subject: Option<&str>, against: String) -> Verdict {
        let limited =
            outcome.and_then(|outcome| outcome.row(OWN)).is_some_and(|row| row.generator_is_the_limit());
        let (measure, bound) =
            self.if_generator_is_the_limit.filter(|_| limited).unwrap_or((self.measure, self.bound));
        let ratio = outcome.zip(subject).and_then(|(outcome, subject)| outcome.ratio(subject, measure));
        let was_measured =
            outcome.zip(subject).is_some_and(|(outcome, subject)| outcome.row(subject).is_some());
        let missed_by_rate = ratio.is_some_and(|ratio| !bound.holds(ratio.median)) && measure == Rate;
        Verdict {
            workload: self.workload,
            against,
            target: target_text(measure, bound),
            measured: ratio_cell(ratio),
            verdict: verdict(ratio, bound),
            remark: match ratio {
                None if was_measured => " (no round without many retransmissions)",
                Some(_) if limited && missed_by_rate => " (the generator was the limit)",
                _ => "",
            },
        }
    }

    fn judge_figure(&self, outcome: Option<&Outcome>) -> Verdict {
        let figure = outcome.and_then(|outcome| outcome.row(OWN)).and_then(|row| row.spread(self.measure));
        let (AtMost(bound) | AtLeast(bound) | Above(bound)) = self.bound;
        Verdict {
            workload: self.workload,
            against: "-".to_owned(),
            target: format!("resident bytes <= {bound:.0}"),
            measured: figure.map_or("-".to_owned(), |figure| format!("{:.0}", figure.median)),
            verdict: verdict(figure, self.bound),
            remark: "",
        }
    }
}

fn verdict(measured: Option<Spread>, bound: Bound) -> &'static str {
    match measured {
        None => UNKNOWN,
        Some(measured) if bound.holds(measured.median) => REACHED,
        Some(_) => MISSED,
    }
}

fn target_text(measure: Measure, bound: Bound) -> String {
    let name = match measure {
        Rate => "rate",
        Cpu => "CPU",
        Measure::P50 => "p50",
        P99 => "p99",
        Measure::P999 => "p99.9",
        Measure::Max => "max",
        Measure::Beside => "Gbit/s beside",
        Measure::Segments => "segments",
        Measure::Kernel => "kernel memory",
        Measure::Family => "memory",
    };
    match bound {
        AtLeast(bound) => format!("{name} >= {bound:.2} x"),
        AtMost(bound) => format!("{name} <= {bound:.2} x"),
        Above(bound) => format!("{name} > {bound:.2} x"),
    }
}
