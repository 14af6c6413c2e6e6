//! [`SimStream`]: a process's hold on one end of a connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::Payload;
use super::{Network, State};
use crate::runtime::SimSleep;

/// A connected byte stream. Dropping it closes the connection, unless its process is already dead.
pub struct SimStream {
    net: Network,
    conn: u64,
    side: usize,
    reading: Option<SimSleep>,
    writing: Option<SimSleep>,
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStream(#{}, side {})", self.conn, self.side)
    }
}

/// What a poll found: an outcome, or the moment to look again.
type Step<T> = Result<io::Result<T>, Option<Instant>>;

impl SimStream {
    pub(super) fn new(net: Network, conn: u64, side: usize) -> Self {
        Self { net, conn, side, reading: None, writing: None }
    }

    /// The connection's number, as in the trace.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.conn
    }

    /// Whether the peer's host lost power since, so that only a new handshake could help.
    pub(super) fn peer_vanished(&self) -> bool {
        self.net.with(|state, _| match state.conns.get(&self.conn) {
            Some(conn) => conn.ends[1 - self.side].vanished,
            None => true,
        })
    }

    /// Runs `step` until it has an outcome, sleeping on `timer` in between.
    fn poll_step<T>(
        net: &Network,
        timer: &mut Option<SimSleep>,
        cx: &mut Context<'_>,
        mut step: impl FnMut(&mut State, Instant, &Context<'_>) -> Step<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            let due = match net.with(|state, now| step(state, now, cx)) {
                Ok(outcome) => {
                    *timer = None;
                    return Poll::Ready(outcome);
                }
                Err(due) => due,
            };
            let Some(due) = due else {
                *timer = None;
                return Poll::Pending;
            };
            if timer.as_ref().is_none_or(|timer| timer.deadline() != due) {
                *timer = Some(SimSleep::until_exactly(net.time(), due));
            }
            let Some(sleep) = timer else {
                return Poll::Pending;
            };
            if Pin::new(sleep).poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// The error of an end that its process no longer holds.
fn fenced() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the process that held this stream is dead")
}

impl State {
    fn read(
        &mut self,
        id: u64,
        side: usize,
        now: Instant,
        buf: &mut ReadBuf<'_>,
        cx: &Context<'_>,
    ) -> Step<()> {
        self.settle(id, now);
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.ends[side].open) else {
            return Ok(Err(fenced()));
        };
        let end = &mut conn.ends[side];
        let before = buf.remaining();
        while let Some(data) = end.arrived.front_mut() {
            let n = data.len().min(buf.remaining());
            buf.put_slice(&data[..n]);
            data.advance(n);
            if !data.is_empty() {
                break;
            }
            end.arrived.pop_front();
        }
        let read = before - buf.remaining();
        if read > 0 {
            end.unread_bytes -= read;
            self.wake.extend(conn.ends[1 - side].writer.take());
            return Ok(Ok(()));
        }
        if end.eof || before == 0 {
            return Ok(Ok(()));
        }
        if let Some(kind) = end.error {
            return Ok(Err(kind.into()));
        }
        end.reader = Some(cx.waker().clone());
        Err(conn.next_event(side))
    }

    fn write(
        &mut self,
        id: u64,
        side: usize,
        now: Instant,
        data: &[u8],
        cx: &Context<'_>,
    ) -> Step<usize> {
        self.settle(id, now);
        let window = self.config.window_bytes;
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.ends[side].open) else {
            return Ok(Err(fenced()));
        };
        let end = &mut conn.ends[side];
        if let Some(kind) = end.error {
            return Ok(Err(kind.into()));
        }
        if end.fin_sent {
            return Ok(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = data.len().min(window.saturating_sub(conn.ends[1 - side].unread_bytes));
        if n == 0 && !data.is_empty() {
            conn.ends[side].writer = Some(cx.waker().clone());
            self.stalled_writes += 1;
            return Err(conn.next_event(side));
        }
        if n > 0 {
            self.send(id, side, now, Payload::Data(Bytes::copy_from_slice(&data[..n])));
        }
        Ok(Ok(n))
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { net, conn, side, reading, .. } = self.get_mut();
        Self::poll_step(net, reading, cx, |state, now, cx| state.read(*conn, *side, now, buf, cx))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { net, conn, side, writing, .. } = self.get_mut();
        Self::poll_step(net, writing, cx, |state, now, cx| state.write(*conn, *side, now, data, cx))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.net.with(|state, now| {
            state.settle(self.conn, now);
            state.send_fin(self.conn, self.side, now);
        });
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.net.with(|state, now| state.close(self.conn, self.side, now));
    }
}
