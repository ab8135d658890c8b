//! What Ringway assumes of the kernel and of glommio, and what the ring promises on top of it, on the real
//! kernel.
//!
//! `scripts/kernel-6.1.sh` runs this binary on the oldest kernel we support. Everything that differs between
//! kernels is asked from `Ring::features`.

mod accept;
mod buffers;
mod connects;
mod descriptors;
mod driver;
mod glommio_assumptions;
mod kernel;
mod quiet_sends;
mod resets;
mod support;
mod tasks;
mod threads;
