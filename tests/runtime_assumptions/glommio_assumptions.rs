//! What we assume of glommio 0.9: the order of its run queue, and that a spawned task runs at once.
#![expect(clippy::disallowed_methods, reason = "these tests are about the executor itself")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Poll;

fn on_executor<T>(future: impl Future<Output = T>) -> T {
    let builder = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound).io_memory(64 << 10).ring_depth(8);
    builder.make().expect("glommio runs here").run(future)
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn run_queue_is_first_in_first_out() {
    on_executor(async {
        let log = Rc::new(RefCell::new(Vec::new()));
        for name in 0..3 {
            let log = Rc::clone(&log);
            glommio::spawn_local(async move {
                for _ in 0..4 {
                    log.borrow_mut().push(name);
                    yield_once().await;
                }
            })
            .detach();
        }
        for _ in 0..8 {
            yield_once().await;
        }
        assert_eq!(*log.borrow(), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    });
}

#[test]
fn spawned_task_is_polled_at_once_inside_its_parent() {
    on_executor(async {
        let polled = Rc::new(Cell::new(false));
        let theirs = Rc::clone(&polled);
        glommio::spawn_local(async move { theirs.set(true) }).detach();
        assert!(polled.get());
    });
}

#[test]
fn task_that_yields_goes_behind_one_that_it_woke() {
    on_executor(async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let waker = Rc::new(RefCell::new(None));
        let (their_log, their_waker) = (Rc::clone(&log), Rc::clone(&waker));
        glommio::spawn_local(async move {
            let mut first = true;
            std::future::poll_fn(|context| {
                if std::mem::replace(&mut first, false) {
                    *their_waker.borrow_mut() = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
            their_log.borrow_mut().push("woken");
        })
        .detach();
        waker.borrow_mut().take().map(std::task::Waker::wake).expect("it was polled");
        yield_once().await;
        log.borrow_mut().push("yielded");
        assert_eq!(*log.borrow(), ["woken", "yielded"]);
    });
}
