//! Segment files: the header, and the walk over the frames behind it.
//!
//! A segment is named after its base, the smallest offset that it may hold; it holds offsets
//! below `base + SPAN` only. Whatever became of its contents, the offsets that were ever given
//! out from it are known from its name: nothing has to be reserved on disk while appending.
//!
//! The header repeats what must not be lost when older segments are trimmed: the latest cursor
//! of every source, the settings of every source generation in use, the last tick, and the
//! lengths of the older segments, the keys of the requests of the last minutes. What a segment has beyond the length that its successor knows
//! came from a write that was answered with an error; it does not exist.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::clock::StampRecord;
use super::frame::{self, PREFIX_BYTES, Parsed};
use super::repeats::KeyRecord;

/// Offsets that a segment may hold, counted from its base. A segment of 64 MiB has fewer frames.
pub(super) const SPAN: u64 = 1 << 22;

/// Bytes read at once, unless one frame is longer.
const CHUNK_BYTES: u64 = 512 << 10;

/// Frames handed out at once.
const CHUNK_FRAMES: usize = 1024;

/// The frame around the header is the same in all versions: magic, version, body length,
/// CRC32C of all of these and the body.
const MAGIC: &[u8; 8] = b"WEIRJRNL";
const VERSION: u32 = 1;
const HEADER_PREFIX_BYTES: usize = 20;

/// Largest header body: bounds what a damaged length can make the reader allocate.
const HEADER_BYTES_MAX: usize = 256 << 20;

/// The latest cursor of a source.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CursorRecord {
    #[prost(string, tag = "1")]
    pub(super) source: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) cursor: Bytes,
}

/// A source generation, in summaries without its text.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GenerationRecord {
    #[prost(string, tag = "1")]
    pub(super) source: String,
    #[prost(uint32, tag = "2")]
    pub(super) number: u32,
    #[prost(string, tag = "3")]
    pub(super) text: String,
}

/// An older segment.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SummaryRecord {
    #[prost(uint64, tag = "1")]
    pub(super) base: u64,
    /// Bytes that count.
    #[prost(uint64, tag = "2")]
    pub(super) length: u64,
    /// Offset of the first and of the last entry, 0 if there is none.
    #[prost(uint64, tag = "3")]
    pub(super) first: u64,
    #[prost(uint64, tag = "4")]
    pub(super) last: u64,
    /// Newest receive time.
    #[prost(sfixed64, tag = "5")]
    pub(super) received: i64,
    /// Source generations that its entries need.
    #[prost(message, repeated, tag = "6")]
    pub(super) used: Vec<GenerationRecord>,
}

/// What a segment begins with.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Header {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) journal: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) base: u64,
    #[prost(fixed32, tag = "3")]
    pub(super) salt: u32,
    #[prost(message, repeated, tag = "4")]
    pub(super) cursors: Vec<CursorRecord>,
    #[prost(message, repeated, tag = "5")]
    pub(super) generations: Vec<GenerationRecord>,
    #[prost(message, repeated, tag = "6")]
    pub(super) segments: Vec<SummaryRecord>,
    #[prost(message, optional, tag = "7")]
    pub(super) stamp: Option<StampRecord>,
    /// Every entry up to this offset was trimmed.
    #[prost(uint64, tag = "8")]
    pub(super) trimmed: u64,
    /// Requests of the last minutes.
    #[prost(message, repeated, tag = "9")]
    pub(super) repeats: Vec<KeyRecord>,
}

impl Header {
    /// The header as it stands in the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let body = self.encode_to_vec();
        let mut out = Vec::with_capacity(HEADER_PREFIX_BYTES + body.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &body);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&body);
        out
    }
}

/// What was found where a header should be.
pub(super) enum HeaderFound {
    /// A header, and its length in bytes.
    Good(Box<Header>, u64),
    /// A sound header of a version that this program does not know.
    Version(u32),
    /// No header.
    Bad(&'static str),
}

/// Reads the header of the segment at `path`.
pub(super) fn read_header(path: &Path) -> io::Result<HeaderFound> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut prefix = [0; HEADER_PREFIX_BYTES];
    if size < prefix.len() as u64 {
        return Ok(HeaderFound::Bad("it ends within its header"));
    }
    file.read_exact(&mut prefix)?;
    let word = |at: usize| prefix[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
    let (version, length, crc) = (word(8), word(12) as usize, word(16));
    if &prefix[..8] != MAGIC {
        return Ok(HeaderFound::Bad("it does not begin like a journal segment"));
    }
    if length > HEADER_BYTES_MAX || size < (prefix.len() + length) as u64 {
        return Ok(HeaderFound::Bad("it ends within its header"));
    }
    let mut body = vec![0; length];
    file.read_exact(&mut body)?;
    if crc32c::crc32c_append(crc32c::crc32c(&prefix[..16]), &body) != crc {
        return Ok(HeaderFound::Bad("the checksum of its header is wrong"));
    }
    if version != VERSION {
        return Ok(HeaderFound::Version(version));
    }
    Ok(match Header::decode(body.as_slice()) {
        Ok(header) => HeaderFound::Good(Box::new(header), (prefix.len() + length) as u64),
        Err(_) => HeaderFound::Bad("its header does not decode"),
    })
}

/// The sentence for a version that this program does not know.
pub(super) fn version_error(path: &Path, version: u32) -> io::Error {
    io::Error::other(format!(
        "journal segment `{}` has format version {version}, this Weir reads version {VERSION}: \
         start the Weir that wrote it, or a newer one",
        path.display()
    ))
}

/// A good frame within a [`Chunk`].
pub(super) struct Frame {
    /// 0 for notes.
    pub(super) offset: u64,
    pub(super) head: Range<usize>,
    pub(super) payload: Range<usize>,
}

/// Some frames in a row.
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    pub(super) frames: Vec<Frame>,
    /// A stretch of the file in front of the frames that holds none.
    pub(super) bad: Option<Range<u64>>,
}

/// Goes over the frames of a segment, and over what is damaged.
pub(super) struct Walker {
    file: File,
    salt: u32,
    base: u64,
    /// Where the next chunk begins.
    pub(super) at: u64,
    /// Bytes that count; moves as the segment grows.
    pub(super) end: u64,
    /// Offset of the last entry passed.
    last: u64,
}

impl Walker {
    /// Over the frames between `start` (the length of the header) and `end`.
    pub(super) fn open(
        path: &Path,
        salt: u32,
        base: u64,
        start: u64,
        end: u64,
    ) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, salt, base, at: start, end, last: 0 })
    }

    /// The base of the segment.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// The next frames, or the next damaged stretch; `None` at the end.
    pub(super) fn chunk(&mut self) -> io::Result<Option<Chunk>> {
        let mut want = CHUNK_BYTES;
        while self.at < self.end {
            let bytes = self.read(want)?;
            if bytes.is_empty() {
                // Shorter than it should be.
                return Ok(Some(self.skip(self.end)));
            }
            let left = self.end - self.at;
            let (frames, used, stop) = self.parse(&bytes);
            if used > 0 {
                self.at += used as u64;
                return Ok(Some(Chunk { bytes: bytes.into(), frames, bad: None }));
            }
            match stop {
                // A frame longer than what was read, all of which should be there.
                Some(Parsed::Short(n))
                    if bytes.len() as u64 >= want && want < n as u64 && n as u64 <= left =>
                {
                    want = n as u64;
                }
                Some(Parsed::BadBody(n)) => return Ok(Some(self.skip(self.at + n as u64))),
                Some(Parsed::BadPrefix) => {
                    let to = self.find()?;
                    return Ok(Some(self.skip(to)));
                }
                _ => return Ok(Some(self.skip(self.end))),
            }
        }
        Ok(None)
    }

    fn skip(&mut self, to: u64) -> Chunk {
        let bad = self.at..to;
        self.at = to;
        Chunk { bytes: Bytes::new(), frames: Vec::new(), bad: Some(bad) }
    }

    /// Good frames at the start of `bytes`, their length, and what ended them.
    fn parse(&mut self, bytes: &[u8]) -> (Vec<Frame>, usize, Option<Parsed>) {
        let mut frames = Vec::new();
        let mut at = 0;
        while frames.len() < CHUNK_FRAMES {
            match frame::parse(self.salt, &bytes[at..]) {
                Parsed::Frame { offset, head, payload } if self.plausible(offset) => {
                    self.last = self.last.max(offset);
                    let end = at + payload.end;
                    frames.push(Frame {
                        offset,
                        head: at + head.start..at + head.end,
                        payload: at + payload.start..end,
                    });
                    at = end;
                }
                Parsed::Frame { payload, .. } => {
                    return (frames, at, Some(Parsed::BadBody(payload.end)));
                }
                other => return (frames, at, Some(other)),
            }
        }
        (frames, at, None)
    }

    fn plausible(&self, offset: u64) -> bool {
        offset == 0 || (offset > self.last && offset >= self.base && offset - self.base < SPAN)
    }

    /// Where the next frame begins behind a place that is none, else the end.
    fn find(&mut self) -> io::Result<u64> {
        let start = self.at;
        self.at += 1;
        while self.at + (PREFIX_BYTES as u64) <= self.end {
            let bytes = self.read(CHUNK_BYTES)?;
            if bytes.len() < PREFIX_BYTES {
                break;
            }
            let places = bytes.len() - PREFIX_BYTES + 1;
            for i in 0..places {
                let Some(prefix) = frame::read_prefix(self.salt, &bytes[i..]) else { continue };
                let at = self.at + i as u64;
                if self.plausible(prefix.offset) && at + prefix.total() as u64 <= self.end {
                    self.at = start;
                    return Ok(at);
                }
            }
            self.at += places as u64;
        }
        self.at = start;
        Ok(self.end)
    }

    /// Up to `want` bytes from the current place; fewer only at the end.
    fn read(&mut self, want: u64) -> io::Result<Vec<u8>> {
        let want = want.min(self.end - self.at);
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut bytes = Vec::with_capacity(usize::try_from(want).unwrap_or(0));
        (&mut self.file).take(want).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
