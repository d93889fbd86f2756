//! Frames of a WebSocket, as far as it takes to say goodbye between two of them (RFC 6455 section 5.2). The payload is not
//! looked at.

/// Close, 1008 "policy violation", without a text (RFC 6455 section 7.4.1). From a server, so it is not masked.
pub(super) const CLOSE_POLICY: [u8; 4] = [0x88, 0x02, 0x03, 0xf0];

/// Close, 1013 "try again later" (IANA): the same token may do in a moment.
pub(super) const CLOSE_LATER: [u8; 4] = [0x88, 0x02, 0x03, 0xf5];

/// Close, 1001 "going away": the gateway ends; and what others send to who was silent for too long.
pub(super) const CLOSE_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// Where in the stream of frames we are.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames {
    /// The header of the frame that has begun; 2 to 14 octets.
    header: [u8; HEADER_BYTES_MAX],
    held: usize,
    /// Octets of the payload that are still to come.
    payload: u64,
}

const HEADER_BYTES_MAX: usize = 14;

impl Frames {
    /// These octets passed.
    pub(super) fn pass(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let skipped = usize::try_from(self.payload)
                .unwrap_or(usize::MAX)
                .min(octets.len());
            self.payload -= skipped as u64;
            octets = &octets[skipped..];
            let Some((first, rest)) = octets.split_first() else {
                return;
            };
            self.header[self.held] = *first;
            self.held += 1;
            octets = rest;
            if let Some(payload) = self.payload_length() {
                self.payload = payload;
                self.held = 0;
            }
        }
    }

    /// Whether a frame may begin here.
    pub(super) const fn is_between(&self) -> bool {
        self.held == 0 && self.payload == 0
    }

    /// Once the header is whole.
    fn payload_length(&self) -> Option<u64> {
        let header = &self.header[..self.held];
        let second = *header.get(1)?;
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (length, octets) = match second & 0x7f {
            126 => (
                u64::from(u16::from_be_bytes(header.get(2..4)?.try_into().ok()?)),
                4,
            ),
            127 => (u64::from_be_bytes(header.get(2..10)?.try_into().ok()?), 10),
            short => (u64::from(short), 2),
        };
        (self.held == octets + mask).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask_bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match length {
            0..=125 => frame.push(mask_bit | u8::try_from(length).unwrap()),
            126..=65535 => {
                frame.push(mask_bit + 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask_bit + 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([1, 2, 3, 4]);
        }
        frame.extend(std::iter::repeat_n(0x88, length));
        frame
    }

    proptest! {
        #[test]
        fn a_frame_ends_where_it_ends_however_it_is_cut(
            lengths in prop::collection::vec((prop_oneof![0..130_usize, 65_500..65_600_usize], any::<bool>()), 1..6),
            cut in 1..5000_usize,
        ) {
            let mut frames = Frames::default();
            let mut ends = std::collections::HashSet::from([0]);
            let mut octets = vec![];
            for (length, masked) in lengths {
                octets.extend(frame(length, masked));
                ends.insert(octets.len());
            }
            let mut at = 0;
            for piece in octets.chunks(cut) {
                frames.pass(piece);
                at += piece.len();
                prop_assert_eq!(frames.is_between(), ends.contains(&at), "at {}", at);
            }
        }

        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            frames.pass(&octets);
        }
    }
}
