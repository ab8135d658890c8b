//! What checks and failed sessions mean for a backend: pure, on the health thread alone.

mod outlier;
mod rise_fall;
mod slow_start;
mod upstream_health;

pub use outlier::{Cause, EjectionEnd, NotEjected, Outliers};
pub use rise_fall::{RiseFall, Transition, Verdict};
pub use slow_start::Ramps;
pub use upstream_health::{Checked, Event, UpstreamHealth};
