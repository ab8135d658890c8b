//! The answers that are being worked out. A process that ends waits for them a moment: whoever has asked for its end, or for
//! its successor, wants to know what became of that.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts answers; clones count together.
#[derive(Clone, Debug, Default)]
pub struct UnderWay(Arc<watch::Sender<usize>>);

/// Counts one answer until it is dropped. A connection writes an answer in the same poll in which it gets it, so whoever sees
/// the count fall finds it written.
pub(super) struct Answering<'a>(&'a UnderWay);

impl UnderWay {
    pub(super) fn begin(&self) -> Answering<'_> {
        self.0.send_modify(|count| *count += 1);
        Answering(self)
    }

    /// Waits until there is none.
    pub async fn end(&self) {
        // The sender is not dropped as long as this waits.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
