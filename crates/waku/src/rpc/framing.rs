//! Length-prefixed frames: an unsigned varint, then that many bytes.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use prost::bytes::Bytes;

/// A length prefix of more bytes than this is malformed: lengths have at most 35 bits.
const MAX_PREFIX_BYTES: usize = 5;

#[derive(Debug)]
pub(crate) enum FrameError {
    /// Announced more than the limit; nothing of the body was read.
    TooLarge { len: u64, max: u64 },
    /// The prefix is not a minimal varint of at most five bytes.
    Malformed,
    /// The stream ended, or broke, before the whole frame was there.
    Io(io::Error),
}

impl From<io::Error> for FrameError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// Reads one frame of at most `max` bytes. Memory grows with the bytes received, never with the length announced.
pub(crate) async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S, max: u64) -> Result<Bytes, FrameError> {
    let mut prefix = [0; MAX_PREFIX_BYTES];
    let mut used = 0;
    let len = loop {
        if used == MAX_PREFIX_BYTES {
            return Err(FrameError::Malformed);
        }
        stream.read_exact(&mut prefix[used..=used]).await?;
        used += 1;
        if prefix[used - 1] & 0x80 == 0 {
            break unsigned_varint::decode::u64(&prefix[..used]).map_err(|_| FrameError::Malformed)?.0;
        }
    };
    if len > max {
        return Err(FrameError::TooLarge { len, max });
    }
    let mut body = Vec::new();
    stream.take(len).read_to_end(&mut body).await?;
    if body.len() as u64 != len {
        return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(body.into())
}

/// Writes one frame and flushes it.
pub(crate) async fn write_frame<S: AsyncWrite + Unpin>(stream: &mut S, body: &[u8]) -> io::Result<()> {
    let mut prefix = unsigned_varint::encode::u64_buffer();
    let prefix = unsigned_varint::encode::u64(body.len() as u64, &mut prefix);
    // One write for a small frame: prefix and body travel in one packet.
    if body.len() <= 4096 {
        let mut frame = Vec::with_capacity(prefix.len() + body.len());
        frame.extend_from_slice(prefix);
        frame.extend_from_slice(body);
        stream.write_all(&frame).await?;
    } else {
        stream.write_all(prefix).await?;
        stream.write_all(body).await?;
    }
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    async fn read(bytes: &[u8], max: u64) -> Result<Bytes, FrameError> {
        read_frame(&mut Cursor::new(bytes), max).await
    }

    #[tokio::test]
    async fn frames_round_trip() {
        for len in [0, 1, 127, 128, 4096, 4097, 300_000] {
            let body = vec![7; len];
            let mut wire = Vec::new();
            write_frame(&mut wire, &body).await.unwrap();
            assert_eq!(read(&wire, len as u64).await.unwrap(), body);
        }
    }

    #[tokio::test]
    async fn bad_frames() {
        assert!(matches!(read(&[0x81, 0x01, 0], 128).await, Err(FrameError::TooLarge { len: 129, max: 128 })));
        assert!(matches!(read(&[0xff; 20], 128).await, Err(FrameError::Malformed)));
        assert!(matches!(read(&[0x80, 0x00], 128).await, Err(FrameError::Malformed)), "not minimal");
        for cut in [&[][..], &[0x80], &[3, 1, 2]] {
            let Err(FrameError::Io(e)) = read(cut, 128).await else { panic!("{cut:?}") };
            assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
        }
        // The largest length that can be announced costs nothing.
        let Err(FrameError::Io(e)) = read(&[0xff, 0xff, 0xff, 0xff, 0x7f], u64::MAX).await else { panic!() };
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
    }
}
