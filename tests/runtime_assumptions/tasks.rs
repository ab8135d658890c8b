//! Rule 8: panics, and the tasks they happen in.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ringway::uring::Ring;

use crate::support::{SMALL, executor, on_ring};

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

/// The thread of a shard sees it, and takes the process down (`server::spawn_shard`).
#[test]
fn panic_in_a_vital_task_ends_the_executor_in_any_poll() {
    for first_poll in [true, false] {
        let shard = std::thread::spawn(move || {
            executor().run(async move {
                let ring = Ring::new(SMALL).expect("this kernel has what a ring needs");
                let timer = ring.clone();
                ring.spawn_vital(async move {
                    if !first_poll {
                        timer.sleep_until(timer.now().after(Duration::from_millis(2))).await;
                    }
                    panic!("wanted by the test");
                });
                ring.drive().await;
            });
        });
        assert!(shard.join().is_err(), "first poll: {first_poll}");
    }
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
