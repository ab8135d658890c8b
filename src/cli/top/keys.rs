//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::grid::Tone;
use super::app::{App, View};
use super::feed::Order;

/// How far the page keys go.
const PAGE_ROWS: isize = 10;
/// Maximum length of a filter.
const FILTER_MAX: usize = 60;

/// The keys and what they do, for the help.
pub(super) const HELP: [(&str, &str); 14] = [
    ("1 2 3 4, tab", "overview, backends, cores, sessions"),
    ("up down, j", "choose a row (k goes up too, except among sessions)"),
    ("left right", "show columns further left or right"),
    ("PgUp PgDn Home End", "go further"),
    ("s", "sort by the next column, after the last one not at all"),
    ("/", "show only rows with a text; Esc ends that"),
    ("p", "pause, or go on"),
    ("k", "kill the chosen session (in the view of sessions)"),
    ("d", "drain: no new sessions, and the process ends with the last one"),
    ("y n", "answer a question; any other key means no"),
    ("?", "this help"),
    ("Ctrl-L", "draw everything anew"),
    ("Ctrl-Z", "stop; `fg` in the shell goes on"),
    ("q, Esc, Ctrl-C", "quit"),
];

/// What a key asks for beyond a change of the display.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    Nothing,
    /// To end.
    Quit,
    /// To take a reading at once.
    Look,
    /// To give the terminal back until the process is continued.
    Stop,
    /// To draw everything anew.
    Redraw,
    /// To give an order to the process.
    Give(Order),
}

/// Obeys a key.
pub(super) fn press(app: &mut App, key: KeyEvent) -> Action {
    let code = match key.code {
        KeyCode::Char(letter) if key.modifiers.contains(KeyModifiers::CONTROL) => match letter {
            'c' => return Action::Quit,
            'z' => return Action::Stop,
            'l' => return Action::Redraw,
            // What some terminals send for it.
            'h' => KeyCode::Backspace,
            _ => return Action::Nothing,
        },
        KeyCode::Char(_) if key.modifiers.contains(KeyModifiers::ALT) => return Action::Nothing,
        code => code,
    };
    if let Some(order) = app.question.take() {
        return answer(app, order, code);
    }
    if app.typing {
        type_filter(app, code);
        return Action::Nothing;
    }
    app.message = None;
    if std::mem::take(&mut app.help) && matches!(code, KeyCode::Esc | KeyCode::Char('?' | 'q')) {
        return Action::Nothing;
    }
    command(app, code)
}

fn command(app: &mut App, code: KeyCode) -> Action {
    match code {
        KeyCode::Esc if !app.filter.is_empty() => app.filter.clear(),
        KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
        KeyCode::Char(digit @ '1'..='4') => return show(app, digit as usize - '1' as usize),
        KeyCode::Tab => return show(app, app.view as usize + 1),
        KeyCode::BackTab => return show(app, app.view as usize + View::ALL.len() - 1),
        KeyCode::Char('k') if app.view == View::Sessions => match app.kill_order() {
            Some(order) => app.question = Some(order),
            None => {
                app.message = Some(("there is no session here, or not any more".to_owned(), Tone::Doubtful))
            }
        },
        KeyCode::Up | KeyCode::Char('k') => app.choose(-1),
        KeyCode::Down | KeyCode::Char('j') => app.choose(1),
        KeyCode::PageUp => app.choose(-PAGE_ROWS),
        KeyCode::PageDown => app.choose(PAGE_ROWS),
        KeyCode::Home => app.choose(isize::MIN),
        KeyCode::End => app.choose(isize::MAX),
        KeyCode::Left => app.skipped = app.skipped.saturating_sub(1),
        KeyCode::Right => app.skipped = (app.skipped + 1).min(app.main_grid().titles.len().saturating_sub(2)),
        KeyCode::Char('s') => app.sort_by_next(),
        KeyCode::Char('/') => app.typing = true,
        KeyCode::Char('d') => app.question = Some(Order::Drain),
        KeyCode::Char('?') => app.help = true,
        KeyCode::Char('p') => {
            app.paused = !app.paused;
            if !app.paused {
                return Action::Look;
            }
        }
        _ => {}
    }
    Action::Nothing
}

fn show(app: &mut App, view: usize) -> Action {
    app.view = View::ALL[view % View::ALL.len()];
    (app.chosen, app.skipped) = (None, 0);
    if app.wants_sessions() && !app.paused { Action::Look } else { Action::Nothing }
}

fn answer(app: &mut App, order: Order, code: KeyCode) -> Action {
    if matches!(code, KeyCode::Char('y' | 'Y')) {
        app.message = Some(("waiting for the answer of the process".to_owned(), Tone::Plain));
        return Action::Give(order);
    }
    let not = match order {
        Order::Kill { session, .. } => format!("session {session} is not killed"),
        Order::Drain => "the process does not drain".to_owned(),
    };
    app.message = Some((not, Tone::Plain));
    Action::Nothing
}

fn type_filter(app: &mut App, code: KeyCode) {
    match code {
        KeyCode::Enter => app.typing = false,
        KeyCode::Esc => {
            app.typing = false;
            app.filter.clear();
        }
        KeyCode::Backspace => drop(app.filter.pop()),
        KeyCode::Char(character) if app.filter.chars().count() < FILTER_MAX => app.filter.push(character),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
