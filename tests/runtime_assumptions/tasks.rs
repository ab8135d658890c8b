//! Rule 8: panics, and the tasks they happen in.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::support::{SMALL, on_ring};

struct SetOnDrop(Rc<Cell<bool>>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn panic_in_the_first_poll_ends_that_task_alone() {
    on_ring(SMALL, |ring| async move {
        let dropped = Rc::new(Cell::new(false));
        let guard = SetOnDrop(dropped.clone());
        ring.spawn(async move {
            let _guard = guard;
            panic!("wanted by the test");
        });
        assert!(dropped.get(), "the guards of the task were dropped");
        assert_eq!(ring.panics(), 1);
        ring.sleep_until(ring.now().after(Duration::from_millis(5))).await;
    });
}

#[test]
fn panic_in_a_later_poll_ends_that_task_alone() {
    on_ring(SMALL, |ring| async move {
        let dropped = Rc::new(Cell::new(false));
        let guard = SetOnDrop(dropped.clone());
        let timer = ring.clone();
        ring.spawn(async move {
            let _guard = guard;
            timer.sleep_until(timer.now().after(Duration::from_millis(2))).await;
            panic!("wanted by the test");
        });
        ring.sleep_until(ring.now().after(Duration::from_millis(20))).await;
        assert!(dropped.get(), "the guards of the task were dropped");
        assert_eq!(ring.panics(), 1);
    });
}

#[test]
fn next_turn_comes_once_the_kernel_was_asked() {
    on_ring(SMALL, |ring| async move {
        for _ in 0..100 {
            let turn = ring.turn();
            ring.next_turn().await;
            assert_eq!(ring.turn(), turn + 1);
        }
    });
}
