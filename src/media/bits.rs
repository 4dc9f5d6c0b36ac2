//! Bits of an H.264 payload: reading them, and keeping start codes out of written ones.

/// Removes the emulation prevention bytes of a NAL unit (ITU-T H.264 §7.4.1), at most `limit`
/// bytes of the result: a header is wanted, never a whole picture.
pub(crate) fn unescape(nal: &[u8], limit: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len().min(limit));
    let mut zeros = 0;
    for &byte in nal {
        if out.len() >= limit {
            break;
        }
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// Appends `payload` with the emulation prevention bytes it needs.
pub(crate) fn escape_into(payload: &[u8], out: &mut Vec<u8>) {
    let mut zeros = 0;
    for &byte in payload {
        if zeros >= 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
}

/// Reads fixed and Exp-Golomb fields (ITU-T H.264 §9.1); every read past the end is `None`.
#[derive(Debug)]
pub(crate) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// At most 32 bits.
    pub(crate) fn bits(&mut self, count: u32) -> Option<u32> {
        let mut value = 0u32;
        for _ in 0..count {
            value = value << 1 | u32::from(self.bit()?);
        }
        Some(value)
    }

    pub(crate) fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1u32 << zeros) - 1 + self.bits(zeros)?)
    }

    pub(crate) fn se(&mut self) -> Option<i32> {
        let code = i64::from(self.ue()?);
        let value = if code % 2 == 1 { (code + 1) / 2 } else { -(code / 2) };
        i32::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exp_golomb_codes_are_read_as_the_standard_lists_them() {
        // 1 | 010 | 011 | 00100 | 00101
        let bytes = [0b1010_0110, 0b0100_0010, 0b1000_0000];
        let mut bits = Bits::new(&bytes);
        let read: Vec<u32> = (0..5).filter_map(|_| bits.ue()).collect();
        assert_eq!(read, [0, 1, 2, 3, 4]);
        let mut bits = Bits::new(&bytes);
        let read: Vec<i32> = (0..5).filter_map(|_| bits.se()).collect();
        assert_eq!(read, [0, 1, -1, 2, -2]);
    }

    #[test]
    fn a_code_that_never_ends_is_refused() {
        assert_eq!(Bits::new(&[0; 16]).ue(), None);
    }

    proptest! {
        #[test]
        fn what_is_escaped_holds_no_start_code_and_comes_back(
            payload in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => 0u8..5], 0..200),
        ) {
            let mut escaped = vec![0x06];
            escape_into(&payload, &mut escaped);
            prop_assert!(!escaped.windows(3).any(|w| w[0] == 0 && w[1] == 0 && w[2] < 3));
            prop_assert_eq!(&unescape(&escaped, usize::MAX)[1..], &payload[..]);
        }
    }
}
