//! The command line of this program.

/// The options of a command line: `--name value`, `--flag` and plain words.
pub(crate) struct Options {
    words: Vec<String>,
}

impl Options {
    /// Returns the options this process was started with.
    pub(crate) fn of_process() -> Options {
        Options { words: std::env::args().skip(1).collect() }
    }

    /// Removes the first word; `None` where no word is left.
    pub(crate) fn command(&mut self) -> Option<String> {
        (!self.words.is_empty()).then(|| self.words.remove(0))
    }

    /// Removes `--name VALUE` and parses the value; `default` where it is absent.
    pub(crate) fn take<T: std::str::FromStr>(&mut self, name: &str, default: Option<T>) -> Result<T, String> {
        let Some(at) = self.words.iter().position(|word| word == name) else {
            return default.ok_or_else(|| format!("{name} is needed"));
        };
        if at + 1 >= self.words.len() {
            return Err(format!("{name} needs a value"));
        }
        let value = self.words.remove(at + 1);
        self.words.remove(at);
        value.parse().map_err(|_| format!("{name} cannot be '{value}'"))
    }

    /// Removes every `--name VALUE`, and parses the values.
    pub(crate) fn take_all<T: std::str::FromStr>(&mut self, name: &str) -> Result<Vec<T>, String> {
        let mut values = Vec::new();
        while self.words.iter().any(|word| word == name) {
            values.push(self.take(name, None)?);
        }
        Ok(values)
    }

    /// Removes the flag, and says whether it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|word| word != name);
        self.words.len() < before
    }

    /// The words left over must be exactly this many.
    pub(crate) fn rest(self, count: usize) -> Result<Vec<String>, String> {
        if self.words.len() == count {
            Ok(self.words)
        } else {
            Err(format!("unexpected: {}", self.words.join(" ")))
        }
    }
}
