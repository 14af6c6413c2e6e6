//! Bytes that outlive a process: log entries, RPC frames and snapshots.
//!
//! Everything this crate stores or sends between nodes is one format version byte followed by the
//! postcard encoding of a value. postcard is not self-describing, so the byte is the only warning a
//! node gets when a newer release wrote what it reads.
//!
//! Promised: encoding is canonical (equal values give equal bytes, so a hash of the bytes is a hash of
//! the value), and decoding arbitrary bytes gives an error, never a panic or an unbounded allocation.
//! Left out: integrity. A flipped bit may decode to another valid value; the storage engine and TCP
//! carry the checksums.

use std::fmt::Display;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The format this release writes, and the newest it reads.
///
/// Raise it with every change to a type that is stored or sent. From the first release on, also
/// teach [`decode_versioned`] the older versions. Version 1 was never released; it is refused.
pub const FORMAT_VERSION: u8 = 2;

/// Why bytes could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer release wrote this. Nothing is damaged: this node has to be upgraded.
    #[error("format version {found} is newer than {FORMAT_VERSION}, the newest this release reads")]
    NewerVersion {
        /// The version byte that was read.
        found: u8,
    },
    /// The bytes are no value of the expected type.
    #[error("corrupt data: {reason}")]
    Corrupt {
        /// What is wrong with them.
        reason: String,
    },
}

impl DecodeError {
    pub(crate) fn corrupt(reason: impl Display) -> Self {
        Self::Corrupt { reason: format!("{reason}") }
    }
}

/// Encodes `value` behind a [`FORMAT_VERSION`] byte.
///
/// # Panics
///
/// When `T`'s own `Serialize` fails or hides the length of a sequence: a bug in `T`, no data can cause
/// it.
pub fn encode_versioned<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    encode_versioned_to(Vec::new(), value)
}

/// As [`encode_versioned`], behind what is in `bytes`.
///
/// # Panics
///
/// As [`encode_versioned`].
pub fn encode_versioned_to<T: Serialize + ?Sized>(bytes: Vec<u8>, value: &T) -> Vec<u8> {
    match postcard::to_extend(&(FORMAT_VERSION, value), bytes) {
        Ok(bytes) => bytes,
        Err(error) => panic!("a type of ours does not serialise: {error}"),
    }
}

/// Encodes as [`encode_versioned`], and hands over `piece_bytes` at a time, of the last piece what there is.
///
/// # Errors
///
/// What `take` says. It is handed nothing more then.
///
/// # Panics
///
/// As [`encode_versioned`].
pub fn encode_versioned_in_pieces<T: Serialize + ?Sized, E>(
    value: &T,
    piece_bytes: usize,
    take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let piece_bytes = piece_bytes.max(1);
    let mut failed = None;
    let piece = Vec::with_capacity(piece_bytes);
    let pieces = Pieces { piece, piece_bytes, take, failed: &mut failed };
    match (postcard::serialize_with_flavor(&(FORMAT_VERSION, value), pieces), failed) {
        (_, Some(failed)) => Err(failed),
        (Ok(()), None) => Ok(()),
        (Err(error), None) => panic!("a type of ours does not serialise: {error}"),
    }
}

/// Collects a piece of what is written to it.
struct Pieces<'a, F, E> {
    piece: Vec<u8>,
    piece_bytes: usize,
    take: F,
    failed: &'a mut Option<E>,
}

impl<F: FnMut(&[u8]) -> Result<(), E>, E> Pieces<'_, F, E> {
    fn hand_over(&mut self) -> postcard::Result<()> {
        let taken = (self.take)(&self.piece);
        self.piece.clear();
        taken.map_err(|failed| {
            *self.failed = Some(failed);
            postcard::Error::SerializeBufferFull
        })
    }
}

impl<F: FnMut(&[u8]) -> Result<(), E>, E> postcard::ser_flavors::Flavor for Pieces<'_, F, E> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.piece.len() == self.piece_bytes {
            self.hand_over()?;
        }
        self.piece.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, mut bytes: &[u8]) -> postcard::Result<()> {
        while !bytes.is_empty() {
            if self.piece.len() == self.piece_bytes {
                self.hand_over()?;
            }
            let room = self.piece_bytes - self.piece.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<()> {
        self.hand_over()
    }
}

/// Whether [`encode_versioned`] would write `expected` for `value`. Takes no memory, however long that is.
///
/// # Panics
///
/// As [`encode_versioned`].
pub fn encodes_to<T: Serialize + ?Sized>(value: &T, expected: &[u8]) -> bool {
    match postcard::to_extend(&(FORMAT_VERSION, value), Comparison { left: expected, same: true }) {
        Ok(Comparison { left, same }) => same && left.is_empty(),
        Err(error) => panic!("a type of ours does not serialise: {error}"),
    }
}

/// Compares what is written to it.
struct Comparison<'a> {
    /// What should come yet.
    left: &'a [u8],
    same: bool,
}

impl Extend<u8> for Comparison<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        for byte in bytes {
            let next = self.left.split_off_first();
            self.same &= next == Some(&byte);
        }
    }
}

/// Decodes what [`encode_versioned`] wrote, all of it: bytes left over are an error.
///
/// # Errors
///
/// [`DecodeError::NewerVersion`] or [`DecodeError::Corrupt`].
pub fn decode_versioned<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut parts = Parts::of(bytes)?;
    let value = parts.take()?;
    parts.end()?;
    Ok(value)
}

/// Decodes what [`encode_versioned`] wrote for a struct or a sequence part by part, for whoever turns each into
/// something else and cannot hold all of them.
#[derive(Debug)]
pub struct Parts<'a> {
    left: &'a [u8],
}

impl<'a> Parts<'a> {
    /// # Errors
    ///
    /// [`DecodeError::NewerVersion`] or [`DecodeError::Corrupt`].
    pub fn of(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (&version, left) =
            bytes.split_first().ok_or_else(|| DecodeError::corrupt("there are no bytes"))?;
        match version {
            0 => Err(DecodeError::corrupt("format version 0 was never written")),
            FORMAT_VERSION => Ok(Self { left }),
            older @ 1..FORMAT_VERSION => Err(DecodeError::corrupt(format!(
                "format version {older} is of a build before the first release"
            ))),
            found => Err(DecodeError::NewerVersion { found }),
        }
    }

    /// The next field, or several as a tuple or struct of them. The length of a sequence stands before it as a [`u64`].
    ///
    /// # Errors
    ///
    /// [`DecodeError::Corrupt`].
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<T, DecodeError> {
        let (value, left) = postcard::take_from_bytes(self.left).map_err(DecodeError::corrupt)?;
        self.left = left;
        Ok(value)
    }

    /// # Errors
    ///
    /// [`DecodeError::Corrupt`] when there is more.
    pub fn end(self) -> Result<(), DecodeError> {
        match self.left.len() {
            0 => Ok(()),
            left => Err(DecodeError::corrupt(format!("{left} bytes follow the value"))),
        }
    }
}

/// Decodes the first part of a versioned value: a `T`. More of the value may follow.
///
/// # Errors
///
/// See [`DecodeError`].
pub fn decode_start<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.split_first() {
        Some((&FORMAT_VERSION, rest)) => {
            postcard::take_from_bytes(rest).map(|(value, _)| value).map_err(DecodeError::corrupt)
        }
        Some((&found, _)) if found > FORMAT_VERSION => Err(DecodeError::NewerVersion { found }),
        _ => Err(DecodeError::corrupt("it does not begin with a known version")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded() {
        let value = (7_u64, String::from("seven"));
        assert_eq!(decode_versioned::<(u64, String)>(&encode_versioned(&value)), Ok(value));
    }

    #[test]
    fn pieces_are_the_whole_and_end_with_the_first_error() {
        let value: (Vec<u8>, String) = ((0..50).collect(), "x".repeat(50));
        let whole = encode_versioned(&value);
        for piece_bytes in [0, 1, 7, 51, 103, 1_000] {
            let mut pieces = Vec::new();
            let taken = encode_versioned_in_pieces(&value, piece_bytes, |piece| {
                pieces.push(piece.to_vec());
                Ok::<_, ()>(())
            });
            assert_eq!(taken, Ok(()));
            assert_eq!(pieces.concat(), whole);
            let (last, others) = pieces.split_last().unwrap();
            assert!(others.iter().all(|piece| piece.len() == piece_bytes.max(1)));
            assert!((1..=piece_bytes.max(1)).contains(&last.len()));
        }
        let mut left = 2;
        let taken = encode_versioned_in_pieces(&value, 10, |_| {
            left -= 1;
            if left == 0 { Err("full") } else { Ok(()) }
        });
        assert_eq!((taken, left), (Err("full"), 0));
    }

    #[test]
    fn a_struct_is_decoded_part_by_part() {
        #[derive(Serialize)]
        struct Written {
            number: u64,
            list: Vec<u32>,
            text: &'static str,
        }
        let written = Written { number: 300, list: vec![7, 800], text: "seven" };
        let bytes = encode_versioned(&written);
        let mut parts = Parts::of(&bytes).unwrap();
        assert_eq!(parts.take(), Ok((300_u64, 2_u64)));
        assert_eq!(parts.take(), Ok(7_u32));
        assert_eq!(parts.take(), Ok(800_u32));
        assert!(Parts { left: parts.left }.end().is_err());
        assert_eq!(parts.take(), Ok(String::from("seven")));
        assert_eq!(parts.end(), Ok(()));
    }

    #[test]
    fn a_newer_version_is_told_apart_from_corruption() {
        let mut bytes = encode_versioned(&1_u8);
        bytes[0] = FORMAT_VERSION + 1;
        assert_eq!(
            decode_versioned::<u8>(&bytes),
            Err(DecodeError::NewerVersion { found: FORMAT_VERSION + 1 })
        );
    }

    #[test]
    fn trailing_truncated_and_missing_bytes_are_corrupt() {
        let bytes = encode_versioned(&String::from("abc"));
        let mut longer = bytes.clone();
        longer.push(0);
        for damaged in [&longer[..], &bytes[..bytes.len() - 1], &[]] {
            assert!(matches!(
                decode_versioned::<String>(damaged),
                Err(DecodeError::Corrupt { .. })
            ));
        }
    }

    #[test]
    fn an_absurd_length_is_an_error_not_an_allocation() {
        let bytes = [FORMAT_VERSION, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(decode_versioned::<Vec<u64>>(&bytes).is_err());
    }
}
