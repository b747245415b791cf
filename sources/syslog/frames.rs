//! Several messages as one journal payload.
//!
//! Per message: length as `u32` little-endian, whose top bit says that the message was cut;
//! length of the sender's address as `u8`; the address, empty for that of the message before (at
//! the start: of the envelope); the message as received, without its transport framing.

/// Media type of the payload.
pub(super) const CONTENT_TYPE: &str = "application/vnd.weir.syslog";

const CUT: u32 = 1 << 31;

/// Collects messages.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    messages: usize,
    peer: String,
}

impl Frames {
    /// Adds a message of less than 2 GiB; `peer` is empty if the envelope says it.
    pub(super) fn push(&mut self, peer: &str, message: &[u8], cut: bool) {
        let length = (message.len() as u32 & !CUT) | if cut { CUT } else { 0 };
        self.bytes.extend(length.to_le_bytes());
        if peer == self.peer {
            self.bytes.push(0);
        } else {
            let peer_bytes = &peer.as_bytes()[..peer.len().min(255)];
            self.bytes.push(peer_bytes.len() as u8);
            self.bytes.extend(peer_bytes);
            peer.clone_into(&mut self.peer);
        }
        self.bytes.extend(message);
        self.messages += 1;
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Messages so far.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// Takes what there is.
    pub(super) fn take(&mut self) -> bytes::Bytes {
        self.messages = 0;
        self.peer.clear();
        std::mem::take(&mut self.bytes).into()
    }
}

/// One message of a payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Sender as noted with it, else that of the message before, else empty.
    pub(super) peer: &'a [u8],
    /// Whether it was longer.
    pub(super) cut: bool,
    /// As received.
    pub(super) message: &'a [u8],
}

/// The messages of a payload, `None` if it is not one.
pub(super) fn read(mut payload: &[u8]) -> Option<Vec<Frame<'_>>> {
    let mut frames = Vec::new();
    let mut peer: &[u8] = b"";
    while !payload.is_empty() {
        let (length, rest) = payload.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length);
        let (peer_length, rest) = rest.split_first()?;
        let (own, rest) = rest.split_at_checked(usize::from(*peer_length))?;
        if !own.is_empty() {
            peer = own;
        }
        let (message, rest) = rest.split_at_checked((length & !CUT) as usize)?;
        frames.push(Frame { peer, cut: length & CUT != 0, message });
        payload = rest;
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn read_what_was_written(
            messages in prop::collection::vec(
                ("[a-c]{1,2}", prop::collection::vec(any::<u8>(), 0..9), any::<bool>()), 0..9),
            junk in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut frames = Frames::default();
            for (peer, message, cut) in &messages {
                frames.push(peer, message, *cut);
            }
            prop_assert_eq!(frames.messages(), messages.len());
            let payload = frames.take();
            prop_assert!(frames.bytes() == 0 && frames.messages() == 0);
            let got = read(&payload).unwrap();
            let expect: Vec<_> = messages
                .iter()
                .map(|(p, m, cut)| Frame { peer: p.as_bytes(), cut: *cut, message: m })
                .collect();
            prop_assert_eq!(got, expect);
            // Cut anywhere it is fewer whole messages or nothing; junk does not panic.
            for at in 0..payload.len() {
                if let Some(some) = read(&payload[..at]) {
                    prop_assert!(some.len() < messages.len());
                }
            }
            read(&junk);
        }
    }
}
