//! Counters by reason, serialized as a map from the name of the reason to the count. Reasons that share a name are
//! added up.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

fn serialize<N: Copy + Into<u64>, S: Serializer>(
    names: &[&'static str],
    counts: &[N],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut sums = BTreeMap::<_, u64>::new();
    for (name, count) in names.iter().zip(counts) {
        *sums.entry(name).or_default() += (*count).into();
    }
    serializer.collect_map(sums)
}

fn deserialize<'de, N: Copy + Default + From<u64>, const COUNT: usize, D: Deserializer<'de>>(
    names: [&'static str; COUNT],
    deserializer: D,
) -> Result<[N; COUNT], D::Error> {
    let sums = BTreeMap::<String, u64>::deserialize(deserializer)?;
    let mut counts = [N::default(); COUNT];
    for (name, sum) in sums {
        let index = names.iter().position(|known| *known == name);
        counts[index.ok_or_else(|| D::Error::custom(format!("there is no reason {name}")))?] = sum.into();
    }
    Ok(counts)
}

macro_rules! by_reason {
    ($($module:ident: $reason:path;)+) => {$(
        pub(super) mod $module {
            use serde::{Deserializer, Serializer};

            use $reason as Reason;

            const NAMES: [&str; Reason::COUNT] = {
                let (mut names, mut index) = ([""; Reason::COUNT], 0);
                while index < Reason::COUNT {
                    names[index] = Reason::ALL[index].name();
                    index += 1;
                }
                names
            };

            pub(in super::super) fn serialize<N: Copy + Into<u64>, S: Serializer>(
                counts: &[N; Reason::COUNT],
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                super::serialize(&NAMES, counts, serializer)
            }

            pub(in super::super) fn deserialize<'de, N: Copy + Default + From<u64>, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<[N; Reason::COUNT], D::Error> {
                super::deserialize(NAMES, deserializer)
            }
        }
    )+};
}

by_reason! {
    closed: crate::base::CloseReason;
    denied: crate::base::DenyReason;
    accept_errors: crate::net::AcceptError;
    connect_failures: crate::base::ConnectFailure;
    tls_failures: crate::base::TlsFailure;
    tls_handshakes: crate::base::TlsHandshake;
    local_failures: crate::net::LocalFailure;
}
