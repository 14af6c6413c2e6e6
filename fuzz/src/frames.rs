//! A Raft connection's bytes, as they arrive.
//!
//! The first byte says which way they go ([`Way`]), the second in what portions they arrive; the rest is
//! the stream. What must hold:
//!
//! - portions and waiting do not matter: the same messages come out as when the stream is cut up by hand;
//! - it ends as it should: closed between frames, cut off inside one, or with a frame that is too large
//!   or no message;
//! - a message that was received can be sent, and is then received again.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};
use yakt::env::TokioEnv;
use yakt::raft::config::FRAME_BYTES_MAX;
use yakt::raft::network::frame;
use yakt::raft::network::message::{Call, Hello, Return};

/// Which way a stream goes.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// To the callee: a [`Hello`], then [`Call`]s.
    There,
    /// Back to the caller: [`Return`]s.
    Back,
}

/// What came out of a stream: messages, encoded anew, and the error that ended it, if it was not closed.
type Received = (Vec<Vec<u8>>, Option<io::ErrorKind>);

/// The input that makes [`run`] send `bytes` that `way`, in portions that `portions` decides.
#[must_use]
pub fn input(way: Way, portions: u8, bytes: &[u8]) -> Vec<u8> {
    [&[way as u8, portions], bytes].concat()
}

/// Runs the target.
///
/// # Panics
///
/// When something is wrong.
pub fn run(data: &[u8]) {
    let [way, portions, bytes @ ..] = data else { return };
    if way % 2 == Way::There as u8 {
        check::<Hello, Call<TokioEnv>>(bytes, *portions);
    } else {
        check::<Return<TokioEnv>, Return<TokioEnv>>(bytes, *portions);
    }
}

/// A stream of one `First` and then `Next`s.
fn check<First: Message, Next: Message>(bytes: &[u8], portions: u8) {
    let received = receive::<First, Next>(bytes, portions);
    assert_eq!(received, cut_up::<First, Next>(bytes), "how bytes arrive matters");
    let sent_on = received.0.concat();
    let again = receive::<First, Next>(&sent_on, portions.wrapping_add(1));
    assert_eq!(again, (received.0, None), "what was received cannot be sent on");
}

trait Message: Serialize + DeserializeOwned {}

impl<T: Serialize + DeserializeOwned> Message for T {}

fn encode<T: Message>(message: &T) -> Vec<u8> {
    frame::encode(message).expect("what was received can be sent")
}

fn receive<First: Message, Next: Message>(bytes: &[u8], portions: u8) -> Received {
    let mut stream = Trickle { left: bytes, portions, step: 0 };
    let mut messages = Vec::new();
    let end = loop {
        let next = if messages.is_empty() {
            finish(frame::read::<First>(&mut stream, FRAME_BYTES_MAX), bytes)
                .map(|m| m.as_ref().map(encode))
        } else {
            finish(frame::read::<Next>(&mut stream, FRAME_BYTES_MAX), bytes)
                .map(|m| m.as_ref().map(encode))
        };
        match next {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => break None,
            Err(error) => break Some(error.kind()),
        }
    };
    (messages, end)
}

/// Polls until it is done, which takes so many polls at most.
fn finish<T>(future: impl Future<Output = io::Result<T>>, bytes: &[u8]) -> io::Result<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..2 * bytes.len() + 4 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("it waits for bytes that are there");
}

/// What [`receive`] should give, from the format's description.
fn cut_up<First: Message, Next: Message>(mut bytes: &[u8]) -> Received {
    let mut messages = Vec::new();
    let end = loop {
        if bytes.is_empty() {
            break None;
        }
        let Some((length, rest)) = bytes.split_first_chunk() else {
            break Some(io::ErrorKind::UnexpectedEof);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            break Some(io::ErrorKind::InvalidData);
        }
        let Some((body, rest)) = rest.split_at_checked(length) else {
            break Some(io::ErrorKind::UnexpectedEof);
        };
        let message = if messages.is_empty() {
            frame::decode::<First>(body).map(|message| encode(&message))
        } else {
            frame::decode::<Next>(body).map(|message| encode(&message))
        };
        match message {
            Ok(message) => messages.push(message),
            Err(error) => break Some(error.kind()),
        }
        bytes = rest;
    };
    (messages, end)
}

/// A stream whose bytes come in small portions, and not at once.
struct Trickle<'a> {
    left: &'a [u8],
    portions: u8,
    step: usize,
}

impl AsyncRead for Trickle<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.step += 1;
        if self.step % 2 == usize::from(self.portions & 1) {
            return Poll::Pending;
        }
        let portion = 1 + (self.step * usize::from(self.portions >> 1)) % 61;
        let portion = portion.min(buffer.remaining()).min(self.left.len());
        let (now, later) = self.left.split_at(portion);
        buffer.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}
