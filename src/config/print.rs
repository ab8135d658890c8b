//! The configuration in long form, every key written out: what `ringway config` prints. The fields of the
//! model say with which of these functions they are written.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::model::{
    BackendAddress, Config, CoreSelection, HashKey, HealthCheck, Keepalive, Listener, LogFormat, LogTarget,
    Logging, Outlier, Runtime, Step, Upstream,
};
use super::schema::IDLE;
use super::values::{FORMATS, HASH_KEYS, cores_text, duration_text, size_text};
use crate::balance::Registered;

const OFF: &str = "off";
const AUTO: &str = "auto";

impl Config {
    /// The long form as YAML. [`super::parse`] reads it as the same configuration.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let listeners = self.listeners.iter().map(|listener| {
            let upstream = self.upstreams[listener.upstream.index()].name.as_str();
            WrittenListener { listener, upstream }
        });
        let written = Written {
            runtime: &self.runtime,
            logging: &self.logging,
            listeners: listeners.collect(),
            upstreams: &self.upstreams,
        };
        serde_yaml::to_string(&written).expect("text, numbers and lists with text as keys can be written")
    }

    /// What follows from the file and does not stand in it as such, a line each: the idle limit of each listener whose two are
    /// the same and not the default ones, since one of them may be written alone.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let text = |limit: Option<Duration>| limit.map_or_else(|| OFF.to_owned(), duration_text);
        let notes = self.listeners.iter().filter_map(|listener| {
            let idle = listener.timeouts.client_idle;
            let same = self.upstreams[listener.upstream.index()].timeouts.backend_idle == idle;
            (same && idle != Some(IDLE)).then(|| {
                let (name, idle) = (&listener.name, text(idle));
                format!("listener {name}: `client_idle` and `backend_idle` are {idle}")
            })
        });
        notes.collect()
    }
}

#[derive(Serialize)]
struct Written<'c> {
    runtime: &'c Runtime,
    logging: &'c Logging,
    listeners: Vec<WrittenListener<'c>>,
    upstreams: &'c [Upstream],
}

/// A listener knows the position of its upstream, the file its name.
#[derive(Serialize)]
struct WrittenListener<'c> {
    #[serde(flatten)]
    listener: &'c Listener,
    upstream: &'c str,
}

type Done<S> = Result<<S as Serializer>::Ok, <S as Serializer>::Error>;

pub(super) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Done<S> {
    serializer.collect_str(value)
}

pub(super) fn duration<S: Serializer>(value: &Duration, serializer: S) -> Done<S> {
    serializer.serialize_str(&duration_text(*value))
}

pub(super) fn duration_or_off<S: Serializer>(value: &Option<Duration>, serializer: S) -> Done<S> {
    serializer.serialize_str(&value.map_or_else(|| OFF.to_owned(), duration_text))
}

pub(super) fn keepalive<S: Serializer>(value: &Option<Keepalive>, serializer: S) -> Done<S> {
    match value {
        Some(keepalive) => keepalive.serialize(serializer),
        None => serializer.serialize_str(OFF),
    }
}

pub(super) fn size<S: Serializer>(bytes: &u32, serializer: S) -> Done<S> {
    serializer.serialize_str(&size_text(*bytes))
}

pub(super) fn limit<S: Serializer>(value: &Option<NonZeroU32>, serializer: S) -> Done<S> {
    serializer.serialize_u32(value.map_or(0, NonZeroU32::get))
}

pub(super) fn auto_or_off<S: Serializer>(on: &bool, serializer: S) -> Done<S> {
    serializer.serialize_str(if *on { AUTO } else { OFF })
}

pub(super) fn switch<S: Serializer>(on: &bool, serializer: S) -> Done<S> {
    if *on { serializer.serialize_bool(true) } else { serializer.serialize_str(OFF) }
}

pub(super) fn number_or_auto<S: Serializer>(value: &Option<NonZeroU32>, serializer: S) -> Done<S> {
    match value {
        Some(number) => serializer.serialize_u32(number.get()),
        None => serializer.serialize_str(AUTO),
    }
}

pub(super) fn fraction<S: Serializer>(fraction: &f64, serializer: S) -> Done<S> {
    let percent = (fraction * 100.0).round();
    serializer.serialize_str(&if percent > 0.0 { format!("{percent}%") } else { OFF.to_owned() })
}

pub(super) fn percent<S: Serializer>(percent: &u32, serializer: S) -> Done<S> {
    serializer.collect_str(&format_args!("{percent}%"))
}

pub(super) fn percent_or_off<S: Serializer>(value: &Option<u32>, serializer: S) -> Done<S> {
    match value {
        Some(value) => percent(value, serializer),
        None => serializer.serialize_str(OFF),
    }
}

pub(super) fn cores<S: Serializer>(value: &CoreSelection, serializer: S) -> Done<S> {
    match value {
        CoreSelection::Count(count) => serializer.serialize_u32(count.get()),
        CoreSelection::Auto | CoreSelection::List(_) => serializer.serialize_str(&cores_text(value)),
    }
}

pub(super) fn level<S: Serializer>(value: &log::LevelFilter, serializer: S) -> Done<S> {
    serializer.serialize_str(&value.as_str().to_lowercase())
}

pub(super) fn format<S: Serializer>(value: &LogFormat, serializer: S) -> Done<S> {
    let word = FORMATS.iter().find(|(_, format)| format == value).map_or("text", |(word, _)| word);
    serializer.serialize_str(word)
}

pub(super) fn log_target<S: Serializer>(value: &LogTarget, serializer: S) -> Done<S> {
    match value {
        LogTarget::Stderr => serializer.serialize_str("stderr"),
        LogTarget::File(path) => serializer.collect_str(&path.display()),
    }
}

pub(super) fn algorithm<S: Serializer>(value: &&'static Registered, serializer: S) -> Done<S> {
    serializer.serialize_str(value.name)
}

pub(super) fn hash_key<S: Serializer>(value: &HashKey, serializer: S) -> Done<S> {
    let word = HASH_KEYS.iter().find(|(_, key)| key == value).map_or("source", |(word, _)| word);
    serializer.serialize_str(word)
}

pub(super) fn healthcheck<S: Serializer>(value: &Option<HealthCheck>, serializer: S) -> Done<S> {
    match value {
        Some(check) => check.serialize(serializer),
        None => serializer.serialize_str(OFF),
    }
}

pub(super) fn number_or_off<S: Serializer>(value: &Option<u32>, serializer: S) -> Done<S> {
    match value {
        Some(number) => serializer.serialize_u32(*number),
        None => serializer.serialize_str(OFF),
    }
}

pub(super) fn outlier<S: Serializer>(value: &Option<Outlier>, serializer: S) -> Done<S> {
    match value {
        Some(outlier) => outlier.serialize(serializer),
        None => serializer.serialize_str(OFF),
    }
}

pub(super) fn steps<S: Serializer>(value: &[Step], serializer: S) -> Done<S> {
    serializer.collect_seq(value)
}

/// Only for bytes that are there; serde leaves out the others before it comes here.
pub(super) fn bytes<S: Serializer>(value: &Option<Vec<u8>>, serializer: S) -> Done<S> {
    serializer.collect_str(&value.as_deref().unwrap_or_default().escape_ascii())
}

pub(super) fn some_bytes<S: Serializer>(value: &[u8], serializer: S) -> Done<S> {
    serializer.collect_str(&value.escape_ascii())
}

impl Serialize for BackendAddress {
    /// As the two keys of an entry, so that it can be flattened into one.
    fn serialize<S: Serializer>(&self, serializer: S) -> Done<S> {
        #[derive(Serialize)]
        struct Keys<'a> {
            address: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            port: Option<u16>,
        }
        let text = self.to_string();
        let (address, port) = match self {
            Self::Ip(address) => (text.rsplit_once(':').map_or(&*text, |(ip, _)| ip), Some(address.port())),
            Self::Zoned(address) => (text.rsplit_once(':').map_or(&*text, |(ip, _)| ip), Some(address.port)),
            Self::Host { name, port } => (name.as_str(), Some(*port)),
            Self::Unix(_) => (&*text, None),
        };
        Keys { address, port }.serialize(serializer)
    }
}
