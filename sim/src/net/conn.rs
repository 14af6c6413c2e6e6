//! One TCP connection as a state machine: two ends, and what is under way to each.
//!
//! Nothing here waits. A segment carries the moment it arrives; whoever looks at a connection first
//! *settles* it: everything due by now has happened. Between two changes of the topology this is exact,
//! and before each change all connections are settled, so it is exact always.
//!
//! Invariants:
//!
//! - segments of one direction arrive in the order they were sent;
//! - a direction whose link carries packets holds no [`Arrival::Held`] segment; a direction whose
//!   link does not holds only those. A link that drops large writes holds the first of them and all
//!   that follow;
//! - an end that is not open receives nothing and sends nothing.

use std::collections::VecDeque;
use std::io;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::topology::HostName;

/// When something under way arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    At(Instant),
    /// Some time after the link carries packets again: TCP keeps retransmitting.
    Held,
}

impl Arrival {
    fn is_due(self, now: Instant) -> bool {
        matches!(self, Self::At(at) if at <= now)
    }

    pub(super) fn at(self) -> Option<Instant> {
        match self {
            Self::At(at) => Some(at),
            Self::Held => None,
        }
    }
}

#[derive(Debug)]
pub(super) enum Payload {
    Data(Bytes),
    Fin,
}

impl Payload {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Fin => 0,
        }
    }
}

/// A reset under way.
#[derive(Debug)]
pub(super) struct Reset {
    pub(super) arrival: Arrival,
    /// It answers data, which is sent again until the reset arrives: it is not lost for good.
    pub(super) answers_data: bool,
}

#[derive(Debug)]
pub(super) struct Segment {
    arrival: Arrival,
    payload: Payload,
}

/// One end, and the direction that leads to it.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "TCP's half-closed states are independent facts")]
pub(super) struct End {
    pub(super) host: HostName,
    /// A live process holds this end (or it waits in a listener's backlog).
    pub(super) open: bool,
    /// The host lost power: not even its kernel knows this connection.
    pub(super) vanished: bool,
    /// This end has sent its FIN.
    pub(super) fin_sent: bool,
    /// The peer's FIN has arrived: end of file after `arrived`.
    pub(super) eof: bool,
    /// A reset has arrived.
    pub(super) error: Option<io::ErrorKind>,
    /// A reset is under way to this end.
    pub(super) reset: Option<Reset>,
    /// Received and not yet read.
    pub(super) arrived: VecDeque<Bytes>,
    /// Under way to this end, in order.
    flight: VecDeque<Segment>,
    /// Since when TCP tries: when the first of what is or was held was sent, or caught on its way. Pauses between tries
    /// begin anew only once something arrived, however often the link heals and breaks meanwhile.
    pub(super) held_since: Option<Instant>,
    /// Bytes in `arrived` and `flight` together, bounded by the window.
    pub(super) unread_bytes: usize,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl End {
    fn new(host: HostName) -> Self {
        Self {
            host,
            open: true,
            vanished: false,
            fin_sent: false,
            eof: false,
            error: None,
            reset: None,
            arrived: VecDeque::new(),
            flight: VecDeque::new(),
            held_since: None,
            unread_bytes: 0,
            reader: None,
            writer: None,
        }
    }

    /// Queues a segment that is sent `now` and arrives `arrival`, or right after the one sent before it.
    pub(super) fn push(&mut self, now: Instant, arrival: Arrival, payload: Payload) {
        if arrival == Arrival::Held {
            self.held_since.get_or_insert(now);
        }
        let last = self.flight.back().map(|segment| segment.arrival);
        let arrival = match (arrival, last) {
            (Arrival::At(at), Some(Arrival::At(last))) => Arrival::At(at.max(last)),
            (_, Some(Arrival::Held)) => Arrival::Held,
            (arrival, None | Some(Arrival::At(_))) => arrival,
        };
        self.unread_bytes += payload.bytes();
        self.flight.push_back(Segment { arrival, payload });
    }

    /// When the last segment under way arrives: a reset is not sent ahead of the data before it.
    pub(super) fn last_arrival(&self) -> Option<Instant> {
        self.flight.back().and_then(|segment| segment.arrival.at())
    }

    /// The link stopped carrying packets: what has not arrived will be sent again later.
    pub(super) fn hold(&mut self, now: Instant) {
        if !self.flight.is_empty() || self.reset.is_some() {
            self.held_since.get_or_insert(now);
        }
        for segment in &mut self.flight {
            segment.arrival = Arrival::Held;
        }
        if let Some(reset) = &mut self.reset {
            reset.arrival = Arrival::Held;
        }
    }

    /// The link carries packets again, of up to `size_max` bytes. The held segments arrive at `at`,
    /// up to the first segment that is larger.
    pub(super) fn release(&mut self, at: Instant, size_max: Option<usize>) {
        for segment in &mut self.flight {
            let bytes = segment.payload.bytes();
            if size_max.is_some_and(|size_max| bytes > size_max) {
                break;
            }
            segment.arrival = Arrival::At(at);
        }
        if let Some(reset) = &mut self.reset {
            reset.arrival = Arrival::At(at);
        }
    }

    /// The sender's memory is gone: what it would have sent again never comes.
    pub(super) fn forget_held(&mut self) {
        self.flight.retain(|segment| segment.arrival != Arrival::Held);
        self.reset.take_if(|reset| reset.arrival == Arrival::Held && !reset.answers_data);
        if self.flight.is_empty() && self.reset.is_none() {
            self.held_since = None;
        }
        self.recount();
    }

    /// The process that held this end is gone, or let go of it.
    pub(super) fn let_go(&mut self) {
        self.open = false;
        self.reset = None;
        self.arrived.clear();
        self.recount();
    }

    fn recount(&mut self) {
        let under_way = self.flight.iter().map(|segment| segment.payload.bytes());
        self.unread_bytes =
            self.arrived.iter().map(Bytes::len).sum::<usize>() + under_way.sum::<usize>();
    }

    /// Moves both tasks that wait on this end to `wake`.
    pub(super) fn wake_into(&mut self, wake: &mut Vec<Waker>) {
        wake.extend(self.reader.take());
        wake.extend(self.writer.take());
    }
}

/// What settling did, for the trace and for the follow-up that needs the topology.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happened {
    Data { side: usize, bytes: usize },
    Eof { side: usize },
    Reset { side: usize },
}

/// A connection; side 0 is the client's, side 1 the server's.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) ends: [End; 2],
}

impl Conn {
    pub(super) fn new(client: HostName, server: HostName) -> Self {
        Self { ends: [End::new(client), End::new(server)] }
    }

    /// No process holds either end: nobody can observe what is still under way.
    pub(super) fn is_over(&self) -> bool {
        self.ends.iter().all(|end| !end.open)
    }

    /// Makes everything happen that is due by `now`.
    ///
    /// `answer` says how a reset sent from a side travels: the latency of its link, or `None` when that
    /// carries nothing.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        mut answer: impl FnMut(&Self, usize) -> Option<Duration>,
        mut happened: impl FnMut(&Self, Happened),
    ) {
        for side in [0, 1] {
            while self.ends[side].flight.front().is_some_and(|segment| segment.arrival.is_due(now))
            {
                let Some(segment) = self.ends[side].flight.pop_front() else {
                    break;
                };
                self.ends[side].held_since = None;
                if self.ends[side].open {
                    let event = self.receive(side, segment.payload);
                    happened(self, event);
                    continue;
                }
                // Nobody is there. Data for a connection that was closed, and anything for one that the
                // host no longer knows, is answered with a reset (RFC 9293 §3.10.7.1).
                let answered = match &segment.payload {
                    Payload::Data(data) => {
                        self.ends[side].unread_bytes -= data.len();
                        true
                    }
                    Payload::Fin => self.ends[side].vanished,
                };
                let sender = &self.ends[1 - side];
                if answered && sender.open && sender.error.is_none() && sender.reset.is_none() {
                    let sent = segment.arrival.at().unwrap_or(now);
                    let arrival = match answer(self, side) {
                        Some(latency) => Arrival::At(sent + latency),
                        None => {
                            self.ends[1 - side].held_since.get_or_insert(sent);
                            Arrival::Held
                        }
                    };
                    self.ends[1 - side].reset = Some(Reset { arrival, answers_data: true });
                }
            }
        }
        for side in [0, 1] {
            if self.ends[side].reset.as_ref().is_some_and(|reset| reset.arrival.is_due(now)) {
                self.reset(side);
                happened(self, Happened::Reset { side });
            }
        }
    }

    fn receive(&mut self, side: usize, payload: Payload) -> Happened {
        match payload {
            Payload::Data(data) => {
                let bytes = data.len();
                self.ends[side].arrived.push_back(data);
                Happened::Data { side, bytes }
            }
            Payload::Fin => {
                self.ends[side].eof = true;
                Happened::Eof { side }
            }
        }
    }

    /// A reset reached `side`: nothing under way in either direction matters to it any more.
    pub(super) fn reset(&mut self, side: usize) {
        let end = &mut self.ends[side];
        end.reset = None;
        end.error = Some(io::ErrorKind::ConnectionReset);
        end.flight.clear();
        end.recount();
        let peer = &mut self.ends[1 - side];
        peer.flight.clear();
        peer.recount();
    }

    /// When, if the topology stays as it is, something next happens that `side` can notice.
    pub(super) fn next_event(&self, side: usize) -> Option<Instant> {
        let end = &self.ends[side];
        let peer = &self.ends[1 - side];
        let incoming = end.flight.front().and_then(|segment| segment.arrival.at());
        let reset = end.reset.as_ref().and_then(|reset| reset.arrival.at());
        // What this side sent to nobody comes back as a reset.
        let outgoing =
            peer.flight.front().filter(|_| !peer.open).and_then(|segment| segment.arrival.at());
        [incoming, reset, outgoing].into_iter().flatten().min()
    }
}
