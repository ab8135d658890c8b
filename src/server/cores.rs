//! Which CPUs get a shard.

use std::path::Path;

use core_affinity::CoreId;

use super::topology;
use crate::config::CoreSelection;

/// Why the configured cores are not available.
#[derive(Debug, thiserror::Error)]
pub enum CoresError {
    /// The kernel does not report the allowed CPUs.
    #[error("cannot read which CPUs this process may use; mount /proc and allow sched_getaffinity")]
    Unknown,
    /// A CPU outside the allowed set.
    #[error(
        "runtime.cores: this process may not use CPU {cpu}, only {allowed}; change the list, or the CPU set \
         of the container or service (`taskset -pc {pid}`)"
    )]
    NotAllowed {
        /// The CPU.
        cpu: u32,
        /// The CPUs that the process may use.
        allowed: String,
        /// The number of this process.
        pid: u32,
    },
    /// The configuration asks for more cores than there are.
    #[error(
        "runtime.cores: {wanted} cores are wanted, but this process may use {allowed}; write a smaller \
         number, or auto"
    )]
    TooMany {
        /// How many cores are configured.
        wanted: u32,
        /// How many cores the process may use.
        allowed: usize,
    },
}

/// Returns the CPUs that get a shard, out of those that the process may use, by ascending number:
/// `net::steer_by_cpu` relies on that.
///
/// # Errors
///
/// The configuration asks for CPUs that this process may not use.
pub(super) fn choose(cores: &CoreSelection) -> Result<Vec<CoreId>, CoresError> {
    let allowed = core_affinity::get_core_ids().filter(|ids| !ids.is_empty()).ok_or(CoresError::Unknown)?;
    match cores {
        CoreSelection::Auto => Ok(allowed),
        CoreSelection::Count(count) => {
            let wanted = count.get();
            if wanted as usize > allowed.len() {
                return Err(CoresError::TooMany { wanted, allowed: allowed.len() });
            }
            let cpus: Vec<_> = allowed.iter().map(|core| core.id).collect();
            let places = topology::places(Path::new(topology::SYSTEM), &cpus);
            let taken = topology::first_cores(wanted as usize, &cpus, &places);
            Ok(taken.into_iter().map(|id| CoreId { id }).collect())
        }
        CoreSelection::List(cpus) => {
            let find = |cpu: &u32| {
                allowed.iter().find(|core| core.id == *cpu as usize).copied().ok_or_else(|| {
                    CoresError::NotAllowed {
                        cpu: *cpu,
                        allowed: allowed.iter().map(|core| core.id.to_string()).collect::<Vec<_>>().join(","),
                        pid: std::process::id(),
                    }
                })
            };
            cpus.iter().map(find).collect()
        }
    }
}
