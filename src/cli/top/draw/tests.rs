use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::feed::Look;
use super::*;
use crate::cli::testing::{sessions, status};

fn app() -> App {
    let mut app = App::new();
    app.note_look(Look { status: status(1), sessions: None });
    app.note_look(Look { status: status(2), sessions: Some(Ok(sessions())) });
    app
}

fn drawn(app: &App, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let Rect { width, height, .. } = buffer.area;
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

/// Returns the style of the first place where a text stands.
#[track_caller]
fn style_of(buffer: &Buffer, text: &str) -> Style {
    for (y, line) in lines(buffer).iter().enumerate() {
        if let Some(at) = line.find(text) {
            let x = line[..at].chars().count();
            return buffer[(u16::try_from(x).unwrap(), u16::try_from(y).unwrap())].style();
        }
    }
    panic!("{text} is not in {:#?}", lines(buffer));
}

#[test]
fn overview_fits_into_80_by_24() {
    let lines = lines(&drawn(&app(), 80, 24));
    let expected = [
        "ringway 1.2.3  pid 4711  up 20.0 s  running  generation 1  42 of 65,000 sessions",
        "3 log records lost",
        " 1 Overview   2 Backends   3 Cores   4 Sessions",
        "Sessions a second: 1,235 now, 1,235 at most",
        "█",
        "█",
        "█",
        "Listeners",
        "listener  ready  open  max  accepts/s  denied/s  errors/s  most of them",
        "web       yes      42   99      1,235       1.0       2.5  no_backend",
        "Upstreams",
        "upstream  eligible  waiting  retries/s  over budget/s  connect p50  connect p99",
        "app         1 of 3        2        3.0              0       750 us       995 us",
        "Backends",
        "backend  state    open  max  limit  sessions/s  failures/s  broken/s  connect",
        "app/a    up         21   50      -         100           0         0   250 us",
        "app/b    down       21   50    100           0           0         0        -",
        "app/c    ejected    21   50      -         300           0         0   250 us",
        "Cores",
        "core  busy  open  sessions/s  turns/s  completions/s  slow turns/s  handed off/s",
    ];
    assert_eq!(lines[..expected.len()], expected, "{lines:#?}");
    assert_eq!(lines[23], "q quit  tab view  s sort  / filter  p pause  d drain  ? help");
}

#[test]
fn wide_terminal_shows_checks_and_cores() {
    let lines = lines(&drawn(&app(), 140, 40));
    let has = |text: &str| assert!(lines.iter().any(|line| line.contains(text)), "{text}: {lines:#?}");
    has("Connection refused, 2.5 s ago");
    has("core  busy  open  sessions/s  turns/s  completions/s  slow turns/s");
    has("0     38 %");
}

#[test]
fn states_have_colours_and_old_values_are_grey() {
    let mut app = app();
    let buffer = drawn(&app, 120, 40);
    assert_eq!(style_of(&buffer, "down ").fg, Some(Color::Red));
    assert_eq!(style_of(&buffer, "ejected").fg, Some(Color::Yellow));
    assert_eq!(style_of(&buffer, "running").fg, Some(Color::Green));
    app.note_lost("/x: no such socket".to_owned());
    let buffer = drawn(&app, 120, 40);
    assert_eq!(style_of(&buffer, "down ").fg, Some(Color::DarkGray));
    assert_eq!(lines(&buffer)[39], "No answer, trying again: /x: no such socket");
    app.note_look(Look { status: status(3), sessions: None });
    assert_eq!(style_of(&drawn(&app, 120, 40), "down ").fg, Some(Color::Red));
}

#[test]
fn sessions_are_listed_and_the_chosen_one_is_marked() {
    let mut app = app();
    app.view = View::Sessions;
    app.chosen = Some("2".into());
    let buffer = drawn(&app, 120, 12);
    let lines = lines(&buffer);
    assert_eq!(lines[2], "Sessions", "{lines:#?}");
    assert!(lines[5].contains("192.0.2.2:5000"), "{lines:#?}");
    assert!(style_of(&buffer, "192.0.2.2").add_modifier.contains(Modifier::REVERSED));
    assert!(!style_of(&buffer, "192.0.2.1").add_modifier.contains(Modifier::REVERSED));
    app.question = app.kill_order();
    let lines = super::tests::lines(&drawn(&app, 120, 12));
    assert_eq!(lines[11], "Kill session 2 of 192.0.2.2:5000? y/n");
}

#[test]
fn chosen_row_is_always_in_sight() {
    let mut app = app();
    let mut page = sessions();
    let one = page.sessions[0].clone();
    page.sessions = (0..500).map(|id| crate::control::process::SessionStatus { id, ..one.clone() }).collect();
    app.sessions = Ok(page);
    app.view = View::Sessions;
    app.chosen = Some("321".into());
    let lines = lines(&drawn(&app, 100, 20));
    assert!(lines.iter().any(|line| line.trim_start().starts_with("321 ")), "{lines:#?}");
    assert!(lines[2].starts_with("Sessions (308 to 322 of 500)"), "{lines:#?}");
}

/// Whoever is asked must see the whole question, and whoever gets no answer the remedy.
#[test]
fn long_line_at_the_bottom_is_wrapped() {
    let mut app = app();
    app.question = Some(Order::Drain);
    let lines_of = |app: &App| lines(&drawn(app, 40, 12));
    assert_eq!(lines_of(&app)[10..], ["Drain process 4711, so that it ends with", "its last session? y/n"]);
    app.question = None;
    app.note_given(&Order::Drain, Ok(()));
    app.note_lost("/x: no such socket; start `ringway`".to_owned());
    let expected = ["No answer, trying again: /x: no such", "socket; start `ringway`"];
    assert_eq!(lines_of(&app)[10..], expected, "it is more than what became of the last order");
    app.note_look(Look { status: status(3), sessions: None });
    assert_eq!(lines_of(&app)[11], "the process drains");
    assert_eq!(wrapped(&"word ".repeat(100), 10).len(), FOOTER_MAX);
}

#[test]
fn no_size_is_too_small_and_no_view_panics() {
    for view in View::ALL {
        for (width, height) in [(1, 1), (2, 3), (10, 5), (20, 8), (39, 12), (80, 24), (300, 100)] {
            let mut app = app();
            (app.view, app.skipped, app.paused) = (view, 5, true);
            drawn(&app, width, height);
            app.help = true;
            drawn(&app, width, height);
            drawn(&App::new(), width, height);
        }
    }
}

#[test]
fn columns_to_the_right_come_into_sight() {
    let mut app = app();
    app.view = View::Backends;
    assert!(!lines(&drawn(&app, 80, 24)).join("\n").contains("Connection refused"));
    app.skipped = 6;
    let lines = lines(&drawn(&app, 80, 24));
    let shown = lines.iter().find(|line| line.contains("Connection refused")).unwrap();
    assert!(shown.starts_with("app/b "), "the name stays: {shown}");
}

#[test]
fn tall_sections_give_lines_away_first() {
    assert_eq!(share(20, &[3, 3, 100, 4]), [3, 3, 10, 4]);
    assert_eq!(share(100, &[3, 3, 10, 4]), [3, 3, 10, 4]);
    assert_eq!(share(7, &[5, 5, 5]), [4, 3, 0]);
    assert_eq!(share(2, &[5, 5]), [0, 0]);
}
