//! Speed, measured from outside: `cargo bench` compares Ringway with no balancer at all, HAProxy, nginx, Envoy and sozu on
//! the same work in the same run. The same program is load generator and backend; the comparison starts it
//! so.
//!
//! ```text
//! cargo bench [-- [--quick] [--rounds N] [--seconds S] [--only TEXT]... [--other NAME=BINARY]... [--figures DIRECTORY]]
//! cargo bench --bench load -- --from FILE.json [--figures DIRECTORY]    a report of before, printed and drawn again
//! load compare ...                                        the same
//! load backend --echo PORT --sink PORT --source PORT --both PORT --answer PORT
//! load echo    --sessions N --bytes N --seconds S [--rate PER_SECOND] ADDRESS
//! load ask     --sessions N --bytes N --seconds S [--rate PER_SECOND] ADDRESS    the bytes are those of the answer
//! load connect --sessions N --bytes N|--message FILE --seconds S [--rate PER_SECOND] ADDRESS
//! load storm   --sessions N --bytes N --seconds S --clients N ADDRESS
//! load bulk    --sessions N --seconds S --direction to-backend|to-client|both [--rate GBIT_PER_SECOND]
//!              [--until-stdin-ends] ADDRESS
//! load idle    --sessions N ADDRESS                       until its stdin ends
//! ```
//!
//! `--tls CERTIFICATE.pem` has any of them speak TLS to a server with that certificate, and `--resume` has it resume
//! sessions: a full handshake is an error then.
//!
//! Each generator prints one line of JSON, and watches the CPU of `--balancer PID` and `--backend PID`. One
//! thread with epoll does all of it: the balancer is what is measured, so its peers must be cheap, and every
//! echoed byte is compared with the byte sent.

mod backend;
mod clock;
mod compare;
mod costs;
mod counters;
mod epoll;
mod figures;
mod generator;
mod histogram;
mod kernel;
mod machine;
mod network;
mod options;
mod pattern;
mod peers;
mod plan;
mod plots;
mod process;
mod progress;
mod report;
mod request;
mod table;
mod tls;
mod topology;
mod verdict;
mod wire;
mod workloads;

use std::process::ExitCode;

use options::Options;

fn main() -> ExitCode {
    epoll::raise_descriptor_limit();
    let mut options = Options::of_process();
    // What cargo hands to every benchmark.
    let command = if options.flag("--bench") {
        "compare".to_owned()
    } else if let Some(command) = options.command() {
        command
    } else {
        eprintln!(
            "usage: cargo bench -- [--quick] [--rounds N] [--seconds S] [--only TEXT] [--other NAME=BINARY] [--figures DIRECTORY]"
        );
        return ExitCode::from(2);
    };
    let done = match command.as_str() {
        "compare" => compare::run(options),
        "backend" => backend::run(options),
        other => generator::run(other, options).unwrap_or_else(|| Err(format!("no command '{other}'"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load {command}: {error}");
            ExitCode::FAILURE
        }
    }
}
