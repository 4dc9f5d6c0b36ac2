//! Scripts: several events in one input, so that a fuzzer reaches states and not only decoders.
//! Each chunk is `kind: u8 | length: u16 LE | bytes`; a length beyond the end means the rest.

/// The chunks of a script; the last may be cut short.
pub fn read(mut data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let ([kind, low, high], rest) = data.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (body, rest) = rest.split_at(length.min(rest.len()));
        data = rest;
        Some((*kind, body))
    })
}

/// Appends a chunk; what does not fit into its length is cut off.
pub fn write(kind: u8, body: &[u8], script: &mut Vec<u8>) {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    script.push(kind);
    script.extend_from_slice(&length.to_le_bytes());
    script.extend_from_slice(&body[..usize::from(length)]);
}
