//! The numbers of listeners, upstreams and backends: each name gets one when it first appears, and keeps it also while it
//! is in no configuration. So whatever outlives a generation (sessions, counters, permits, messages, log records) can go by
//! numbers.
//!
//! Where backends come and go under ever new names, as pods do, an upstream remembers [`GONE_KEPT`] names that are gone.
//! Beyond, a new backend takes the number of one that is gone and has no session.

use std::collections::{BTreeSet, HashMap};

use crate::base::{BackendId, ListenerId, UpstreamId};

/// How many names that are gone an upstream remembers.
const GONE_KEPT: usize = 1_024;

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
    /// Numbers without a backend, the one that has been gone for longest first.
    gone: Vec<u16>,
}

impl Numbered {
    fn number(&mut self, name: &str) -> Result<u16, NumbersSpent> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        self.add(name)
    }

    fn rename(&mut self, number: u16, name: &str) {
        let before = std::mem::replace(&mut self.names[usize::from(number)], name.to_owned());
        self.numbers.remove(&before);
        self.numbers.insert(name.to_owned(), number);
    }

    fn add(&mut self, name: &str) -> Result<u16, NumbersSpent> {
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

    /// Returns the numbers of the backends of an upstream with these names, and which of them had another name before.
    /// `is_in_use` tells of a number whether anything still goes by it.
    pub(super) fn backends<'n>(
        &mut self,
        upstream: UpstreamId,
        names: impl Iterator<Item = &'n str> + Clone,
        is_in_use: impl Fn(BackendId) -> bool,
    ) -> Result<(Vec<BackendId>, Vec<BackendId>), NumbersSpent> {
        let known = &mut self.backends[upstream.index()];
        let wanted: BTreeSet<_> = names.clone().filter_map(|name| known.numbers.get(name).copied()).collect();
        known.gone.retain(|number| !wanted.contains(number));
        let is_gone: BTreeSet<_> = known.gone.iter().copied().collect();
        let all = (0..known.names.len() as u32).map(|number| number as u16);
        let leave = all.filter(|number| !wanted.contains(number) && !is_gone.contains(number));
        known.gone.extend(leave.collect::<Vec<_>>());
        let surplus = known.gone.len().saturating_sub(GONE_KEPT);
        let is_free = |number: &u16| !is_in_use(BackendId(*number));
        let mut free = known.gone[..surplus].iter().copied().filter(is_free).collect::<Vec<_>>().into_iter();
        let (mut numbers, mut reused) = (Vec::new(), Vec::new());
        for name in names {
            let number = match known.numbers.get(name) {
                Some(number) => *number,
                None => match free.next() {
                    Some(number) => {
                        known.gone.retain(|gone| *gone != number);
                        known.rename(number, name);
                        reused.push(BackendId(number));
                        number
                    }
                    None => known.add(name)?,
                },
            };
            numbers.push(BackendId(number));
        }
        Ok((numbers, reused))
    }

    /// Returns how many backends of an upstream have numbers: the size of a table indexed by number.
    pub(super) fn given(&self, upstream: UpstreamId) -> usize {
        self.backends[upstream.index()].names.len()
    }

    /// Returns the number of a listener that the process has or has had.
    #[must_use]
    pub fn listener_named(&self, name: &str) -> Option<ListenerId> {
        self.listeners.numbers.get(name).copied().map(ListenerId)
    }

    /// Returns the backends that go by `UPSTREAM/BACKEND`, or by `BACKEND` in any upstream, and that the process has or has
    /// had.
    #[must_use]
    pub fn backends_named(&self, name: &str) -> Vec<(UpstreamId, BackendId)> {
        let mut found = Vec::new();
        for (number, (upstream, backends)) in (0..).zip(self.upstreams.names.iter().zip(&self.backends)) {
            let own = name.strip_prefix(upstream.as_str()).and_then(|rest| rest.strip_prefix('/'));
            let numbers =
                [Some(name), own].into_iter().flatten().filter_map(|name| backends.numbers.get(name));
            found.extend(numbers.map(|backend| (UpstreamId(number), BackendId(*backend))));
        }
        found
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
        let backends = names.backends(web, ["a", "b"].into_iter(), |_| false).unwrap();
        assert_eq!(backends, ([0, 1].map(BackendId).to_vec(), Vec::new()));
        assert_eq!(names.backends(web, ["b"].into_iter(), |_| false).unwrap().0, [BackendId(1)]);
        assert_eq!(names.backends(other, ["b"].into_iter(), |_| false).unwrap().0, [BackendId(0)]);
        assert_eq!((names.upstream("web").unwrap(), names.given(web), names.given(other)), (web, 2, 1));
        assert_eq!(
            (names.of_upstream(other), names.of_backend(web, BackendId(1))),
            (Some("other"), Some("b"))
        );
        assert_eq!((names.of_backend(web, BackendId(2)), names.of_listener(ListenerId(0))), (None, None));
    }

    fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|number| number.to_string()).collect()
    }

    fn of(
        names: &mut Names,
        all: &[String],
        in_use: impl Fn(BackendId) -> bool,
    ) -> (Vec<BackendId>, Vec<BackendId>) {
        let web = names.upstream("web").unwrap();
        names.backends(web, all.iter().map(String::as_str), in_use).unwrap()
    }

    #[test]
    fn numbers_of_what_is_gone_for_long_are_used_again() {
        let mut names = Names::default();
        let kept = GONE_KEPT as u32;
        for round in 0..200 {
            // The generation before is in use.
            let before = |id: BackendId| {
                names.of_backend(UpstreamId(0), id).is_some_and(|name| {
                    let number: u32 = name.parse().unwrap();
                    (round - 1) * 60 <= number && number < round * 60
                })
            };
            let in_use: Vec<_> = (0..u16::MAX).map(BackendId).filter(|id| before(*id)).collect();
            let (numbers, reused) =
                of(&mut names, &numbered(round * 60..(round + 1) * 60), |id| in_use.contains(&id));
            assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 60, "each its own");
            assert!(reused.iter().all(|number| !in_use.contains(number)));
        }
        let web = names.upstream("web").unwrap();
        assert!(names.given(web) < kept as usize + 200, "{}", names.given(web));
        assert_eq!(names.backends[0].numbers.len(), names.given(web));
    }

    #[test]
    fn numbers_run_out_with_an_error() {
        let mut names = Names::default();
        let all = numbered(0..u32::from(u16::MAX) + 1);
        assert_eq!(of(&mut names, &all, |_| true).0.len(), all.len());
        let web = names.upstream("web").unwrap();
        let error = names.backends(web, ["one more"].into_iter(), |_| true).unwrap_err().to_string();
        assert!(error.contains("one more") && error.contains("restart"), "{error}");
        assert!(names.backends(web, ["7"].into_iter(), |_| true).is_ok(), "a known name has its number");
    }
}
