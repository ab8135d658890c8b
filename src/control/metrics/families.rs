//! The families of metrics, object by object.

use std::fmt;

use super::encoder::{Families, Series};
use crate::base::{CloseReason, ConnectFailure, DenyReason, TlsFailure, TlsHandshake};
use crate::control::status::{BackendStatus, ListenerStatus, Status, UpstreamStatus};
use crate::net::{AcceptError, LocalFailure};
use crate::telemetry::counters::CheckCounters;
use crate::upstream::Serving;

pub(super) fn process(status: &Status, out: &mut Families<'_>) -> fmt::Result {
    out.gauge("ringway_build_info", "The binary that runs; always 1", |series| {
        let version = env!("CARGO_PKG_VERSION");
        series.level(&[("version", version), ("commit", env!("RINGWAY_COMMIT"))], 1)
    })?;
    out.gauge("ringway_config_generation", "Generation of the configuration that runs", |series| {
        series.level(&[], status.generation as f64)
    })?;
    out.counter("ringway_config_reloads", "Reloads of the configuration by result", |series| {
        results(series, status.reloads.success, status.reloads.failure)
    })?;
    out.gauge("ringway_config_last_reload_successful", "Whether the last reload was applied", |series| {
        series.level(&[], u8::from(status.reloads.last_successful))
    })?;
    out.gauge(
        "ringway_config_last_reload_success_timestamp_seconds",
        "When a configuration was taken last, that of the start included",
        |series| series.level(&[], status.reloads.last_success_unix_seconds as f64),
    )?;
    out.counter("ringway_upgrades", "Replacements of the process by result", |series| {
        results(series, status.upgrades.success, status.upgrades.failure)
    })?;
    out.counter(
        "ringway_log_dropped",
        "Log records lost because a target was slow, full or broken",
        |series| {
            series.count(&[("log", "process")], status.log_dropped.process)?;
            series.count(&[("log", "access")], status.log_dropped.access)
        },
    )?;
    out.gauge("ringway_sources", "Sources of clients that per_source knows", |series| {
        series.level(&[], status.sources.tracked as f64)
    })?;
    out.counter(
        "ringway_sources_overflowed",
        "Clients of sources beyond the bound of those that per_source knows",
        |series| series.count(&[], status.sources.overflowed),
    )?;
    out.counter(
        "ringway_local_failures",
        "Connects that failed because this process lacked a resource",
        |series| {
            for reason in LocalFailure::ALL {
                let sum = status.shards.iter().map(|shard| shard.work.local_failures[reason as usize]).sum();
                series.count(&[("reason", reason.name())], sum)?;
            }
            Ok(())
        },
    )?;
    out.counter(
        "ringway_spliced_bytes",
        "Bytes delivered by splicing, within ringway_bytes_total",
        |series| {
            let sum = |of: fn(&crate::telemetry::counters::WorkCounters<u64>) -> u64| {
                status.shards.iter().map(|shard| of(&shard.work)).sum()
            };
            series.count(&[("direction", "to_backend")], sum(|work| work.spliced_to_backend))?;
            series.count(&[("direction", "to_client")], sum(|work| work.spliced_to_client))
        },
    )
}

fn results(series: &mut Series<'_>, success: u64, failure: u64) -> fmt::Result {
    series.count(&[("result", "success")], success)?;
    series.count(&[("result", "failure")], failure)
}

/// What is counted of TLS, for the listeners that terminate it.
fn tls(status: &Status, out: &mut Families<'_>) -> fmt::Result {
    let listeners = || status.listeners.iter();
    out.counter(
        "ringway_tls_handshakes",
        "TLS handshakes of clients that succeeded: full or resumed",
        |series| {
            listeners().try_for_each(|listener| {
                TlsHandshake::ALL.into_iter().try_for_each(|kind| {
                    let labels = [("listener", &*listener.name), ("kind", kind.name())];
                    series.count(&labels, listener.totals.tls_handshakes[kind.index()])
                })
            })
        },
    )?;
    out.counter(
        "ringway_tls_handshake_failures",
        "TLS handshakes of clients that failed, by reason",
        |series| {
            listeners().try_for_each(|listener| {
                TlsFailure::ALL.into_iter().try_for_each(|reason| {
                    let labels = [("listener", &*listener.name), ("reason", reason.name())];
                    series.count(&labels, listener.totals.tls_failures[reason.index()])
                })
            })
        },
    )?;
    out.counter("ringway_tls_unended_streams", "Clients that ended TCP without the end of TLS", |series| {
        listeners().try_for_each(|listener| {
            series.count(&[("listener", &*listener.name)], listener.totals.tls_unended)
        })
    })
}

pub(super) fn listeners(status: &Status, out: &mut Families<'_>) -> fmt::Result {
    fn each(status: &Status, mut write: impl FnMut(&str, &ListenerStatus) -> fmt::Result) -> fmt::Result {
        status.listeners.iter().try_for_each(|listener| write(&listener.name, listener))
    }
    out.counter("ringway_sessions", "Accepted connections, denied ones included", |series| {
        each(status, |name, listener| series.count(&[("listener", name)], listener.totals.accepted))
    })?;
    out.gauge("ringway_sessions_active", "Open sessions", |series| {
        each(status, |name, listener| series.level(&[("listener", name)], listener.totals.active as f64))
    })?;
    out.gauge(
        "ringway_sessions_limit",
        "Maximum number of open sessions, of the listener or of the process if that is lower",
        |series| each(status, |name, listener| series.level(&[("listener", name)], listener.max_sessions)),
    )?;
    out.gauge("ringway_listener_ready", "Whether a client would find an eligible backend", |series| {
        each(status, |name, listener| series.level(&[("listener", name)], u8::from(listener.ready)))
    })?;
    out.counter("ringway_sessions_closed", "Ended sessions by reason", |series| {
        each(status, |name, listener| {
            let mut names: Vec<_> = CloseReason::ALL.iter().map(|reason| reason.name()).collect();
            // Two reasons share a name.
            names.dedup();
            names.into_iter().try_for_each(|reason| {
                let same = CloseReason::ALL.iter().filter(|known| known.name() == reason);
                let sum = same.map(|known| listener.totals.closed[known.index()]).sum();
                series.count(&[("listener", name), ("reason", reason)], sum)
            })
        })
    })?;
    out.counter(
        "ringway_sessions_denied",
        "Connections that were reset before they had a backend, by reason of the rules of admission",
        |series| {
            each(status, |name, listener| {
                DenyReason::ALL.into_iter().try_for_each(|reason| {
                    let labels = [("listener", name), ("reason", reason.name())];
                    series.count(&labels, listener.totals.denied[reason.index()])
                })
            })
        },
    )?;
    out.gauge(
        "ringway_certificate_not_after_timestamp_seconds",
        "When the certificate of a listener expires; of several for one name the first one",
        |series| {
            each(status, |listener, status| {
                status.certificates.iter().try_for_each(|certificate| {
                    let labels = [("listener", listener), ("name", &*certificate.name)];
                    series.level(&labels, certificate.not_after_unix_seconds as f64)
                })
            })
        },
    )?;
    out.counter("ringway_accept_errors", "Failed accepts by reason", |series| {
        AcceptError::ALL.into_iter().try_for_each(|reason| {
            let all = status.listeners.iter().map(|listener| listener.totals.accept_errors[reason as usize]);
            series.count(&[("reason", reason.name())], all.sum())
        })
    })?;
    tls(status, out)?;
    out.counter("ringway_bytes", "Bytes delivered", |series| {
        each(status, |name, listener| {
            let to_backend = [("listener", name), ("direction", "to_backend")];
            series.count(&to_backend, listener.totals.bytes_to_backend)?;
            series.count(&[("listener", name), ("direction", "to_client")], listener.totals.bytes_to_client)
        })
    })?;
    out.histogram(
        "ringway_session_duration_seconds",
        "Time from accept to close of ended sessions",
        |series| {
            each(status, |name, listener| {
                series.distribution(&[("listener", name)], &listener.totals.duration)
            })
        },
    )
}

pub(super) fn upstreams(status: &Status, out: &mut Families<'_>) -> fmt::Result {
    fn each(status: &Status, mut write: impl FnMut(&str, &UpstreamStatus) -> fmt::Result) -> fmt::Result {
        status.upstreams.iter().try_for_each(|upstream| write(&upstream.name, upstream))
    }
    out.gauge(
        "ringway_upstream_serving",
        "Which backends the next session goes to: 1 for those",
        |series| {
            each(status, |name, upstream| {
                Serving::ALL.into_iter().try_for_each(|serving| {
                    let labels = [("upstream", name), ("serving", serving.name())];
                    series.level(&labels, u8::from(upstream.serving == serving))
                })
            })
        },
    )?;
    out.histogram(
        "ringway_connect_duration_seconds",
        "Time of connects to backends that succeeded",
        |series| {
            each(status, |name, upstream| {
                series.distribution(&[("upstream", name)], &upstream.totals.connect)
            })
        },
    )?;
    out.histogram(
        "ringway_queue_duration_seconds",
        "Time that sessions waited for a permit of a backend",
        |series| {
            each(status, |name, upstream| series.distribution(&[("upstream", name)], &upstream.totals.queue))
        },
    )?;
    out.gauge("ringway_queue_length", "Clients that wait for a permit of a backend", |series| {
        each(status, |name, upstream| series.level(&[("upstream", name)], upstream.waiting as f64))
    })?;
    out.counter("ringway_retries", "Attempts on another backend after a failed one", |series| {
        each(status, |name, upstream| series.count(&[("upstream", name)], upstream.totals.retries))
    })?;
    out.counter("ringway_retries_over_budget", "Retries that retry_budget did not allow", |series| {
        each(status, |name, upstream| {
            series.count(&[("upstream", name)], upstream.totals.retries_over_budget)
        })
    })?;
    out.counter(
        "ringway_backend_legs",
        "Backend connections at the end of their sessions by whose core received them; a sample, one in 16",
        |series| {
            each(status, |name, upstream| {
                let totals = &upstream.totals;
                series.count(&[("upstream", name), ("core", "own")], totals.legs_own)?;
                series.count(&[("upstream", name), ("core", "other")], totals.legs_other)
            })
        },
    )?;
    out.counter("ringway_pool_events", "What happened to pooled connections", |series| {
        each(status, |name, upstream| {
            let pool = &upstream.pool;
            let events = [
                ("hit", pool.hits),
                ("miss", pool.misses),
                ("made", pool.made),
                ("failed", pool.failed),
                ("closed", pool.closed),
                ("replaced", pool.replaced),
                ("returned", pool.returned),
                ("reset_failed", pool.reset_failed),
            ];
            events
                .into_iter()
                .try_for_each(|(event, count)| series.count(&[("upstream", name), ("event", event)], count))
        })
    })
}

fn each_backend(
    status: &Status,
    mut write: impl FnMut([(&str, &str); 2], &BackendStatus) -> fmt::Result,
) -> fmt::Result {
    // A removed backend has no series any more, whatever sessions it still has.
    status.upstreams.iter().try_for_each(|upstream| {
        upstream.backends.iter().filter(|backend| !backend.draining).try_for_each(|backend| {
            write([("upstream", &upstream.name), ("backend", &backend.name)], backend)
        })
    })
}

pub(super) fn backends(status: &Status, out: &mut Families<'_>) -> fmt::Result {
    out.gauge("ringway_backend_up", "Whether the backend is eligible for sessions", |series| {
        each_backend(status, |labels, backend| series.level(&labels, u8::from(backend.state() == "up")))
    })?;
    out.gauge("ringway_backend_state", "The state of the backend: 1 for the one it is in", |series| {
        each_backend(status, |[upstream, backend_label], backend| {
            BackendStatus::STATES.into_iter().try_for_each(|state| {
                series.level(&[upstream, backend_label, ("state", state)], u8::from(backend.state() == state))
            })
        })
    })?;
    out.gauge("ringway_backend_weight", "Relative share of sessions", |series| {
        each_backend(status, |labels, backend| series.level(&labels, backend.weight))
    })?;
    out.counter("ringway_backend_sessions", "Sessions that got a connection to the backend", |series| {
        each_backend(status, |labels, backend| series.count(&labels, backend.totals.sessions))
    })?;
    out.counter(
        "ringway_backend_sessions_broken",
        "Sessions that the backend reset, or that ended because it vanished or was silent until a timeout",
        |series| each_backend(status, |labels, backend| series.count(&labels, backend.totals.broken)),
    )?;
    out.gauge("ringway_backend_sessions_active", "Sessions in flight", |series| {
        each_backend(status, |labels, backend| series.level(&labels, backend.in_flight))
    })?;
    out.gauge(
        "ringway_backend_sessions_limit",
        "max_connections of the backend, +Inf without a limit",
        |series| {
            each_backend(status, |labels, backend| {
                series.level(&labels, backend.max_connections.map_or(f64::INFINITY, f64::from))
            })
        },
    )?;
    out.gauge("ringway_pool_idle", "Connections in the pool, or on their way there", |series| {
        each_backend(status, |labels, backend| series.level(&labels, backend.totals.pooled as f64))
    })
}

pub(super) fn connections_of_backends(status: &Status, out: &mut Families<'_>) -> fmt::Result {
    out.counter("ringway_backend_bytes", "Bytes delivered to and from the backend", |series| {
        each_backend(status, |[upstream, name], backend| {
            let totals = &backend.totals;
            series.count(&[upstream, name, ("direction", "to_backend")], totals.bytes_to_backend)?;
            series.count(&[upstream, name, ("direction", "to_client")], totals.bytes_to_client)
        })
    })?;
    out.counter("ringway_backend_connect_failures", "Failed connects by reason", |series| {
        each_backend(status, |[upstream, name], backend| {
            ConnectFailure::ALL.into_iter().try_for_each(|reason| {
                let count = backend.totals.connect_failures[reason.index()];
                series.count(&[upstream, name, ("reason", reason.name())], count)
            })
        })
    })?;
    out.histogram(
        "ringway_backend_round_trip_seconds",
        "The kernel's smoothed round-trip time of connections at the end of their sessions",
        |series| {
            each_backend(status, |labels, backend| series.distribution(&labels, &backend.totals.round_trip))
        },
    )?;
    out.counter(
        "ringway_backend_retransmitted_segments",
        "Segments sent again, of ended sessions",
        |series| each_backend(status, |labels, backend| series.count(&labels, backend.totals.retransmitted)),
    )?;
    out.histogram(
        "ringway_backend_connect_duration_seconds",
        "Time of connects to the backend that succeeded; sum and count only",
        |series| {
            each_backend(status, |labels, backend| {
                series.total(&labels, backend.totals.connect_micros as f64 / 1e6, backend.totals.connects)
            })
        },
    )
}

fn each_check(
    status: &Status,
    mut write: impl FnMut([(&str, &str); 2], &CheckCounters<u64>) -> fmt::Result,
) -> fmt::Result {
    each_backend(status, |labels, backend| {
        backend.checks.as_ref().map_or(Ok(()), |checks| write(labels, &checks.totals))
    })
}

pub(super) fn checks(status: &Status, out: &mut Families<'_>) -> fmt::Result {
    out.counter("ringway_health_checks", "Health checks by result", |series| {
        each_check(status, |[upstream, name], totals| {
            let results = [
                ("success", totals.success),
                ("failure", totals.failure),
                ("timeout", totals.timeout),
                ("local", totals.local),
            ];
            results
                .into_iter()
                .try_for_each(|(result, count)| series.count(&[upstream, name, ("result", result)], count))
        })
    })?;
    out.counter(
        "ringway_health_transitions",
        "Changes of state by checks, first verdicts included",
        |series| {
            each_check(status, |[upstream, name], totals| {
                series.count(&[upstream, name, ("to", "up")], totals.up)?;
                series.count(&[upstream, name, ("to", "down")], totals.down)
            })
        },
    )?;
    out.counter("ringway_outlier_ejections", "Ejections because sessions failed", |series| {
        each_backend(status, |labels, backend| series.count(&labels, backend.ejections))
    })
}

pub(super) fn cores(status: &Status, out: &mut Families<'_>) -> fmt::Result {
    let names: Vec<_> = status.shards.iter().map(|shard| shard.cpu.to_string()).collect();
    let shards = || names.iter().map(|name| [("core", &**name)]).zip(&status.shards);
    out.gauge("ringway_core_sessions_active", "Open sessions", |series| {
        shards().try_for_each(|(labels, shard)| series.level(&labels, shard.core.active))
    })?;
    out.counter("ringway_core_sessions", "Sessions, without denied connections", |series| {
        shards().try_for_each(|(labels, shard)| series.count(&labels, shard.core.sessions))
    })?;
    out.counter("ringway_core_busy_seconds", "Processor time of the core's shard", |series| {
        shards().try_for_each(|(labels, shard)| series.seconds(&labels, shard.core.busy_seconds))
    })?;
    out.counter("ringway_core_handed_off", "Fresh connections handed off to other cores", |series| {
        shards().try_for_each(|(labels, shard)| series.count(&labels, shard.core.handed_off))
    })?;
    out.counter("ringway_loop_turns", "Turns of the event loop", |series| {
        shards().try_for_each(|(labels, shard)| series.count(&labels, shard.turns.turns))
    })?;
    out.counter("ringway_loop_completions", "Completions taken from the ring", |series| {
        shards().try_for_each(|(labels, shard)| series.count(&labels, shard.turns.completions))
    })?;
    out.counter("ringway_loop_slow_turns", "Turns that took longer than 10 ms", |series| {
        shards().try_for_each(|(labels, shard)| series.count(&labels, shard.turns.slow_turns))
    })
}
