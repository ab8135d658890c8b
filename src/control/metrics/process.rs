//! The standard metrics of a process, as Prometheus names them.

use std::fmt;

use procfs::process::{LimitValue, Process};

use super::encoder::Families;

/// Writes what /proc says of this process, proc(5); nothing where it says nothing.
pub(super) fn families(out: &mut Families<'_>) -> fmt::Result {
    let Ok(this) = Process::myself() else { return Ok(()) };
    if let Ok(stat) = this.stat() {
        let ticks = procfs::ticks_per_second() as f64;
        let cpu = (stat.utime + stat.stime) as f64 / ticks;
        out.counter("process_cpu_seconds", "Processor time of the process", |series| {
            series.seconds(&[], cpu)
        })?;
        let resident = stat.rss * procfs::page_size();
        out.gauge("process_resident_memory_bytes", "Resident memory", |series| {
            series.level(&[], resident as f64)
        })?;
        out.gauge("process_virtual_memory_bytes", "Virtual memory", |series| {
            series.level(&[], stat.vsize as f64)
        })?;
        if let Ok(boot) = procfs::boot_time_secs() {
            let start = boot as f64 + stat.starttime as f64 / ticks;
            out.gauge("process_start_time_seconds", "Start of the process, since the epoch", |series| {
                series.level(&[], start)
            })?;
        }
        out.gauge("process_threads", "Threads of the process", |series| {
            series.level(&[], stat.num_threads as f64)
        })?;
    }
    if let Ok(open) = this.fd_count() {
        out.gauge("process_open_fds", "Open file descriptors", |series| series.level(&[], open as f64))?;
    }
    if let Ok(limits) = this.limits() {
        let most = match limits.max_open_files.soft_limit {
            LimitValue::Value(most) => most as f64,
            LimitValue::Unlimited => f64::INFINITY,
        };
        out.gauge("process_max_fds", "Maximum number of open file descriptors", |series| {
            series.level(&[], most)
        })?;
    }
    Ok(())
}
