//! Files that a configuration names and that are part of it: the caller reads them, because the configuration itself
//! touches no file.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

/// The content of the files that a configuration names, as far as they were read.
#[derive(Default)]
pub struct Files {
    /// The content of each, or why there is none.
    read: BTreeMap<PathBuf, Result<Vec<u8>, String>>,
    wanted: RefCell<BTreeSet<PathBuf>>,
    /// Seconds since 1970 when they were read; `None` judges no dates.
    now: Option<i64>,
    /// The prefixes in those that have some, which several lists may share.
    prefixes: RefCell<BTreeMap<PathBuf, Arc<[IpNet]>>>,
}

impl Files {
    /// Returns no files, which are read at this time, in seconds since 1970: what they hold may have expired.
    #[must_use]
    pub fn read_at(now: i64) -> Self {
        Self { now: Some(now), ..Self::default() }
    }

    /// Returns when the files are read, in seconds since 1970, if dates are judged.
    pub(super) fn now(&self) -> Option<i64> {
        self.now
    }

    /// Adds a file: its content, or the reason why there is none.
    pub fn insert(&mut self, path: PathBuf, content: Result<Vec<u8>, String>) {
        self.read.insert(path, content);
    }

    /// Returns the files that were asked for and are not there, and forgets that they were asked for. What was parsed without
    /// them is not complete.
    pub fn take_wanted(&self) -> BTreeSet<PathBuf> {
        self.wanted.take()
    }

    /// Returns the content of a file; `None` if it was not read yet, which is noted.
    ///
    /// # Errors
    ///
    /// Why it could not be read.
    pub(super) fn get(&self, path: &Path) -> Result<Option<&[u8]>, &str> {
        match self.read.get(path) {
            Some(Ok(content)) => Ok(Some(content)),
            Some(Err(why)) => Err(why),
            None => {
                self.wanted.borrow_mut().insert(path.to_owned());
                Ok(None)
            }
        }
    }

    /// Returns the prefixes in a file, which are read once.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub(super) fn prefixes(
        &self,
        path: &Path,
        read: impl FnOnce() -> Result<Vec<IpNet>, String>,
    ) -> Result<Arc<[IpNet]>, String> {
        if let Some(known) = self.prefixes.borrow().get(path) {
            return Ok(Arc::clone(known));
        }
        let prefixes: Arc<[IpNet]> = read()?.into();
        if self.read.contains_key(path) {
            self.prefixes.borrow_mut().insert(path.to_owned(), Arc::clone(&prefixes));
        }
        Ok(prefixes)
    }
}
