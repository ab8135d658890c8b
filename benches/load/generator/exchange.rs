//! One session that sends messages and takes an answer to each: an echo, or as many bytes as it asked for.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use crate::epoll::{BOTH, Epoll, Interest, READ};
use crate::pattern::Pattern;
use crate::request;
use crate::wire::Wire;

/// What comes back.
enum Answer {
    /// The message.
    Echo,
    /// The next so many bytes of the pattern.
    Stream { bytes: usize, pattern: Rc<Pattern> },
}

/// The message under way, and those that wait for their turn (open loop only).
pub(super) struct Exchange {
    pub(super) stream: Wire,
    message: Vec<u8>,
    answer: Answer,
    number: u64,
    sent: usize,
    received: usize,
    /// When the message under way was due.
    due: Option<Instant>,
    waiting: VecDeque<Instant>,
}

impl Exchange {
    /// Messages like this one, which are echoed.
    pub(super) fn echo(stream: Wire, message: Vec<u8>) -> Exchange {
        Exchange::new(stream, message, Answer::Echo)
    }

    /// Requests that are answered with so many bytes.
    pub(super) fn ask(stream: Wire, bytes: usize, pattern: Rc<Pattern>) -> Exchange {
        Exchange::new(stream, vec![0; request::BYTES], Answer::Stream { bytes, pattern })
    }

    fn new(stream: Wire, message: Vec<u8>, answer: Answer) -> Exchange {
        Exchange {
            stream,
            message,
            answer,
            number: 0,
            sent: 0,
            received: 0,
            due: None,
            waiting: VecDeque::new(),
        }
    }

    /// Starts a message that was due at `due`.
    pub(super) fn begin(&mut self, epoll: &Epoll, token: usize, due: Instant) -> io::Result<()> {
        match &self.answer {
            Answer::Echo => {
                // At the end, so that what a message begins with, which a balancer may read, stays as it is.
                let start = self.message.len().saturating_sub(8);
                let (tail, number) = (&mut self.message[start..], (self.number + 1).to_le_bytes());
                tail.copy_from_slice(&number[..tail.len()]);
            }
            Answer::Stream { bytes, pattern } => {
                request::write(&mut self.message, self.number * request::BYTES as u64, *bytes, pattern);
            }
        }
        self.number += 1;
        self.due = Some(due);
        self.received = 0;
        self.sent = self.stream.write_some(&self.message)?;
        if self.has_more_to_send() { epoll.change(&self.stream, token, BOTH) } else { Ok(()) }
    }

    /// Starts a message, or lets it wait for the one under way.
    pub(super) fn begin_in_turn(&mut self, epoll: &Epoll, token: usize, due: Instant) -> io::Result<()> {
        if self.due.is_some() {
            self.waiting.push_back(due);
            return Ok(());
        }
        self.begin(epoll, token, due)
    }

    /// Goes on as far as the socket allows; when the message was due, if its answer is complete now.
    pub(super) fn turn(
        &mut self,
        epoll: &Epoll,
        token: usize,
        ready: Interest,
        buffer: &mut [u8],
    ) -> io::Result<Option<Instant>> {
        if ready.write && self.has_more_to_send() {
            self.sent += self.stream.write_some(&self.message[self.sent..])?;
            if !self.has_more_to_send() {
                epoll.change(&self.stream, token, READ)?;
            }
        }
        if !ready.read {
            return Ok(None);
        }
        let count = match self.stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        if self.expected(count) != Some(&buffer[..count]) {
            return Err(io::Error::other("the answer differs"));
        }
        self.received += count;
        Ok(if self.received == self.answer_bytes() { self.due.take() } else { None })
    }

    fn answer_bytes(&self) -> usize {
        match &self.answer {
            Answer::Echo => self.message.len(),
            Answer::Stream { bytes, .. } => *bytes,
        }
    }

    /// The next `count` bytes of the answer; `None` if it has not so many.
    fn expected(&self, count: usize) -> Option<&[u8]> {
        match &self.answer {
            Answer::Echo => self.message.get(self.received..self.received + count),
            Answer::Stream { bytes, pattern } => {
                let before = self.number.saturating_sub(1) * *bytes as u64;
                (self.received + count <= *bytes).then(|| &pattern.at(before + self.received as u64)[..count])
            }
        }
    }

    fn has_more_to_send(&self) -> bool {
        self.sent < self.message.len() || self.stream.is_behind()
    }

    /// Whether a message was ever sent.
    pub(super) fn has_begun(&self) -> bool {
        self.number > 0
    }

    /// The next message that waits, if any: when it was due.
    pub(super) fn next_waiting(&mut self) -> Option<Instant> {
        self.waiting.pop_front()
    }

    /// Messages that were due and are not answered.
    pub(super) fn unanswered(&self) -> usize {
        usize::from(self.due.is_some()) + self.waiting.len()
    }
}
