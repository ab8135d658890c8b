//! The section `pool` of an upstream: ready backend connections, and which come back from sessions.

use std::time::Duration;

use super::healthcheck::bytes;
use super::model::{Backend, Clients, PoolRules, ResetRules, Reuse};
use super::relations;
use super::section::Section;
use super::values::{count, duration, off_or, one_of};
use crate::base::limits;

const REUSES: &[(&str, Reuse)] = &[("untouched", Reuse::Untouched), ("reset", Reuse::Reset)];
const CLIENTS: &[(&str, Clients)] = &[("untrusted", Clients::Untrusted), ("trusted", Clients::Trusted)];

pub(super) fn pool(s: &mut Section<'_>, backends: &[Backend]) -> PoolRules {
    s.section_or_off("pool", |s| {
        let size = s.value("size", 0, count(0..=limits::POOL_MAX));
        let max_idle = s.value("max_idle", Some(Duration::from_secs(60)), off_or(duration));
        let reuse = s.value("reuse", None, off_or(one_of(REUSES))).unwrap_or(Reuse::Off);
        let clients = s.value("clients", Clients::Untrusted, one_of(CLIENTS));
        if size == 0 && reuse != Reuse::Off {
            s.error_at("reuse", "`reuse` needs a pool to give connections back to; write a `size` above 0");
        }
        if reuse == Reuse::Reset && clients != Clients::Trusted {
            let message = "`reuse: reset` needs `clients: trusted`: a hostile client can forge the answer to \
                           `send`";
            s.error_at("reuse", message);
        }
        if reuse == Reuse::Reset && !s.has("reset") {
            s.error("`reset` is missing; `reuse: reset` needs what to `send` and what to `expect`");
        }
        if reuse != Reuse::Reset {
            s.forbid("reset", "it has no effect without `reuse: reset`");
        }
        let reset = (reuse == Reuse::Reset && s.has("reset")).then(|| s.section("reset", reset));
        let pool = PoolRules { size, max_idle, reuse, clients, reset: reset.flatten() };
        relations::pool_of_use(s, &pool, backends);
        pool
    })
}

fn reset(s: &mut Section<'_>) -> Option<ResetRules> {
    let (send, expect) = (s.required("send", bytes), s.required("expect", bytes));
    let timeout = s.value("timeout", Duration::from_secs(1), duration);
    Some(ResetRules { send: send?, expect: expect?, timeout })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn read(pool: &str) -> Result<PoolRules, String> {
        let text = format!(
            "loadbalancer: {{listen_address: ':1'}}\nbackends: [{{address: a, port: 1}}]\npool: {pool}\n"
        );
        let parsed = parse("f", text.as_bytes()).map_err(|report| report.to_string())?;
        Ok(parsed.config.upstreams[0].pool.clone())
    }

    #[test]
    fn a_reset_needs_trusted_clients_and_its_words() {
        let whole =
            "{size: 2, reuse: reset, clients: trusted, reset: {send: 'RESET\\r\\n', expect: '+RESET\\r\\n'}}";
        let reset = read(whole).expect("valid").reset.expect("there");
        assert_eq!((&*reset.send, &*reset.expect), (&b"RESET\r\n"[..], &b"+RESET\r\n"[..]));
        assert_eq!(reset.timeout, Duration::from_secs(1));
        for (pool, words) in [
            ("{size: 2, reuse: reset, reset: {send: a, expect: b}}", "needs `clients: trusted`"),
            ("{size: 2, reuse: reset, clients: trusted}", "`reset` is missing"),
            ("{size: 2, reuse: reset, clients: trusted, reset: {send: a}}", "`expect` is missing"),
            ("{size: 2, reset: {send: a, expect: b}}", "has no effect without `reuse: reset`"),
            ("{reuse: untouched}", "write a `size` above 0"),
            ("{size: 4097}", "from 0 to 4096"),
            ("{size: 1, reuse: always}", "is not `untouched` or `reset`, or `off`"),
        ] {
            let report = read(pool).expect_err(pool);
            assert!(report.contains(words) && report.contains("1 error"), "{pool}: {report}");
        }
    }
}
