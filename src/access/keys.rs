//! Stream keys: how an encoder shows who it is. Of a key the mesh keeps its hash, in a set of the
//! encoder's record, and the marks of those that are out, in another. A mark wins: whoever
//! concurrently gave the key more time did not know.

use crate::accounts::{Change, Record};
use crate::id::EncoderId;

/// How long the random part of a key is: nobody finds another.
const SECRET: usize = 20;
/// What a key's text begins with.
const PREFIX: &str = "rk1";
/// The sets of an encoder's record.
const KEYS_SET: u16 = 2;
const REVOKED_SET: u16 = 3;
/// The form of an element.
const VERSION: u8 = 1;

/// What is kept of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    /// By which people name it: random, and no part of the key.
    pub id: [u8; 4],
    /// SHA-256 of the key's text.
    pub hash: [u8; 32],
    /// When it was made, in milliseconds since 1970.
    pub made: u64,
    /// From when on it is good no more, likewise; 0: never.
    pub expires: u64,
}

impl StreamKey {
    /// The element of the set.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.hash);
        bytes.extend_from_slice(&self.made.to_le_bytes());
        bytes.extend_from_slice(&self.expires.to_le_bytes());
        bytes
    }

    /// The reverse of [`StreamKey::encode`]; nothing of a newer form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (hash, rest) = rest.split_first_chunk()?;
        let (made, rest) = rest.split_first_chunk()?;
        let expires = rest.try_into().ok()?;
        (*version == VERSION).then_some(Self {
            id: *id,
            hash: *hash,
            made: u64::from_le_bytes(*made),
            expires: u64::from_le_bytes(expires),
        })
    }

    /// What people call it.
    pub fn name(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.id)
    }

    /// Whether it is still good at this time.
    pub fn good_at(&self, now: u64) -> bool {
        self.expires == 0 || now < self.expires
    }
}

/// The text of a key.
pub fn key_text(encoder: EncoderId, secret: &[u8; SECRET]) -> String {
    let bytes = [&encoder.0[..], secret].concat();
    let text = data_encoding::BASE32_NOPAD.encode(&bytes);
    format!("{PREFIX}{}", text.to_ascii_lowercase())
}

/// Whose key a text is, if it is one at all.
pub fn key_owner(text: &str) -> Option<EncoderId> {
    let encoded = text.strip_prefix(PREFIX)?.to_ascii_uppercase();
    let bytes = data_encoding::BASE32_NOPAD.decode(encoded.as_bytes()).ok()?;
    let whole = bytes.len() == 16 + SECRET && key_text_of(&bytes) == text;
    whole.then(|| bytes.first_chunk().map(|id| EncoderId(*id)))?
}

fn key_text_of(bytes: &[u8]) -> String {
    format!("{PREFIX}{}", data_encoding::BASE32_NOPAD.encode(bytes).to_ascii_lowercase())
}

/// What is kept of a key's text.
pub fn key_hash(text: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

/// The keys of an encoder that are not out, expired ones included, the oldest first.
pub fn keys(encoder: &Record) -> Vec<StreamKey> {
    let all = encoder.elements(KEYS_SET).filter_map(StreamKey::decode);
    let mut all: Vec<_> = all.filter(|key| !encoder.has(REVOKED_SET, &key.id)).collect();
    // One that was given an end at two nodes at once ends at the earlier.
    all.sort_by_key(|key| (key.id, key.hash, key.expires.wrapping_sub(1)));
    all.dedup_by_key(|key| (key.id, key.hash));
    all.sort_by_key(|key| (key.made, key.id));
    all
}

/// Whether this text is a key of the encoder, and good.
pub fn opens(encoder: &Record, text: &str, now: u64) -> bool {
    let hash = key_hash(text);
    keys(encoder).iter().any(|key| key.hash == hash && key.good_at(now))
}

/// What makes `new` a key of the encoder, and gives those before it an end, unless theirs comes
/// first or they are given none. What has ended is taken out.
pub fn add_key(encoder: &Record, new: StreamKey, end: Option<u64>) -> Vec<Change> {
    let mut changes = vec![Change::Add(KEYS_SET, new.encode())];
    for (bytes, key) in
        encoder.elements(KEYS_SET).filter_map(|bytes| Some((bytes, StreamKey::decode(bytes)?)))
    {
        let stays = key.good_at(new.made) && !encoder.has(REVOKED_SET, &key.id);
        let expires = match end {
            Some(end) if key.good_at(end) => end.max(1),
            _ => key.expires,
        };
        if !stays || expires != key.expires {
            changes.push(Change::Remove(KEYS_SET, bytes.to_vec()));
        }
        if stays && expires != key.expires && expires > new.made {
            changes.push(Change::Add(KEYS_SET, StreamKey { expires, ..key }.encode()));
        }
    }
    changes
}

/// What puts the key of this name out for good.
pub fn revoke_key(encoder: &Record, id: [u8; 4]) -> Vec<Change> {
    let of = |bytes: &&[u8]| StreamKey::decode(bytes).is_some_and(|key| key.id == id);
    let removed = encoder.elements(KEYS_SET).filter(of);
    let removed = removed.map(|bytes| Change::Remove(KEYS_SET, bytes.to_vec()));
    std::iter::once(Change::Add(REVOKED_SET, id.to_vec())).chain(removed).collect()
}

#[cfg(test)]
mod tests {
    use crdts::CvRDT as _;

    use super::*;
    use crate::accounts::{Dot, Stamp};
    use crate::id::{AccountId, ActorId, NodeId};

    const CAM: EncoderId = EncoderId([4; 16]);

    fn text(n: u8) -> String {
        key_text(CAM, &[n; SECRET])
    }

    fn key(n: u8, made: u64) -> StreamKey {
        StreamKey { id: [n; 4], hash: key_hash(&text(n)), made, expires: 0 }
    }

    fn write(record: &mut Record, actor: u8, changes: &[Change]) {
        let seq = record.dots().len() as u64 + 1;
        let dot = Dot { actor: ActorId([actor; 16]), seq, nonce: [0; 4] };
        let by = Stamp { account: AccountId([0; 16]), node: NodeId([0; 16]), wall: seq };
        record.apply(dot, by, changes).unwrap();
    }

    #[test]
    fn a_key_survives_its_bytes_and_says_whose_it_is() {
        let one = StreamKey { expires: 7, ..key(1, 5) };
        let bytes = one.encode();
        assert_eq!((bytes.len(), StreamKey::decode(&bytes)), (53, Some(one)));
        for end in 0..bytes.len() {
            assert_eq!(StreamKey::decode(&bytes[..end]), None);
        }
        assert_eq!(key_owner(&text(1)), Some(CAM));
        for other in ["", "rk1", "rk1!", &text(1)[1..], &text(1).to_uppercase()] {
            assert_eq!(key_owner(other), None, "{other}");
        }
    }

    #[test]
    fn a_new_key_gives_the_old_ones_an_end_and_takes_out_what_has_ended() {
        let mut record = Record::default();
        write(&mut record, 1, &add_key(&Record::default(), key(1, 10), None));
        let changes = add_key(&record, key(2, 20), Some(30));
        write(&mut record, 1, &changes);
        assert!(opens(&record, &text(1), 29) && !opens(&record, &text(1), 30));
        assert!(opens(&record, &text(2), 1_000));
        let changes = add_key(&record, key(3, 40), Some(1_000));
        write(&mut record, 1, &changes);
        let names: Vec<_> = keys(&record).iter().map(|key| (key.id[0], key.expires)).collect();
        assert_eq!(names, [(2, 1_000), (3, 0)]);
        let changes = add_key(&record, key(4, 50), Some(50));
        write(&mut record, 1, &changes);
        assert_eq!(keys(&record), [key(4, 50)], "an end at once is a removal");
    }

    #[test]
    fn a_key_that_is_out_stays_out_whatever_is_done_meanwhile() {
        let mut record = Record::default();
        write(&mut record, 1, &add_key(&Record::default(), key(1, 10), None));
        let mut other = record.clone();
        let changes = revoke_key(&record, [1; 4]);
        write(&mut record, 1, &changes);
        let changes = add_key(&other, key(2, 20), Some(1_000));
        write(&mut other, 2, &changes);
        record.merge(other);
        assert!(!opens(&record, &text(1), 21) && opens(&record, &text(2), 21));
    }

    #[test]
    fn of_two_ends_given_at_once_the_earlier_counts() {
        let mut record = Record::default();
        write(&mut record, 1, &add_key(&Record::default(), key(1, 10), None));
        let mut other = record.clone();
        let changes = add_key(&record, key(2, 20), Some(100));
        write(&mut record, 1, &changes);
        let changes = add_key(&other, key(3, 20), Some(50));
        write(&mut other, 2, &changes);
        record.merge(other);
        assert!(opens(&record, &text(1), 49) && !opens(&record, &text(1), 50));
        assert_eq!(keys(&record).len(), 3);
    }
}
