//! What `top` shows, without a terminal: the readings, the view of them, and what a person has chosen.

use std::collections::VecDeque;

use super::super::grid::{Grid, Tone};
use super::super::readings::{self, Readings};
use super::feed::{Look, Order};
use crate::control::process::SessionPage;

/// How many rates are kept for the picture: ten minutes, a second apart.
const HISTORY_MAX: usize = 600;

/// A way to look at the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// A little of everything; rows are backends.
    Overview,
    /// Upstreams and backends.
    Backends,
    /// Listeners and cores; rows are cores.
    Cores,
    /// Open sessions.
    Sessions,
}

impl View {
    /// All views, in the order of their keys.
    pub(super) const ALL: [Self; 4] = [Self::Overview, Self::Backends, Self::Cores, Self::Sessions];

    /// Returns the name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Backends => "Backends",
            Self::Cores => "Cores",
            Self::Sessions => "Sessions",
        }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(in super::super) struct App {
    /// `None` before the first one.
    pub(super) readings: Option<Readings>,
    /// Open sessions, or why there are none to see.
    pub(super) sessions: Result<SessionPage, String>,
    /// Sessions a second, the last one at the end.
    pub(super) history: VecDeque<u64>,
    /// The view.
    pub(super) view: View,
    /// The column by which each view is sorted; `None` for the order of the configuration.
    pub(super) sorted: [Option<usize>; View::ALL.len()],
    /// Only rows with this text are shown.
    pub(super) filter: String,
    /// Whether keys go into the filter.
    pub(super) typing: bool,
    /// The name of the chosen row: rows change their places.
    pub(super) chosen: Option<String>,
    /// How many columns behind the first one are skipped.
    pub(super) skipped: usize,
    /// What waits for a yes.
    pub(super) question: Option<Order>,
    /// What became of the last order.
    pub(super) message: Option<(String, Tone)>,
    /// Why there is no new reading.
    pub(super) lost: Option<String>,
    /// Whether no readings are taken.
    pub(super) paused: bool,
    /// Whether the keys are explained.
    pub(super) help: bool,
    /// A line from outside.
    pub(super) aside: Option<(String, Tone)>,
}

impl App {
    /// Creates a display without a reading.
    pub(in super::super) fn new() -> Self {
        Self {
            readings: None,
            sessions: Ok(SessionPage::default()),
            history: VecDeque::new(),
            view: View::Overview,
            sorted: [None; View::ALL.len()],
            filter: String::new(),
            typing: false,
            chosen: None,
            skipped: 0,
            question: None,
            message: None,
            lost: None,
            paused: false,
            help: false,
            aside: None,
        }
    }

    /// Takes a reading in.
    pub(in super::super) fn note_look(&mut self, look: Look) {
        self.lost = None;
        let next = match &self.readings {
            None => Readings::first(look.status),
            Some(before) => before.next(look.status),
        };
        if let Some(rate) = next.sessions_per_second() {
            self.history.push_back(rate.round() as u64);
            if self.history.len() > HISTORY_MAX {
                self.history.pop_front();
            }
        }
        self.readings = Some(next);
        if let Some(sessions) = look.sessions {
            self.sessions = sessions;
        }
    }

    /// Notes that there is no reading.
    pub(super) fn note_lost(&mut self, why: String) {
        self.lost = Some(why);
    }

    /// Notes what became of an order.
    pub(super) fn note_given(&mut self, order: &Order, given: Result<(), String>) {
        let done = match order {
            Order::Kill { session, .. } => format!("session {session} is killed"),
            Order::Drain => "the process drains".to_owned(),
        };
        self.message = Some(match given {
            Ok(()) => (done, Tone::Good),
            Err(why) => (format!("refused: {why}"), Tone::Bad),
        });
    }

    /// Returns whether the view shows sessions.
    pub(super) fn wants_sessions(&self) -> bool {
        self.view == View::Sessions
    }

    /// Returns the table in which a row can be chosen, filtered and sorted.
    pub(super) fn main_grid(&self) -> Grid {
        let Some(readings) = &self.readings else { return Grid::default() };
        let mut grid = match self.view {
            View::Overview | View::Backends => readings.backends(),
            View::Cores => readings.cores(),
            View::Sessions => readings::sessions(self.sessions.as_ref().map_or(&[], |page| &page.sessions)),
        };
        if !self.filter.is_empty() {
            grid.filter(&self.filter);
        }
        if let Some(column) = self.sorted[self.view as usize] {
            grid.sort(column);
        }
        grid
    }

    /// Returns the position of the chosen row; the first row if the chosen one is gone.
    pub(super) fn chosen_row(&self, grid: &Grid) -> usize {
        let is_chosen = |row: &Vec<_>| row.first().map(name) == self.chosen.as_deref();
        grid.rows.iter().position(is_chosen).unwrap_or(0)
    }

    /// Chooses the row `by` rows below the chosen one, or above it.
    pub(super) fn choose(&mut self, by: isize) {
        let grid = self.main_grid();
        let Some(last) = grid.rows.len().checked_sub(1) else { return };
        let row = self.chosen_row(&grid).saturating_add_signed(by).min(last);
        self.chosen = grid.rows[row].first().map(|cell| cell.text.clone());
    }

    /// Returns the order to kill the chosen session, if there is one: never the one that has taken its row.
    pub(super) fn kill_order(&mut self) -> Option<Order> {
        let grid = self.main_grid();
        let row = grid.rows.get(self.chosen_row(&grid))?;
        if self.chosen.is_some() && row.first().map(name) != self.chosen.as_deref() {
            self.chosen = None;
            return None;
        }
        let session = row.first()?.text.parse().ok()?;
        Some(Order::Kill { session, client: row.get(1)?.text.clone() })
    }

    /// Sorts by the next column, and after the last one not at all.
    pub(super) fn sort_by_next(&mut self) {
        let columns = self.main_grid().titles.len();
        let sorted = &mut self.sorted[self.view as usize];
        *sorted = match *sorted {
            None => Some(0),
            Some(column) if column + 1 < columns => Some(column + 1),
            Some(_) => None,
        };
    }
}

fn name(cell: &super::super::grid::Cell) -> &str {
    &cell.text
}
