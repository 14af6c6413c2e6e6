//! Bytes on a Raft connection: `length: u32 LE`, then that many bytes of a versioned postcard message.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::codec;
use crate::raft::config::FRAME_BYTES_MAX;

/// Bytes of the length in front of a frame.
const LENGTH_BYTES: usize = 4;

/// Most frames fit into so many bytes: an append of one entry, an answer.
const USUAL_BYTES: usize = 512;

/// Bytes that always suffice for the version and the number of a call.
const NUMBER_BYTES_MAX: usize = 16;

/// Encodes `message` as a frame.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] when it is larger than a receiver would take.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(USUAL_BYTES);
    frame.extend_from_slice(&[0; LENGTH_BYTES]);
    let mut frame = codec::encode_versioned_to(frame, message);
    let body_bytes = frame.len() - LENGTH_BYTES;
    let length = u32::try_from(body_bytes)
        .ok()
        .filter(|_| body_bytes <= FRAME_BYTES_MAX)
        .ok_or_else(|| too_large(body_bytes, FRAME_BYTES_MAX))?;
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Reads the next message, of `bytes_max` bytes at most; `None` when the peer closed between two
/// frames.
///
/// # Errors
///
/// The connection's, [`io::ErrorKind::UnexpectedEof`] inside a frame, and
/// [`io::ErrorKind::InvalidData`] for a frame that is too large or does not decode.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<Option<T>> {
    let Some(first) = first_byte(stream).await? else { return Ok(None) };
    let length = length(stream, first, bytes_max).await?;
    decode(&body(stream, length).await?).map(Some)
}

/// Waits for the first byte of the next frame; `None` when the peer closed between two frames.
pub(super) async fn first_byte(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u8>> {
    let mut first = [0];
    Ok((stream.read(&mut first).await? > 0).then_some(first[0]))
}

/// Reads the rest of the length of a frame that begins with `first`.
pub(super) async fn length(
    stream: &mut (impl AsyncRead + Unpin),
    first: u8,
    bytes_max: usize,
) -> io::Result<usize> {
    let mut length = [first, 0, 0, 0];
    stream.read_exact(&mut length[1..]).await?;
    if length == *b"HTTP" {
        let message = "the peer answers in HTTP: this is not a Raft port";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > bytes_max { Err(too_large(length, bytes_max)) } else { Ok(length) }
}

/// Reads a frame's body.
pub(super) async fn body(
    stream: &mut (impl AsyncRead + Unpin),
    length: usize,
) -> io::Result<Vec<u8>> {
    // The body grows as bytes arrive: a length alone must not make this node allocate it.
    let mut body = Vec::with_capacity(USUAL_BYTES);
    stream.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

/// Skips the body of a call, and returns the call's number.
pub(super) async fn skip(stream: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<u64> {
    let start = body(stream, length.min(NUMBER_BYTES_MAX)).await?;
    let mut rest = stream.take((length - start.len()) as u64);
    let skipped = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    if start.len() as u64 + skipped < length as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    codec::decode_start(&start).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Decodes a frame's body.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] when it is not a message of this version.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    codec::decode_versioned(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn too_large(length: usize, bytes_max: usize) -> io::Error {
    let message = format!("a frame of {length} bytes is over the limit of {bytes_max}");
    io::Error::new(io::ErrorKind::InvalidData, message)
}
