//! Reads frames as far as memory allows.
//!
//! | sender | longest frame | held at the same time, with 128 connections |
//! |---|---|---|
//! | a caller before its hello | [`HELLO_BYTES_MAX`], 1 KiB | 32 KiB |
//! | a stranger | [`STRANGER_BYTES_MAX`], 8 KiB | 256 KiB |
//! | a member, frames over [`UNCOUNTED_BYTES_MAX`] | [`FRAME_BYTES_MAX`], 2 MiB | [`INBOX_BYTES_MAX`], 64 MiB |
//! | a member, shorter frames | 512 bytes | 57 MiB: 96 connections × 1,216 calls × 512 bytes |
//!
//! So all frames that a node has received and not answered yet take at most 122 MiB, and the
//! buffers of its connections take 2 MiB. A snapshot in transfer is extra: see
//! [`receiving`](super::receiving).
//!
//! A frame must arrive within [`FRAME_DEADLINE`] of its first byte. The wait for memory does not
//! count.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frame;
use super::message::{Call, Hello};
use crate::env::{Env, rt};
use crate::raft::config::{FRAME_BYTES_MAX, SNAPSHOT_CHUNK_DEADLINE};

/// How long a caller may take to say its hello.
pub(super) const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// How long a frame may take from its first byte to its last. Callers give up earlier.
const FRAME_DEADLINE: Duration = Duration::from_secs(10);

const _: () = assert!(FRAME_DEADLINE.as_millis() > 2 * SNAPSHOT_CHUNK_DEADLINE.as_millis());

/// Bytes of a hello at most. A hello has about 60.
pub const HELLO_BYTES_MAX: usize = 1 << 10;

/// Bytes of a stranger's frame at most. A stranger asks to join, which takes an id and two
/// addresses.
const STRANGER_BYTES_MAX: usize = 8 << 10;

/// Frames up to this many bytes need no room in the inbox: votes, heartbeats and read indices must
/// not wait behind bulk data.
const UNCOUNTED_BYTES_MAX: usize = 512;

/// Bytes of longer frames that a node holds at the same time: the leader's pipeline of
/// [`PIPELINE_DEPTH_MAX`] appends of half their largest size.
///
/// [`PIPELINE_DEPTH_MAX`]: crate::raft::config::PIPELINE_DEPTH_MAX
const INBOX_BYTES_MAX: usize = 32 * FRAME_BYTES_MAX;

const _: () = assert!(
    INBOX_BYTES_MAX <= Semaphore::MAX_PERMITS && FRAME_BYTES_MAX <= u32::MAX as usize,
    "room is counted in permits of a semaphore"
);

/// Room for the longer frames of all connections of a node. Clones share it.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(INBOX_BYTES_MAX)))
    }
}

/// The place of one frame, held until its request is answered. `None` for a short frame.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// A request that came in.
pub(super) enum Incoming<E: Env> {
    /// A request.
    Call(Call<E>, Place),
    /// The number of a request that is too long for a stranger. Its bytes were not kept.
    TooLong(u64),
}

/// Reads the hello of a new connection; `None` when the caller closed instead.
pub(super) async fn hello<E: Env>(
    stream: &mut (impl AsyncRead + Unpin + Send),
) -> io::Result<Option<Hello>> {
    let hello = frame::read::<Hello>(stream, HELLO_BYTES_MAX);
    rt::timeout::<E, _>(HELLO_DEADLINE, hello).await.ok_or(io::ErrorKind::TimedOut)?
}

/// Reads the next request; `None` when the caller closed.
pub(super) async fn call<E: Env>(
    stream: &mut (impl AsyncRead + Unpin + Send),
    is_member: bool,
    room: &Room,
) -> io::Result<Option<Incoming<E>>> {
    let Some(first) = frame::first_byte(stream).await? else { return Ok(None) };
    let length = in_time::<E, _>(frame::length(stream, first, FRAME_BYTES_MAX)).await?;
    if !is_member && length > STRANGER_BYTES_MAX {
        let number = in_time::<E, _>(frame::skip(stream, length)).await?;
        return Ok(Some(Incoming::TooLong(number)));
    }
    let place = match u32::try_from(length) {
        Ok(permits) if length > UNCOUNTED_BYTES_MAX => {
            let acquired = Arc::clone(&room.0).acquire_many_owned(permits).await;
            Some(acquired.map_err(io::Error::other)?)
        }
        _ => None,
    };
    let body = in_time::<E, _>(frame::body(stream, length)).await?;
    Ok(Some(Incoming::Call(frame::decode(&body)?, place)))
}

async fn in_time<E: Env, T>(reading: impl Future<Output = io::Result<T>> + Send) -> io::Result<T> {
    rt::timeout::<E, _>(FRAME_DEADLINE, reading).await.ok_or(io::ErrorKind::TimedOut)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::TokioEnv;
    use crate::raft::network::message::Request;

    fn chunk(bytes: usize) -> Vec<u8> {
        let request = Request::<TokioEnv>::SnapshotChunk(vec![7; bytes]);
        frame::encode(&Call { number: 300, request }).expect("a legal frame")
    }

    #[tokio::test]
    async fn a_strangers_long_frame_is_skipped_and_the_next_one_is_read() {
        let room = Room::default();
        let bytes = [chunk(100_000), chunk(10)].concat();
        let mut stream = &bytes[..];
        let first = call::<TokioEnv>(&mut stream, false, &room).await.expect("a frame");
        assert!(matches!(first, Some(Incoming::TooLong(300))));
        let second = call::<TokioEnv>(&mut stream, false, &room).await.expect("a frame");
        assert!(matches!(second, Some(Incoming::Call(_, None))));
        assert!(call::<TokioEnv>(&mut stream, false, &room).await.expect("the end").is_none());
    }

    #[tokio::test]
    async fn a_members_long_frame_takes_room_until_it_is_answered() {
        let room = Room::default();
        let bytes = chunk(100_000);
        let read = call::<TokioEnv>(&mut &bytes[..], true, &room).await.expect("a frame");
        assert!(room.0.available_permits() < INBOX_BYTES_MAX - 100_000);
        drop(read);
        assert_eq!(room.0.available_permits(), INBOX_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_hello_of_more_than_a_kibibyte_is_refused_by_its_length() {
        let mut stream = &2_000_u32.to_le_bytes()[..];
        let error = hello::<TokioEnv>(&mut stream).await.expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
