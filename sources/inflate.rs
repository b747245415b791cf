//! Content encodings, with a hard limit on what comes out.

use std::io::Read;

use bytes::Bytes;
use weir_pipeline::component::DecodeError;

/// What [`inflate`] takes, as the value of an `Accept-Encoding` header.
pub(crate) const ENCODINGS: &str = "gzip, zstd, deflate, identity";

/// Whether [`inflate`] knows the content encoding.
pub(crate) fn is_known(encoding: &str) -> bool {
    matches!(encoding, "" | "identity" | "gzip" | "x-gzip" | "zstd" | "deflate")
}

/// `payload` without its content encoding (RFC 9110, section 8.4.1; zstd: RFC 8878).
///
/// # Errors
/// `encoding` for one that is not known, `malformed` for bytes that are not in it, `too_large`
/// once more than `limit` bytes come out: nothing past that is computed.
pub(crate) fn inflate(encoding: &str, payload: &Bytes, limit: usize) -> Result<Bytes, DecodeError> {
    match encoding {
        "" | "identity" if payload.len() > limit => Err(too_large(limit)),
        "" | "identity" => Ok(payload.clone()),
        "gzip" | "x-gzip" => {
            read(flate2::read::MultiGzDecoder::new(&payload[..]), "gzip", payload, limit)
        }
        "deflate" => read(flate2::read::ZlibDecoder::new(&payload[..]), "deflate", payload, limit),
        "zstd" => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&payload[..])
                .map_err(|e| malformed("zstd", &e))?;
            // 8 MiB, the window that RFC 8878 asks decoders to take; more is a memory attack.
            decoder.window_log_max(23).map_err(|e| malformed("zstd", &e))?;
            read(decoder, "zstd", payload, limit)
        }
        other => Err(DecodeError::new(
            "encoding",
            format!("content encoding `{other}` is not known, expected one of {ENCODINGS}"),
        )),
    }
}

fn read(
    from: impl Read,
    encoding: &str,
    payload: &Bytes,
    limit: usize,
) -> Result<Bytes, DecodeError> {
    let mut out = Vec::with_capacity(payload.len().saturating_mul(4).min(limit));
    let mut from = from.take(limit as u64 + 1);
    from.read_to_end(&mut out).map_err(|e| malformed(encoding, &e))?;
    if out.len() > limit {
        return Err(too_large(limit));
    }
    Ok(out.into())
}

fn malformed(encoding: &str, error: &std::io::Error) -> DecodeError {
    DecodeError::new("malformed", format!("the body is not {encoding}: {error}"))
}

fn too_large(limit: usize) -> DecodeError {
    DecodeError::new("too_large", format!("the body is larger than {limit} bytes uncompressed"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        e.write_all(bytes).unwrap();
        e.finish().unwrap().into()
    }

    #[test]
    fn what_comes_out_is_limited() {
        let bomb = vec![0_u8; 8 << 20];
        let packed = gzip(&bomb);
        assert!(packed.len() < 16 << 10);
        for (encoding, payload) in
            [("gzip", packed), ("zstd", zstd::encode_all(&bomb[..], 3).unwrap().into())]
        {
            let error = inflate(encoding, &payload, (8 << 20) - 1).unwrap_err();
            assert_eq!(error.reason, "too_large", "{encoding}");
            assert_eq!(inflate(encoding, &payload, 8 << 20).unwrap().len(), 8 << 20);
            let cut = payload.slice(..payload.len() / 2);
            assert_eq!(inflate(encoding, &cut, 8 << 20).unwrap_err().reason, "malformed");
        }
    }

    #[test]
    fn odd_encodings() {
        let body = Bytes::from_static(b"hello");
        assert_eq!(inflate("br", &body, 9).unwrap_err().reason, "encoding");
        assert_eq!(inflate("gzip", &body, 9).unwrap_err().reason, "malformed");
        assert_eq!(inflate("", &body, 4).unwrap_err().reason, "too_large");
        assert_eq!(inflate("identity", &body, 5).unwrap(), body);
    }
}
