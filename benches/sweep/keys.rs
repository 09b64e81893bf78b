//! The keys of the synthetic bucket: told by arithmetic, so that nobody has to hold them.

/// Bytes of every key: a UUID and `.jpg`.
pub(crate) const KEY_BYTES: usize = 40;

/// The orphans are the keys whose index ends in this digit.
const ORPHAN_DIGIT: u64 = 3;

/// References without an object, all in all.
pub(crate) const DANGLING: u64 = 20;

/// The keys of a bucket in byte order, a tenth of them orphans.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Population {
    keys: u64,
}

/// One key.
pub(crate) type Key = [u8; KEY_BYTES];

impl Population {
    /// So many keys, at least a thousand and in thousands, so that every figure is exact.
    pub(crate) fn new(keys: u64) -> Self {
        Self {
            keys: keys.max(1_000) / 1_000 * 1_000,
        }
    }

    pub(crate) fn len(self) -> u64 {
        self.keys
    }

    /// How many of them no row names.
    pub(crate) fn orphans(self) -> u64 {
        self.keys / 10
    }

    pub(crate) fn is_orphan(index: u64) -> bool {
        index % 10 == ORPHAN_DIGIT
    }

    /// The key at this place in byte order.
    pub(crate) fn key(self, index: u64) -> Key {
        // The upper half rises with the index, at uneven steps, as random UUIDs do.
        let step = u64::MAX / self.keys;
        uuid(index * step + mix(index) % step, mix(!index))
    }

    /// How many keys lie before this text, or up to it.
    pub(crate) fn rank(self, text: &[u8], or_equal: bool) -> u64 {
        let (mut low, mut high) = (0, self.keys);
        while low < high {
            let middle = low.midpoint(high);
            let key = self.key(middle);
            if key.as_slice() < text || or_equal && key == text {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The place of exactly this key.
    pub(crate) fn place(self, text: &[u8]) -> Option<u64> {
        let index = self.rank(text, false);
        (index < self.keys && self.key(index) == text).then_some(index)
    }

    /// The names that the database holds, in byte order: every key but the orphans', and
    /// some that no object has.
    pub(crate) fn names(self) -> impl Iterator<Item = Key> {
        let every = self.keys / DANGLING;
        (0..self.keys).flat_map(move |index| {
            let key = self.key(index);
            let missing = (index % every == 0).then(|| {
                // The upper half keeps it behind its neighbour and before the next.
                let mut key = key;
                key[35] = if key[35] == b'f' { b'g' } else { b'f' };
                key
            });
            let named = (!Self::is_orphan(index)).then_some(key);
            let mut two = [named, missing];
            two.sort_unstable();
            two.into_iter().flatten()
        })
    }
}

/// The entity tag of the object at this place, without its quotes.
pub(crate) fn etag(index: u64) -> [u8; 32] {
    let mut tag = [0; 32];
    hexadecimal(mix(index ^ 0x5eed), &mut tag[..16]);
    hexadecimal(mix(index ^ 0x7a65), &mut tag[16..]);
    tag
}

fn uuid(upper: u64, lower: u64) -> Key {
    let mut digits = [0; 32];
    hexadecimal(upper, &mut digits[..16]);
    hexadecimal(lower, &mut digits[16..]);
    let mut key = *b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx.jpg";
    let mut digits = digits.into_iter();
    for place in key.iter_mut().filter(|place| **place == b'x') {
        *place = digits.next().unwrap_or(b'0');
    }
    key
}

fn hexadecimal(number: u64, digits: &mut [u8]) {
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        *digit =
            b"0123456789abcdef"[usize::try_from(number >> (4 * place) & 15).unwrap_or_default()];
    }
}

/// Scatters a number over 64 bits (the finisher of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
