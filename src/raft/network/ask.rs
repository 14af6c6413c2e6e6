//! One question on a connection of its own, for a node that knows only the address of its peer.

use std::io;

use tokio::io::AsyncWriteExt;

use super::frame;
use super::message::{Call, Hello, Request, Response, Return};
use super::names::Names;
use crate::env::Env;
use crate::raft::config::FRAME_BYTES_MAX;

/// Sends `request` to `addr`, a `HOST:PORT`, as a node without a cluster, and returns the answer.
///
/// A [`Channel`](super::Channel) reports a broken connection without its reason. Here an operator
/// needs the reason: the address may be wrong.
///
/// # Errors
///
/// The error of the lookup or of the connection, or [`io::ErrorKind::InvalidData`] when the peer
/// does not speak this protocol. The caller bounds the time.
pub async fn ask<E: Env>(
    names: &Names<E>,
    addr: &str,
    request: Request<E>,
) -> io::Result<Response<E>> {
    let mut stream = names.connect(addr).await?;
    stream.write_all(&frame::encode(&Hello { cluster: None, to: None })?).await?;
    stream.write_all(&frame::encode(&Call { number: 0, request })?).await?;
    stream.flush().await?;
    match frame::read::<Return<E>>(&mut stream, FRAME_BYTES_MAX).await? {
        Some(answer) => Ok(answer.response),
        None => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection was closed without an answer",
        )),
    }
}
