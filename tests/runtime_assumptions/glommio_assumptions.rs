//! glommio_assumptions
