use super::super::feed::Look;
use super::*;
use crate::cli::testing::{sessions, status};

fn app() -> App {
    let mut app = App::new();
    app.note_look(Look { status: status(1), sessions: Some(Ok(sessions())) });
    app
}

fn press_all(app: &mut App, keys: &str) -> Action {
    let press = |key: char| press(app, KeyEvent::from(KeyCode::Char(key)));
    keys.chars().map(press).last().unwrap()
}

fn names(app: &App) -> Vec<String> {
    app.main_grid().rows.iter().map(|row| row[0].text.clone()).collect()
}

#[test]
fn nothing_is_killed_without_a_yes() {
    let mut app = app();
    for no in ["4k4", "4kn", "4kk", "4kq"] {
        assert_eq!(press_all(&mut app, no), Action::Nothing, "{no}");
        assert!(app.question.is_none());
        assert_eq!(app.message.as_ref().unwrap().0, "session 1 is not killed");
    }
    let order = Order::Kill { session: 2, client: "192.0.2.2:5000".into() };
    assert_eq!(press_all(&mut app, "4jky"), Action::Give(order.clone()));
    app.note_given(&order, Err("there is no such session".into()));
    assert_eq!(app.message, Some(("refused: there is no such session".into(), Tone::Bad)));
}

/// The rows may change between the question and the answer; what was asked about counts.
#[test]
fn question_is_about_the_session_that_it_names() {
    let mut app = app();
    press_all(&mut app, "4k");
    let mut page = sessions();
    page.sessions.remove(0);
    app.note_look(Look { status: status(2), sessions: Some(Ok(page)) });
    assert!(matches!(press_all(&mut app, "y"), Action::Give(Order::Kill { session: 1, .. })));
}

#[test]
fn session_that_takes_the_row_of_the_chosen_one_is_not_killed_in_its_place() {
    let mut app = app();
    press_all(&mut app, "4j");
    let mut page = sessions();
    page.sessions.remove(1);
    app.note_look(Look { status: status(2), sessions: Some(Ok(page)) });
    press_all(&mut app, "k");
    assert!(app.question.is_none() && app.message.is_some());
    press_all(&mut app, "k");
    assert!(matches!(app.question, Some(Order::Kill { session: 1, .. })), "the row that is marked now");
}

#[test]
fn drain_is_asked_for_in_every_view() {
    for view in ["1", "2", "3", "4"] {
        let mut app = app();
        assert_eq!(press_all(&mut app, &format!("{view}dx")), Action::Nothing);
        assert_eq!(press_all(&mut app, "dy"), Action::Give(Order::Drain));
    }
}

#[test]
fn sort_goes_through_the_columns_and_back_to_the_configuration() {
    let mut app = app();
    let columns = app.main_grid().titles.len();
    assert_eq!(names(&app), ["app/a", "app/b", "app/c"]);
    press_all(&mut app, "ssssss");
    assert_eq!(names(&app), ["app/c", "app/a", "app/b"], "by sessions");
    press_all(&mut app, &"s".repeat(columns - 5));
    assert_eq!((names(&app)[0].as_str(), app.sorted[0]), ("app/a", None));
}

#[test]
fn chosen_row_stays_chosen_when_rows_move() {
    let mut app = app();
    press_all(&mut app, "j");
    assert_eq!(app.chosen.as_deref(), Some("app/b"));
    press_all(&mut app, "ssssss");
    assert_eq!(app.chosen_row(&app.main_grid()), 2);
    press_all(&mut app, "jjk");
    assert_eq!(app.chosen.as_deref(), Some("app/a"));
}

#[test]
fn filter_takes_letters_that_are_keys_elsewhere() {
    let mut app = app();
    press_all(&mut app, "/down");
    assert_eq!(names(&app), ["app/b"]);
    press(&mut app, KeyEvent::from(KeyCode::Enter));
    assert!(!app.typing);
    assert_eq!(press(&mut app, KeyEvent::from(KeyCode::Esc)), Action::Nothing, "it ends the filter");
    assert_eq!(names(&app).len(), 3);
    assert_eq!(press(&mut app, KeyEvent::from(KeyCode::Esc)), Action::Quit);
}

#[test]
fn control_c_quits_from_anywhere() {
    for before in ["/", "d", "?", "p", "4k"] {
        let mut app = app();
        press_all(&mut app, before);
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(press(&mut app, key), Action::Quit, "{before}");
    }
}

/// Ctrl-D is an end of input to many, and no `d`.
#[test]
fn letter_with_control_or_alt_is_another_key() {
    for modifiers in [KeyModifiers::CONTROL, KeyModifiers::ALT] {
        let mut app = app();
        assert_eq!(press(&mut app, KeyEvent::new(KeyCode::Char('d'), modifiers)), Action::Nothing);
        assert!(app.question.is_none());
    }
    let press_control =
        |app: &mut App, key| press(app, KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL));
    let mut app = app();
    press_all(&mut app, "/ax");
    press_control(&mut app, 'h');
    assert_eq!(app.filter, "a");
    assert_eq!(press_control(&mut app, 'z'), Action::Stop);
    assert_eq!(press_control(&mut app, 'l'), Action::Redraw);
    assert!(app.typing, "nothing has changed");
}

#[test]
fn help_and_pause_end_with_the_same_key() {
    let mut app = app();
    assert_eq!(press_all(&mut app, "?"), Action::Nothing);
    assert_eq!(press_all(&mut app, "?"), Action::Nothing);
    assert!(!app.help);
    assert_eq!(press_all(&mut app, "p"), Action::Nothing);
    assert!(app.paused);
    assert_eq!(press_all(&mut app, "p"), Action::Look);
}

#[test]
fn nothing_to_choose_is_no_panic() {
    let mut app = App::new();
    press_all(&mut app, "jks4jk/x");
    assert!(app.question.is_none());
}
