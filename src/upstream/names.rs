//! The numbers of listeners, upstreams and backends: each name gets one when it first appears, and keeps it for the
//! life of the process, also while it is in no configuration. So whatever outlives a generation (sessions, counters,
//! permits, messages, log records) can go by numbers.

use std::collections::HashMap;

use crate::base::{BackendId, ListenerId, UpstreamId};

/// The process has no number left.
#[derive(Debug, thiserror::Error)]
#[error("there is no number left for {0}: the process has had {max} others; restart to load more", max = u16::MAX)]
pub struct NumbersSpent(pub String);

/// Every name that the process has had.
#[derive(Clone, Debug, Default)]
pub struct Names {
    listeners: Numbered,
    upstreams: Numbered,
    /// By upstream.
    backends: Vec<Numbered>,
}

#[derive(Clone, Debug, Default)]
struct Numbered {
    names: Vec<String>,
    numbers: HashMap<String, u16>,
}

impl Numbered {
    fn number(&mut self, name: &str) -> Result<u16, NumbersSpent> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        let number = u16::try_from(self.names.len()).map_err(|_| NumbersSpent(name.to_owned()))?;
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        Ok(number)
    }

    fn name(&self, index: usize) -> Option<&str> {
        self.names.get(index).map(String::as_str)
    }
}

impl Names {
    /// Returns the number of a listener.
    pub(super) fn listener(&mut self, name: &str) -> Result<ListenerId, NumbersSpent> {
        self.listeners.number(name).map(ListenerId)
    }

    /// Returns the number of an upstream.
    pub(super) fn upstream(&mut self, name: &str) -> Result<UpstreamId, NumbersSpent> {
        let id = self.upstreams.number(name).map(UpstreamId)?;
        self.backends.resize_with(self.upstreams.names.len(), Numbered::default);
        Ok(id)
    }

    /// Returns the number of a backend.
    pub(super) fn backend(&mut self, upstream: UpstreamId, name: &str) -> Result<BackendId, NumbersSpent> {
        self.backends[upstream.index()].number(name).map(BackendId)
    }

    /// Returns how many backends of an upstream have numbers: the size of a table indexed by number.
    pub(super) fn given(&self, upstream: UpstreamId) -> usize {
        self.backends[upstream.index()].names.len()
    }

    /// Returns the name of a listener.
    #[must_use]
    pub fn of_listener(&self, id: ListenerId) -> Option<&str> {
        self.listeners.name(id.index())
    }

    /// Returns the name of an upstream.
    #[must_use]
    pub fn of_upstream(&self, id: UpstreamId) -> Option<&str> {
        self.upstreams.name(id.index())
    }

    /// Returns the name of a backend.
    #[must_use]
    pub fn of_backend(&self, upstream: UpstreamId, backend: BackendId) -> Option<&str> {
        self.backends.get(upstream.index())?.name(backend.index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_and_a_number_its_name() {
        let mut names = Names::default();
        let [web, other] = ["web", "other"].map(|name| names.upstream(name).unwrap());
        let backends = ["a", "b", "a"].map(|name| names.backend(web, name).unwrap());
        assert_eq!(backends, [0, 1, 0].map(BackendId));
        assert_eq!(names.backend(other, "b").unwrap(), BackendId(0));
        assert_eq!((names.upstream("web").unwrap(), names.given(web), names.given(other)), (web, 2, 1));
        assert_eq!(
            (names.of_upstream(other), names.of_backend(web, BackendId(1))),
            (Some("other"), Some("b"))
        );
        assert_eq!((names.of_backend(web, BackendId(2)), names.of_listener(ListenerId(0))), (None, None));
    }

    #[test]
    fn numbers_run_out_with_an_error() {
        let mut names = Names::default();
        let web = names.upstream("web").unwrap();
        let mut all = (0..=u32::from(u16::MAX)).map(|number| names.backend(web, &number.to_string()));
        assert!(all.all(|number| number.is_ok()));
        let error = names.backend(web, "one more").unwrap_err().to_string();
        assert!(error.contains("one more") && error.contains("restart"), "{error}");
        assert!(names.backend(web, "7").is_ok(), "a known name has its number");
    }
}
