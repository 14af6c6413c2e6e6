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
        .ok_or_else(|| too_large(body_bytes))?;
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Reads the next message; `None` when the peer closed between two frames.
///
/// # Errors
///
/// The connection's, [`io::ErrorKind::UnexpectedEof`] inside a frame, and
/// [`io::ErrorKind::InvalidData`] for a frame that is too large or does not decode.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let mut length = [0; LENGTH_BYTES];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(too_large(length));
    }
    // Beyond that it grows as bytes arrive: a length alone must not make us allocate it.
    let mut body = Vec::with_capacity(USUAL_BYTES);
    stream.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    decode(&body).map(Some)
}

/// Decodes a frame's body.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] when it is not a message of this version.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    codec::decode_versioned(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn too_large(length: usize) -> io::Error {
    let message = format!("a frame of {length} bytes is over the limit of {FRAME_BYTES_MAX}");
    io::Error::new(io::ErrorKind::InvalidData, message)
}
