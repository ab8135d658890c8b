//! `nginx.conf`: its block `stream` becomes a plan.

use super::plan::Plan;
use super::report::Findings;

pub(super) const DIFFERENCES: [&str; 0] = [];

pub(super) fn plan(_text: &[u8], _plan: &mut Plan, _findings: &mut Findings) {}
