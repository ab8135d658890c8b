//! Draws the display. What does not fit is left out: sections from the bottom, columns from the right.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Sparkline, Widget};

use super::super::grid::{Cell, Column, Grid, Tone};
use super::super::units;
use super::app::{App, View};
use super::feed::{Order, SESSIONS_MAX};
use super::keys::HELP;
use crate::control::Status;

/// Lines of a section beside its rows: its title, and the titles of its columns.
const SECTION_HEAD: u16 = 2;
/// Maximum number of lines at the bottom.
const FOOTER_MAX: usize = 4;
/// Height of the picture where there is room.
const PICTURE_MAX: u16 = 4;

/// A part of the body: a table under a title.
struct Section {
    title: String,
    grid: Grid,
    /// The row that is marked.
    chosen: Option<usize>,
    /// The column by which it is sorted.
    sorted: Option<usize>,
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let area = frame.area();
    let mut page = Page { buffer: frame.buffer_mut(), area, line: area.top(), is_stale: app.lost.is_some() };
    page.header(app);
    page.views(app);
    let (footer, style) = page.footer(app);
    let footer = wrapped(&footer, area.width);
    let end = area.bottom().saturating_sub(footer.len().try_into().unwrap_or(u16::MAX));
    if app.help {
        page.help(end);
    } else if app.readings.is_some() {
        page.body(app, end);
    }
    for (line, text) in (end..).zip(&footer) {
        page.put(0, line, text, style);
    }
}

struct Page<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    /// The next line to be written.
    line: u16,
    /// Whether the values are old.
    is_stale: bool,
}

impl Page<'_> {
    /// Writes a text into a line; what is outside the terminal is cut off. Returns the column behind it.
    fn put(&mut self, column: u16, line: u16, text: &str, style: Style) -> u16 {
        if column >= self.area.right() || line >= self.area.bottom() {
            return column;
        }
        let width = usize::from(self.area.right() - column);
        self.buffer.set_stringn(column, line, text, width, style).0
    }

    /// Returns the style of a tone. Old values are grey.
    fn style(&self, tone: Tone) -> Style {
        let plain = Style::default();
        match tone {
            _ if self.is_stale => plain.fg(Color::DarkGray),
            Tone::Plain => plain,
            Tone::Good => plain.fg(Color::Green),
            Tone::Doubtful => plain.fg(Color::Yellow),
            Tone::Bad => plain.fg(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    /// Writes the process in words, in two lines if one is not enough.
    fn header(&mut self, app: &App) {
        let Some(readings) = &app.readings else {
            self.put(0, self.line, "no reading yet", Style::default());
            self.line += 1;
            return;
        };
        let (mut column, mut lines) = (0_u16, 1);
        for cell in readings.header() {
            let width = u16::try_from(cell.text.chars().count()).unwrap_or(u16::MAX);
            if column > 0 && column.saturating_add(width) > self.area.right() && lines < 2 {
                (column, lines, self.line) = (0, lines + 1, self.line + 1);
            }
            let style = self.style(cell.tone).add_modifier(Modifier::BOLD);
            column = self.put(column, self.line, &cell.text, style) + 2;
        }
        self.line += 1;
    }

    /// Writes the names of the views, and what was chosen.
    fn views(&mut self, app: &App) {
        let mut column = 0;
        for (index, view) in View::ALL.into_iter().enumerate() {
            let style = match view == app.view {
                true => Style::default().add_modifier(Modifier::REVERSED),
                false => Style::default(),
            };
            column = self.put(column, self.line, &format!(" {} {} ", index + 1, view.name()), style) + 1;
        }
        if app.paused {
            column = self.put(column + 1, self.line, "paused", self.style(Tone::Doubtful));
        }
        if let Some((text, tone)) = &app.aside {
            let style = self.style(*tone);
            self.put(column + 2, self.line, text, style);
        }
        self.line += 1;
    }

    fn body(&mut self, app: &App, end: u16) {
        let Some(readings) = &app.readings else { return };
        let height = end.saturating_sub(self.line);
        let sections = sections(app, &readings.now);
        let wanted: Vec<_> = sections.iter().map(Section::height).collect();
        let picture = if app.view == View::Overview { picture_height(height, &wanted) } else { 0 };
        if picture > 0 {
            self.picture(app, picture);
        }
        let heights = share(end.saturating_sub(self.line), &wanted);
        for (section, height) in sections.iter().zip(heights) {
            if height > SECTION_HEAD {
                self.section(app, section, height);
            }
        }
    }

    /// Draws the sessions a second of the last minutes.
    fn picture(&mut self, app: &App, height: u16) {
        let shown = app.history.iter().rev().take(self.area.width.into()).rev().copied();
        let rates: Vec<u64> = shown.collect();
        let (now, most) = (rates.last().copied().unwrap_or(0), rates.iter().max().copied().unwrap_or(0));
        let title = format!("Sessions a second: {} now, {} at most", units::count(now), units::count(most));
        self.put(0, self.line, &title, self.style(Tone::Plain).add_modifier(Modifier::BOLD));
        let style = if self.is_stale {
            Style::default().fg(Color::DarkGray)
        } else {
            Style::default().fg(Color::Cyan)
        };
        let area = Rect { x: 0, y: self.line + 1, width: self.area.width, height: height - 1 };
        Sparkline::default().data(&rates).style(style).render(area.intersection(self.area), self.buffer);
        self.line += height;
    }

    fn section(&mut self, app: &App, section: &Section, height: u16) {
        let Section { title, grid, chosen, sorted } = section;
        let rows = usize::from(height - SECTION_HEAD);
        let first = chosen.map_or(0, |chosen| (chosen + 1).saturating_sub(rows));
        let shown = grid.rows.iter().enumerate().skip(first).take(rows);
        let mut title = title.clone();
        if grid.rows.len() > rows {
            let last = (first + rows).min(grid.rows.len());
            title.push_str(&format!(
                " ({} to {last} of {})",
                first + 1,
                units::count(grid.rows.len() as u64)
            ));
        }
        if let Some(name) = sorted.and_then(|column| grid.titles.get(column)) {
            title.push_str(&format!(", sorted by {name}"));
        }
        self.put(0, self.line, &title, self.style(Tone::Plain).add_modifier(Modifier::BOLD));
        let columns = grid.columns(app.skipped, self.area.width.into());
        let titles: Vec<_> = grid.titles.iter().map(Cell::words).collect();
        self.row(&columns, &titles, self.line + 1, Modifier::DIM | Modifier::UNDERLINED);
        for (line, (index, row)) in (self.line + SECTION_HEAD..).zip(shown) {
            let modifier = if *chosen == Some(index) { Modifier::REVERSED } else { Modifier::empty() };
            self.row(&columns, row, line, modifier);
        }
        self.line += height;
    }

    fn row(&mut self, columns: &[Column], row: &[Cell], line: u16, modifier: Modifier) {
        for column in columns {
            let Some(cell) = row.get(column.index) else { continue };
            let style = self.style(cell.tone).add_modifier(modifier);
            let at = u16::try_from(column.at).unwrap_or(u16::MAX);
            self.put(at, line, &column.padded(&cell.text), style);
        }
    }

    fn help(&mut self, end: u16) {
        for (keys, what) in HELP {
            if self.line >= end {
                return;
            }
            self.put(2, self.line, keys, Style::default().add_modifier(Modifier::BOLD));
            self.put(22, self.line, what, Style::default());
            self.line += 1;
        }
    }

    /// Returns what is asked, what is wrong, or which keys there are.
    fn footer(&self, app: &App) -> (String, Style) {
        let bold = Style::default().add_modifier(Modifier::BOLD);
        let pid = app.readings.as_ref().map_or(0, |readings| readings.now.pid);
        if let Some(order) = &app.question {
            (question(order, pid), bold.fg(Color::Yellow))
        } else if app.typing {
            (format!("Rows with: {}_  (Enter keeps it, Esc ends it)", app.filter), bold)
        } else if let Some(why) = &app.lost {
            (format!("No answer, trying again: {why}"), bold.fg(Color::Red))
        } else if let Some((text, tone)) = &app.message {
            (text.clone(), self.style(*tone))
        } else if !app.filter.is_empty() {
            (format!("Rows with: {}  (Esc ends it)", app.filter), bold)
        } else {
            let kill = if app.view == View::Sessions { "  k kill" } else { "" };
            (format!("q quit  tab view  s sort  / filter  p pause{kill}  d drain  ? help"), Style::default())
        }
    }
}

/// Returns a text in lines that fit into a width, at most [`FOOTER_MAX`]; what is beyond them is cut off.
fn wrapped(text: &str, width: u16) -> Vec<String> {
    let width = usize::from(width).max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        let is_full = line.chars().count() + 1 + word.chars().count() > width;
        match line.is_empty() {
            true => line.push_str(word),
            false if is_full => lines.push(word.to_owned()),
            false => line.push_str(&format!(" {word}")),
        }
    }
    lines.truncate(FOOTER_MAX);
    lines
}

fn question(order: &Order, pid: u32) -> String {
    match order {
        Order::Kill { session, client } => format!("Kill session {session} of {client}? y/n"),
        Order::Drain => format!("Drain process {pid}, so that it ends with its last session? y/n"),
    }
}

impl Section {
    fn plain(title: &str, grid: Grid) -> Self {
        Self { title: title.to_owned(), grid, chosen: None, sorted: None }
    }

    /// Returns how many lines the section would fill; without rows it shows its head and an empty line.
    fn height(&self) -> u16 {
        u16::try_from(self.grid.rows.len().max(1)).unwrap_or(u16::MAX).saturating_add(SECTION_HEAD)
    }
}

fn sections(app: &App, now: &Status) -> Vec<Section> {
    let Some(readings) = &app.readings else { return Vec::new() };
    let grid = app.main_grid();
    let open = units::count(now.open_sessions());
    let title = match (&app.sessions, app.view) {
        (_, View::Overview | View::Backends) => "Backends".to_owned(),
        (_, View::Cores) => "Cores".to_owned(),
        (Err(why), View::Sessions) => format!("Sessions: none to see: {why}"),
        (Ok(page), View::Sessions) if page.next.is_some() => {
            format!("Sessions, {} of {open}", units::count(SESSIONS_MAX as u64))
        }
        (Ok(_), View::Sessions) => "Sessions".to_owned(),
    };
    let chosen = Some(app.chosen_row(&grid));
    let main = Section { title, grid, chosen, sorted: app.sorted[app.view as usize] };
    match app.view {
        View::Overview => vec![
            Section::plain("Listeners", readings.listeners()),
            Section::plain("Upstreams", readings.upstreams()),
            main,
            Section::plain("Cores", readings.cores()),
        ],
        View::Backends => vec![Section::plain("Upstreams", readings.upstreams()), main],
        View::Cores => vec![Section::plain("Listeners", readings.listeners()), main],
        View::Sessions => vec![main],
    }
}

/// Returns the height of the picture: what the sections leave over, within bounds; none on a low terminal.
fn picture_height(height: u16, wanted: &[u16]) -> u16 {
    let all = wanted.iter().fold(0_u16, |sum, height| sum.saturating_add(*height));
    let least = if height >= 16 { 2 } else { 0 };
    height.saturating_sub(all).clamp(least, PICTURE_MAX.max(least))
}

/// Shares lines out: who wants more than is there gives first, the tallest before the others; sections at the bottom go
/// where not even a row of each has room.
fn share(height: u16, wanted: &[u16]) -> Vec<u16> {
    let mut heights = wanted.to_vec();
    let least = SECTION_HEAD + 1;
    let room = usize::from(height / least);
    heights.iter_mut().skip(room).for_each(|height| *height = 0);
    loop {
        let sum: u32 = heights.iter().map(|height| u32::from(*height)).sum();
        let over = sum.saturating_sub(height.into());
        let Some(tallest) = heights.iter_mut().max_by_key(|height| **height) else { return heights };
        if over == 0 || *tallest <= least {
            return heights;
        }
        // At once where a single one wants far too much.
        let step = u16::try_from(over / 4).unwrap_or(u16::MAX).clamp(1, *tallest - least);
        *tallest -= step;
    }
}

#[cfg(test)]
mod tests;
