//! What a comparison leaves behind: the file, and what it says of itself.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock::Usage;
use crate::costs::Costs;
use crate::figures::Outcome;
use crate::machine::Machine;
use crate::table::load_curve;
use crate::verdict::verdicts;
use crate::workloads::LOADS;

/// What every reader of the figures must know.
const UNFAIR: &[&str] = &[
    "Generator, backend and balancer share one machine and the loopback device: no network card, no interrupts, \
     no loss. On loopback the receiver's part of the kernel's work is done by who sends, so it is in the \
     sender's CPU.",
    "With two cores, generator and backend share one. Then no balancer can be seen faster than that core allows, \
     however cheap it is: rows where it, or one of the two threads, was busy for 95 % of the time say \
     \"generator\" under `limit`, and only their CPU columns compare balancers: neither their rates nor, at a \
     fixed rate, the tails of their latencies. The direct row is such a row wherever it has no balancer to wait for.",
    "One core for each balancer, and two in the rows of one shard and two, which share the second one with generator and backend \
     where there are no more: nothing is said of how they scale over cores.",
    "While configurations are reloaded, HAProxy and nginx run with a master, as they have to for that; Envoy and sozu are \
     left out: the one reads its file only at its start, the other takes changes over its control socket. No session is \
     open for long, so old workers end at once.",
    "Interrupts between cores are those of the whole machine; contended locks and switches are those of the balancer.",
    "HAProxy and nginx are Debian's packages, not their newest versions, and built for any machine; Envoy and sozu are recent \
     releases; Ringway is built from this tree with link-time optimisation, sozu from its crate as its own repository does it.",
    "sozu closes both sides of a session when the client has ended its stream and what was under way is delivered: the \
     backend's receipt is lost, and of bulk to the client sessions failed now and then, so it is in no row with bulk. The queue of \
     its listeners holds 1,024 connections, those of the others 4,096.",
    "HAProxy comes as it is, without splicing; `auto`, as an expert sets it; and `tuned`, with every byte spliced, which \
     makes small messages dearer: its best row is the one to look at. nginx and Envoy cannot splice; sozu does where it is \
     built so, which is its tuned row. Envoy runs with its defaults, and so does Ringway but in its tuned row where sessions \
     connect.",
    "With TCP Fast Open, Ringway sends first bytes to the backend with the SYN; HAProxy 2.6 is told to and does not; nginx and \
     Envoy take them from clients alone.",
    "Nothing is logged and no backend is checked by any of them, but the peers can do much that Ringway \
     cannot, and carry it along.",
    "`cores` is how busy the cores of generator and backend were, `strangers` the share of all cores that went to \
     processes without a part in the run. Where strangers were about, all of it is worth little.",
    "All subjects run all the time on the balancer's core, one of them with work: the timers of the others \
     disturb it a little.",
    "CPU is the user and system time of all processes of a balancer. Interrupt work of the kernel that falls on somebody \
     else's time is in nobody's row. Resident memory lacks what the kernel keeps for a socket; kernel memory and the \
     counters of TCP are the whole machine's, whoever caused them.",
    "With TLS, the client offers nothing but TLS 1.3, TLS_AES_256_GCM_SHA384 and X25519, and the certificate is ECDSA P-256: \
     all balancers do the same arithmetic, HAProxy and nginx by Debian's OpenSSL 3, Envoy by BoringSSL, Ringway by aws-lc. \
     The generator does not verify the signature, to be cheap. The idle sessions' tickets and certificates are in the \
     memory of all.",
    "Who wrote Ringway chose the workloads and wrote the generator.",
];

/// Strangers may take this share of all cores without being mentioned: the clocks of the cores are as coarse.
const DISTURBED: f64 = 0.1;

/// One run of the generator against the backend alone, before anything is compared.
#[derive(Serialize, Deserialize)]
pub(crate) struct Calibration {
    pub(crate) name: String,
    pub(crate) messages_per_second: f64,
    pub(crate) p99_us: f64,
    pub(crate) usage: Usage,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// A smoke run, whose figures mean nothing.
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) unfair: Vec<String>,
    /// Packets that loopback dropped because too many waited; each stalls a session.
    #[serde(default)]
    pub(crate) dropped: u64,
    /// Absent in reports of before.
    #[serde(default)]
    pub(crate) costs: Option<Costs>,
    pub(crate) calibration: Vec<Calibration>,
    pub(crate) workloads: Vec<Outcome>,
    /// Why nothing is here behind these workloads.
    #[serde(default)]
    pub(crate) failed: Option<String>,
}

impl Report {
    pub(crate) fn new(machine: Machine, quick: bool, rounds: usize, seconds: f64) -> Report {
        let unfair = UNFAIR.iter().map(|&text| text.to_owned()).collect();
        Report {
            machine,
            quick,
            rounds,
            seconds,
            unfair,
            dropped: 0,
            costs: None,
            calibration: Vec::new(),
            workloads: Vec::new(),
            failed: None,
        }
    }

    /// The outcomes of these workloads, as far as they were measured.
    pub(crate) fn outcomes(&self, workloads: &[&str]) -> Vec<&Outcome> {
        let find = |name: &&str| self.workloads.iter().find(|outcome| outcome.workload == **name);
        workloads.iter().filter_map(find).collect()
    }

    pub(crate) fn read(file: &Path) -> Result<Report, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
    }

    pub(crate) fn write(&self, file: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))
    }

    /// What stands above the tables.
    pub(crate) fn head(&self) -> String {
        let Machine { commit, load_before, memory_gib, .. } = &self.machine;
        format!(
            "{}, {memory_gib} GiB; load before {load_before}\n{}\ncommit {commit}; {} rounds of {} s a subject and \
             workload, interleaved",
            self.machine.line(),
            self.machine.versions_line(),
            self.rounds,
            self.seconds
        )
    }

    /// What stands below the tables.
    pub(crate) fn tail(&self) -> String {
        let mut text = load_curve(&self.outcomes(&LOADS)) + &verdicts(&self.workloads);
        if self.quick {
            text += "This was a smoke run: it says that everything runs, not how fast.\n";
        }
        text += &self.disturbance();
        text += &format!("Packets that loopback dropped: {}.\n", self.dropped);
        text += "\nUnfair, and known:\n";
        for unfair in &self.unfair {
            text += &format!("* {unfair}\n");
        }
        text
    }

    /// How many runs other processes took part of the CPU from.
    fn disturbance(&self) -> String {
        let rows = self.workloads.iter().flat_map(|outcome| &outcome.rows);
        let strangers: Vec<f64> =
            rows.flat_map(|row| &row.rounds).filter_map(|figure| figure.usage?.strangers).collect();
        let disturbed = strangers.iter().filter(|share| **share > DISTURBED).count();
        let mut text = format!(
            "Strangers: processes without a part in it took more than {:.0} % of the cores in {disturbed} of {} runs.\n",
            DISTURBED * 100.0,
            strangers.len()
        );
        if 10 * disturbed > strangers.len() {
            text += "WARNING: the machine was not quiet; measure again before anything is quoted.\n";
        }
        text
    }

    /// What stands beside each figure.
    pub(crate) fn caption(&self) -> String {
        format!(
            "{}. {}{} rounds of {} s, interleaved; {}, commit {}",
            self.machine.line(),
            if self.quick { "SMOKE RUN, " } else { "" },
            self.rounds,
            self.seconds,
            self.machine.date,
            self.machine.commit
        )
    }
}
