//! Which CPUs get a shard.

use core_affinity::CoreId;

use crate::config::CoreSelection;

/// Why the wanted cores cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CoresError {
    /// The kernel does not tell.
    #[error("the CPUs this process may use cannot be read; is /proc mounted, and sched_getaffinity allowed?")]
    Unknown,
    /// A CPU outside the allowed set.
    #[error(
        "runtime.cores: this process may not use CPU {cpu}, only {allowed}; change the list, or the CPU set of the container or service (`taskset -pc {pid}`)"
    )]
    NotAllowed {
        /// The CPU.
        cpu: u32,
        /// Those it may use.
        allowed: String,
        /// This process.
        pid: u32,
    },
    /// More cores than there are.
    #[error(
        "runtime.cores: {wanted} cores are wanted, but this process may use {allowed}; write a smaller number, or auto"
    )]
    TooMany {
        /// How many are wanted.
        wanted: u32,
        /// How many it may use.
        allowed: usize,
    },
}

/// The CPUs that get a shard, within those the process may use.
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
            Ok(allowed[..wanted as usize].to_vec())
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
