//! Answers what operators ask, in the inbox task of the shard: a bounded piece of work at a time.

use super::questions::{Killed, OpenSession, Question, SessionsFound, SessionsWanted};
use super::run::Residents;
use super::sessions::Session;
use crate::base::Moment;
use crate::upstream::{Preview, PreviewStep};

/// Maximum number of positions of the table of sessions that one question looks at.
const LOOKED_AT_MAX: usize = 4_096;

impl Residents {
    /// Answers a question.
    pub(super) fn answer(&self, question: Question) {
        match question {
            Question::Sessions(wanted, reply) => reply(self.find(&wanted)),
            Question::Kill(id, from, reply) => reply(self.kill(id, from)),
            Question::Preview(listener, (client, hello), reply) => {
                let listener = self.listeners.iter().find(|known| known.id == listener);
                reply(listener.map(|listener| match listener.lead(Some(&hello)) {
                    _ if !listener.is_open() => Preview { steps: vec![PreviewStep::AwaitsVerdicts] },
                    Some(position) => listener.destination(position).upstream.preview(client, &hello),
                    None => Preview { steps: Vec::new() },
                }));
            }
        }
    }

    fn kill(&self, id: u64, from: usize) -> Killed {
        match self.shard.sessions.find(id, from, LOOKED_AT_MAX) {
            (Some(session), _) => {
                session.kill();
                Killed::Yes
            }
            (None, true) => Killed::NotBefore(from + LOOKED_AT_MAX),
            (None, false) => Killed::No,
        }
    }

    fn find(&self, wanted: &SessionsWanted) -> SessionsFound {
        let mut found = SessionsFound::default();
        let (sessions, more) = self.shard.sessions.range(wanted.from, LOOKED_AT_MAX);
        let now = Moment::read_clock();
        for session in sessions {
            if found.sessions.len() == wanted.limit {
                found.next = Some(session.position());
                return found;
            }
            let open = Self::view(&session, now);
            if wanted.admits(&open) {
                found.sessions.push(open);
            }
        }
        found.next = more.then_some(wanted.from + LOOKED_AT_MAX);
        found
    }

    fn view(session: &Session, now: Moment) -> OpenSession {
        OpenSession {
            id: session.id,
            client: session.client(),
            listener: session.listener,
            upstream: session.upstream.get(),
            backend: session.backend.get(),
            phase: session.phase.get(),
            age_micros: u64::try_from(now.since(session.begun).as_micros()).unwrap_or(u64::MAX),
            to_backend: session.to_backend.get(),
            to_client: session.to_client.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::base::{ClientAddress, ListenerId};
    use crate::protocol::client_hello::ClientHello;
    use crate::uring::{BufferSettings, Ring};

    #[test]
    fn client_of_a_listener_without_its_first_verdicts_gets_no_backend() {
        let ring = Ring::new(BufferSettings { bytes: 4096, count: 64 }).expect("a ring");
        let (residents, ..) = Residents::new(&ring, testing::parts(1, Vec::new()).0);
        let (sender, answer) = crossbeam_channel::bounded(1);
        let client = (ClientAddress::UNIX, ClientHello::default());
        let reply = move |preview| sender.send(preview).expect("room");
        residents.answer(Question::Preview(ListenerId(0), client, Box::new(reply)));
        let preview = answer.recv().expect("an answer").expect("there is this listener");
        assert_eq!(preview.steps, [PreviewStep::AwaitsVerdicts]);
    }
}
