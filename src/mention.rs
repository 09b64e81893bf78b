//! Orphans that a name *mentions* without meaning them: their key stands in it, in whatever
//! place, case or encoding, and what the name does mean is not there.
//!
//! How image servers, proxies and careless code write a key into a URL has no end, and a name
//! that is read wrongly looks like one whose object is missing. So whoever deletes an object whose
//! key stands in such a name has perhaps read the name wrongly: it is held back.
//!
//! What is compared are the letters and digits alone, by words: marks, accents and case are what
//! systems write in their own way. Where they tell enough, the ending is left out, and so are the folders.

mod known;
mod words;
mod writings;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::known::{KnownTexts, MAX_KNOWN};
use self::words::{PARTED, Words, tell_joined};
use self::writings::writings;
use crate::key::ObjectKey;

/// Some words of a key, or all of them, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Needle(u64);

impl Needle {
    fn of(letters: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(letters.as_bytes());
        Self(hasher.finish())
    }
}

/// The hash of what is a hash.
#[derive(Debug, Clone, Copy, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("it is a number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// So many letters and digits of a key without its ending, or of its last part alone if no other key
/// has that, tell it from what stands in any text by chance.
const TELLING: usize = 12;

/// So many of a key without its ending, in what means a missing object.
const TELLING_LOOSELY: usize = 8;

/// So many of its last part, or digits where that has nothing else, in what means a missing object.
const TELLING_ALONE: usize = 3;
const TELLING_DIGITS: usize = 6;

/// A text that may mention more keys than can be tried.
#[derive(Debug, Error)]
#[error("more keys than can be tried may stand in it")]
pub struct TooLong;

/// How much of a key must stand in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strictness {
    /// Less, where the text means an object that is not there.
    Loose,
    /// Enough, where it may speak of anything.
    Strict,
}

/// What tells of a key.
struct Telling {
    letters: String,
    /// The strictest reading in which this is enough.
    enough: Strictness,
    /// The key without its ending, where this tells only of the one key that has it.
    alone: Option<Needle>,
}

/// All that tells of a key, which names may say without this prefix.
fn tellings(key: &str, prefix: &str) -> Vec<Telling> {
    let whole = |key: &str| Telling {
        letters: Words::of(key).telling(),
        enough: Strictness::Strict,
        alone: None,
    };
    let mut tellings = vec![whole(key)];
    let strictly = |text: &str| match count(text) {
        TELLING.. => Strictness::Strict,
        _ => Strictness::Loose,
    };
    let bare = without_ending(key);
    let letters = Words::of(bare).telling();
    let of = Needle::of(&letters);
    if count(bare) >= TELLING_LOOSELY {
        tellings.push(Telling {
            letters,
            enough: strictly(bare),
            alone: None,
        });
    }
    let name = bare.rsplit('/').next().unwrap_or_default();
    let is_number = name.chars().all(|c| c.is_ascii_digit());
    let least = if is_number {
        TELLING_DIGITS
    } else {
        TELLING_ALONE
    };
    if count(name) >= least {
        tellings.push(Telling {
            letters: Words::of(name).telling(),
            enough: strictly(name),
            alone: Some(of),
        });
    }
    match key.strip_prefix(prefix) {
        Some(rest) if !prefix.is_empty() => tellings.push(whole(rest)),
        _ => {}
    }
    tellings
}

/// How many letters and digits a text has.
fn count(text: &str) -> usize {
    text.chars().filter(|c| c.is_alphanumeric()).count()
}

/// A key without the extension of its last part.
fn without_ending(key: &str) -> &str {
    let name = key.rfind('/').map_or(0, |slash| slash + 1);
    match key[name..].rfind('.') {
        Some(dot) if dot > 0 => &key[..name + dot],
        _ => key,
    }
}

/// What tells of a key, however it is written, which names may say without this prefix.
pub fn needles(key: &ObjectKey, prefix: &str) -> impl Iterator<Item = Needle> {
    let tellings = tellings(key.as_str(), prefix).into_iter();
    tellings.map(|telling| Needle::of(&telling.letters))
}

/// The strictest readings in which a needle tells of a key.
#[derive(Debug, Clone, Copy)]
struct Tells {
    /// Of whoever has it.
    of_all: Option<Strictness>,
    /// Of the one key that has it alone; `None` where several have.
    of_one: Option<(Needle, Strictness)>,
    is_shared: bool,
}

/// Keys that names are held against: some bytes for each.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    needles: HashMap<Needle, Tells, BuildHasherDefault<AsItIs>>,
    /// Whether any of these has so many bytes.
    lengths: Vec<bool>,
    added: usize,
}

impl Keys {
    /// Adds a key, which names may say without this prefix.
    pub fn add(&mut self, key: &ObjectKey, prefix: &str) {
        self.added += 1;
        for telling in tellings(key.as_str(), prefix) {
            let length = telling.letters.len();
            if self.lengths.len() <= length {
                self.lengths.resize(length + 1, false);
            }
            self.lengths[length] = true;
            let needle = Needle::of(&telling.letters);
            let tells = self.needles.entry(needle).or_insert(Tells {
                of_all: None,
                of_one: None,
                is_shared: false,
            });
            match (telling.alone, tells.of_one) {
                (None, _) => tells.of_all = tells.of_all.max(Some(telling.enough)),
                (Some(of), Some((other, _))) => tells.is_shared |= of != other,
                (Some(of), None) => tells.of_one = Some((of, telling.enough)),
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.added
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added == 0
    }

    /// What stands in a text of that which tells of a key.
    ///
    /// # Errors
    /// It hides more than can be read.
    pub fn mentioned_in(
        &self,
        text: &str,
        strictness: Strictness,
    ) -> Result<BTreeSet<Needle>, TooLong> {
        let mut found = BTreeSet::new();
        for text in writings(text)? {
            self.find(&Words::of(&text), strictness, &mut found);
        }
        Ok(found)
    }

    /// Adds what stands in a text as whole words.
    fn find(&self, text: &Words, strictness: Strictness, found: &mut BTreeSet<Needle>) {
        self.find_those(|_| true, text, strictness, found);
        if text.letters.contains(PARTED) {
            self.find_those(tell_joined, &text.joined(), strictness, found);
        }
    }

    /// The same of such letters only.
    fn find_those(
        &self,
        tell: fn(&str) -> bool,
        text: &Words,
        strictness: Strictness,
        found: &mut BTreeSet<Needle>,
    ) {
        for (index, &start) in text.bounds.iter().enumerate() {
            let ends = text.bounds[index + 1..].iter();
            let ends = ends.take_while(|end| **end - start < self.lengths.len());
            for &end in ends.filter(|end| self.lengths[**end - start]) {
                let letters = &text.letters[start..end];
                let needle = Needle::of(letters);
                if self.tells(needle, strictness) && tell(letters) {
                    found.insert(needle);
                }
            }
        }
    }

    fn tells(&self, needle: Needle, strictness: Strictness) -> bool {
        self.needles.get(&needle).is_some_and(|tells| {
            let of_one = tells.of_one.filter(|_| !tells.is_shared);
            let of_one = of_one.map(|(_, strictness)| strictness);
            tells
                .of_all
                .max(of_one)
                .is_some_and(|at_most| strictness <= at_most)
        })
    }
}

/// What tells of the orphans that names mention.
#[derive(Debug, Default)]
pub struct Mentions {
    /// By what, for the first of them.
    of: HashMap<Needle, Option<String>>,
    prefix: String,
}

/// No key has more that tells of it.
const MOST_TELLINGS: usize = 4;

/// How many are told with what mentions them.
pub const MAX_TOLD: usize = 20;

impl Mentions {
    /// None yet, of keys that names may say without this prefix.
    #[must_use]
    pub fn behind(prefix: &str) -> Self {
        Self {
            of: HashMap::new(),
            prefix: prefix.to_owned(),
        }
    }

    /// Adds what is mentioned by this name.
    pub fn add(&mut self, needle: Needle, by: impl FnOnce() -> String) {
        let is_told = self.of.len() < MOST_TELLINGS * MAX_TOLD;
        self.of.entry(needle).or_insert_with(|| is_told.then(by));
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether this is known to be mentioned.
    #[must_use]
    pub fn contains(&self, needle: Needle) -> bool {
        self.of.contains_key(&needle)
    }

    /// Whether a key is mentioned.
    #[must_use]
    pub fn mention(&self, key: &ObjectKey) -> bool {
        !self.is_empty() && needles(key, &self.prefix).any(|needle| self.contains(needle))
    }

    /// The orphan of this key as it is told of, if it is one of the first that are mentioned.
    #[must_use]
    pub fn told(&self, key: &ObjectKey) -> Option<Mention> {
        let mut names = needles(key, &self.prefix).filter_map(|needle| self.of.get(&needle));
        let name = names.find_map(Clone::clone)?;
        Some(Mention {
            key: key.clone(),
            name,
        })
    }
}

/// An orphan that is held back because a name mentions it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mention {
    /// The orphan's key.
    pub key: ObjectKey,
    /// The name, as an error may show it.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    /// Whether a text mentions a key, held loosely and strictly.
    fn held_to(text: &str, key: &str) -> [bool; 2] {
        let key = ObjectKey::new(key);
        let mut keys = Keys::default();
        keys.add(&ObjectKey::new("quite/another.png"), "");
        keys.add(&key, "");
        assert_eq!(keys.len(), 2);
        [Strictness::Loose, Strictness::Strict].map(|strictness| {
            let found = keys.mentioned_in(text, strictness).unwrap();
            needles(&key, "").any(|needle| found.contains(&needle))
        })
    }

    fn mentions(text: &str, key: &str) -> bool {
        let [loosely, strictly] = held_to(text, key);
        assert!(loosely || !strictly);
        strictly
    }

    /// A key, and what was written of it; most were lost by a reader once.
    const WRITTEN: &[(&str, &str)] = &[
        ("x/a.png", "x/a.png"),
        ("photos/p30.png", "/thumb.php?file=p30.png&dir=photos"),
        ("photos/café2.png", "/r?t=€uro&src=photos/cafÃ©2.png"),
        ("photos/hex.png", "0x70686f746f732f6865782e706e67"),
        (
            "x/a.png",
            "https://img.example.net/s3.amazonaws.com/pics/x/a.png",
        ),
        ("x/a.png", "https://img.example.net/?src=pics/x/a.png&w=3"),
        ("x/a.png", "https://img.example.net/x/a.png/300x300"),
        ("x/a.png", "https://img.example.net/x/a.png@webp"),
        ("x/a.png", "https://img.example.net/#/x/a.png"),
        ("x/a.png", "https://img.example.net/r;url=x/a.png;w=64"),
        (
            "x/a.png",
            "https://img.example.net/?images=[\"b.png\",\"x\\/a.png\"]",
        ),
        (
            "x/a.png",
            "https://img.example.net/?%7B%22key%22%3A%22x%2Fa.png%22%7D",
        ),
        (
            "x/a.png",
            "https://img.example.net/?k=b.png&amp;l=x/a.png%26w=3",
        ),
        ("x/a.png", "https://img.example.net/b.png+x/a.png"),
        ("x/a.png", "https://img.example.net/x\\a.png"),
        ("x/a.png", "https://img.example.net//x//a.png"),
        ("x/a.png", "https://img.example.net/%252Fx%25252Fa.png"),
        ("x/a.png", "https://img.example.net/X/A.PNG"),
        ("x/a.png", "?X-Amz-Signature=0&of=x/a.png"),
        ("R&D.png", "https://img.example.net/R&amp;D.png"),
        ("R D.png", "https://img.example.net/R+D.png"),
        ("x/cafe\u{301}.png", "x/caf\u{e9}.png"),
        ("x/caf\u{e9}.png", "x/CAFE\u{301}.png"),
        ("#1 of (2).png", "x/#1 of (2).png"),
        (
            "photos/why?13.png",
            "img.example.net/r/300/photos/why?13.png",
        ),
        ("photos/x-amz-meta15.png", "/r/300/photos/x-amz-meta15.png"),
        (
            "photos/logo3.png",
            "https://img.example.net/o.png?tr=l-image,i-photos@@logo3.png,l-end",
        ),
        (
            "photos/logo5.png",
            "https://img.example.net/demo/l_photos:logo5.png/x.jpg",
        ),
        (
            "photos/logo1.png",
            "/o.png?x-oss-process=image/watermark,image_cGhvdG9zL2xvZ28xLnBuZw,g_se",
        ),
        (
            "photos/h1.png",
            "/0123456789abcdef01/68747470733a2f2f63646e2e6578616d706c652e636f6d2f70686f746f732f68312e706e67",
        ),
        ("photos/hex.png", "\\x70686f746f732f6865782e706e67"),
        (
            "photos/café3.png",
            "https://img.example.net/?images=%5B%22photos/caf%5Cu00e93.png%22%5D",
        ),
        (
            "photos/café4.png",
            "https://cdn.example.com/photos/caf%u00E94.png",
        ),
        (
            "photos/café5.png",
            "https://img.example.net/r/300/photos/caf%E95.png",
        ),
        (
            "photos/it's7.png",
            "https://cdn.example.com/photos/it&#39;s7.png",
        ),
        (
            "photos/it's8.png",
            "https://cdn.example.com/photos/it&#x27;s8.png",
        ),
        (
            "photos/café10.png",
            "https://cdn.example.com/photos/caf&eacute;10.png",
        ),
        (
            "photos/s11.png",
            "https://cdn.example.com/photos&#x2F;s11.png",
        ),
        (
            "photos/a27.png",
            "/rails/active_storage/disk/eyJfcmFpbHMiOnsibWVzc2FnZSI6IkJBaDdCem9JYTJWNVNTSVRjR2h2ZEc5ekwyRXlOeTV3Ym1jR09nWkZWQT09IiwiZXhwIjpudWxsfX0--abc/a.png",
        ),
        (
            "photos/café49.png",
            "https://img.example.net/r/photos/caf%C3%83%C2%A949.png",
        ),
        (
            "photos/n44.png",
            "https://cdn.example.com/photos;v=1/n44.png",
        ),
        (
            "photos/n48.png",
            "https://img.example.net/r?dir=photos&file=n48.png",
        ),
        (
            "photos/a19.png",
            "/r/aHR0cHM6Ly9pbWcyLmV4YW1wbGUubmV0L3IvYUhSMGNITTZMeTlqWkc0dVpYaGhiWEJzWlM1amIyMHZjR2h2ZEc5ekwyRXhPUzV3Ym1jLnBuZw",
        ),
        (
            "photos/a22.png",
            "https://img.example.net/r/x-cGhvdG9zL2EyMi5wbmc.webp",
        ),
        (
            "photos/oé24.png",
            "/r/Ly9jZG4uZXhhbXBsZS5jb20vcGhvdG9zL2/DqTI0LnBuZw==",
        ),
        (
            "photos/a25.png",
            "https://img.example.net/r/?src=photos/thumbs/../a25.png",
        ),
        (
            "photos/a26.png",
            "https://cdn.example.com/r/300/photos/./a26.png",
        ),
        (
            "photos/a-long-name-here30.png",
            "/r/cGhvdG9zL2EtbG9u/Zy1uYW1lLWhlcmUz/MC5wbmc.png",
        ),
        (
            "1.png",
            "https://img.example.net/insecure/rs:fit:300:300/MS5wbmc.png",
        ),
        ("photos/straße.png", "/photos/STRASSE.PNG"),
        ("photos/fi.png", "/photos/\u{fb01}.png"),
        ("photos/\u{130}.png", "/photos/i.png"),
        ("photos/ΟΔΟΣ.png", "/photos/οδος.png"),
        ("photos/d d.png", "photos/d\u{a0}d.png"),
        (
            "photos/s1.png",
            "/o.png?X-Amz-Signature=0;src=photos/s1.png",
        ),
        ("photos/s15.png", "cdn.example.com/photos/?file=s15.png"),
        ("photos/café1.png", "/r?u=photos/caf\\xc3\\xa91.png"),
        ("photos/café2.png", "/r/photos/caf\\303\\2512.png"),
        (
            "photos/café5.png",
            "b'photos/caf\\xc3\\xa905.png', b'photos/caf\\xc3\\xa95.png'",
        ),
        ("photos/u4é.png", "/r?src=photos/u4%5Cu%7Be9%7D.png"),
        ("photos/it’s3.png", "/r/photos/itâ€™s3.png"),
        ("photos/École5.png", "/r/photos/Ã‰cole5.png"),
        ("photos/École6.png", "/r/photos/%C3%83%E2%80%B0cole6.png"),
        ("photos/STRAẞE8.png", "/r/photos/strasse8.png"),
        (
            "photos/l9.png",
            "/r?meta=%7B%22t%22%3A%22cover%5Cnphotos/l9.png%22%7D",
        ),
        ("photos/u3.png", "/r?src%5Cx3dphotos/u3.png"),
        ("photos/d2.png", "/r?src=photos\\thumbs\\..\\d2.png"),
        (
            "photos/a-rather-long-name-1.png",
            "/r?u=cGhvdG9zL2EtcmF0aGVy%0D%0ALWxvbmctbmFtZS0xLnBuZw%3D%3D",
        ),
        ("photos/a9.png", "photos/\u{ff21}\u{ff19}.png"),
        ("x1/of-all-12.png", "x1of-all-12.png"),
        ("photos/é.png", "photos/\\u00e9.png"),
        ("photos/\u{1f600}.png", "photos/\\ud83d\\ude00.png"),
        (
            "images/018fd0b5-0000-7000-8000-000000000001.png",
            "018fd0b5-0000-7000-8000-000000000001.webp",
        ),
        (
            "photos/n49.png",
            "https://img.example.net/r;dir=photos;file=n49.png",
        ),
        // Bits and letters that are none of it.
        ("x/a.png", "/r/eC9hLnBuZx.webp"),
        ("x/a12.png", "/r/eC9hMTIucG5nx.webp"),
        ("1.ai", "/r/MS5haQ.webp"),
        (
            "photos/abcd\u{1f600}1.png",
            "/r/cGhvdG9zL2FiY2Twn5iAMS5wbmc",
        ),
        ("x/>>>a9.png", "/r/eC8+Pj5hOS5wbmc"),
        // A column of type uuid.
        (
            "images/3f2504e04f8941d39a0c0305e82c3301.png",
            "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        ),
        (
            "images/abcdefa1-2bcd-4efa-abcd-efabcdefabcd.png",
            "abcdefa12bcd4efaabcdefabcdefabcd",
        ),
        (
            "images/12345678-1234-1234-1234-123456789012.png",
            "12345678123412341234123456789012.webp",
        ),
        (
            "images/3f/25/3f2504e04f8941d39a0c0305e82c3301.png",
            "/r/300/7/3f2504e0-4f89-41d3-9a0c-0305e82c3301/1/2",
        ),
        (
            "photos/img_20261130_120005.png",
            "photos/IMG 2026-11-30 12:00:05.jpg",
        ),
        ("photos/v1234567890123.png", "photos/v1,234,567,890,123.png"),
        (
            "photos/2024/11/30/2024-11-30-00017.png",
            "photos/2024/11/30/20241130-00017.jpg",
        ),
    ];

    #[test]
    fn a_key_is_found_however_an_image_server_writes_it() {
        for (key, text) in WRITTEN {
            assert!(mentions(text, key), "{key} in {text}");
        }
        // Only in what means a missing object.
        for (key, text) in [
            (
                "photos/a17.png",
                "https://img.example.net/photos/a17.pngx300",
            ),
            ("photos/a9.png", "photos/a9"),
            (
                "photos/p13.png",
                "https://cdn.example.com/photos/thumb_p13.png",
            ),
            (
                "photos/p20.png",
                "https://cdn.example.com/photos/tr:w-300/p20.png",
            ),
            ("photos/p30.png", "/thumb.php?file=p30&ext=png&dir=photos"),
            ("images/a.png", "images/a/b-c-a.png"),
            ("photographs/.png", "photographs/a.jpg"),
        ] {
            let expected = [!matches!(key, "images/a.png" | "photographs/.png"), false];
            assert_eq!(held_to(text, key), expected, "{key} in {text}");
        }
    }

    #[test]
    fn a_key_is_no_part_of_a_word_and_stands_as_a_whole() {
        for (key, text) in [
            ("x/a.png", ""),
            ("x/a.png", "x/banana.png"),
            ("x/a.png", "x/a.pngs"),
            ("x/a.png", "x/a.pn"),
            ("x/a.png", "x/a.jpg"),
            ("x/a.png", "y/a.png"),
            ("x/a.png", "x/b/a.png"),
            ("x/a.png", "\u{e9}x/a.png"),
            ("x/a.png", "x/a.png\u{e9}"),
            ("photographs/.png", "photographs/a.png"),
            ("300.png", "/r?w=300&h=300&fm=png"),
            ("1.png", "a.png?v=1&fm=png"),
            ("u/17/이미지.png", "x.png?title=이미지"),
            ("u/18/аватар.png", "img.example.net/аватар"),
            ("products/12.jpg", "img.example.net/products/12/main.jpg"),
            ("2024/11/05.png", "/2024/11/05/story.html"),
            ("images/12.png", "images/123.png"),
            ("images/12.png", "images/1.2.png"),
            ("2024/11/1-of-all.png", "2024/1/11-of-all.png"),
            ("products/12/3/photo.jpg", "products/1/23/photo.jpg"),
            (
                "images/a-long-name-of-its-own.png",
                "images/a-long-name-of-its.png",
            ),
        ] {
            assert!(!mentions(text, key), "{key} in {text}");
        }
        assert!(Keys::default().is_empty());
        let none = Keys::default().mentioned_in("a.png", Strictness::Loose);
        assert!(none.unwrap().is_empty());
    }

    #[test]
    fn the_last_part_alone_tells_only_where_it_is_long_and_no_other_key_has_it() {
        let keys = |texts: &[&str]| {
            let mut keys = Keys::default();
            for key in texts {
                keys.add(&ObjectKey::new(*key), "a/");
            }
            keys
        };
        let count = |keys: &Keys, text: &str| {
            let found = [Strictness::Strict, Strictness::Loose]
                .map(|strictness| keys.mentioned_in(text, strictness));
            found.map(|found| found.unwrap().len())
        };
        let one = keys(&[
            "b/photograph-12.png",
            "b/portrait.png",
            "b/12.png",
            "b/123456.png",
        ]);
        assert_eq!(count(&one, "c/photograph-12.jpg"), [1, 1]);
        // Of what means a missing object, any does; but for few digits.
        assert_eq!(count(&one, "c/thumb_portrait.webp"), [0, 1]);
        assert_eq!(count(&one, "c/12.webp"), [0, 0]);
        assert_eq!(count(&one, "c/123456.webp"), [0, 1]);
        let shared = keys(&[
            "b/photograph-12.png",
            "c/photograph-12.png",
            "d/photograph-12.png",
        ]);
        assert_eq!(count(&shared, "e/photograph-12.jpg"), [0, 0]);
        assert_eq!(count(&shared, "d/b/photograph-12.jpg"), [1, 1]);
        // But for what stands behind the prefix of all names, whoever else is called so.
        let behind = keys(&[
            "a/v5.png",
            "b/v6.png",
            "a/a-long-photograph.png",
            "a/x/a-long-photograph.png",
        ]);
        assert_eq!(count(&behind, "a/ord1.png,v5.png"), [1, 1]);
        assert_eq!(count(&behind, "a/ord1.png,v6.png"), [0, 0]);
        assert_eq!(count(&behind, "a/ord1.png,a-long-photograph.png"), [1, 1]);
        // Both that are the same but for their endings.
        let twins = ["b/photograph-12.png", "b/photograph-12.jpg"];
        let found = keys(&twins)
            .mentioned_in("photograph-12", Strictness::Strict)
            .unwrap();
        for key in twins {
            assert!(needles(&ObjectKey::new(key), "a/").any(|needle| found.contains(&needle)));
        }
    }

    #[test]
    fn only_the_first_are_told_with_what_mentions_them() {
        let mut mentions = Mentions::behind("");
        let key = |index: usize| ObjectKey::new(format!("{index}.png"));
        let needle = |index: usize| needles(&key(index), "").next().unwrap();
        let room = MOST_TELLINGS * MAX_TOLD;
        for index in 0..room + 2 {
            mentions.add(needle(index), || format!("of {index}"));
            mentions.add(needle(index), || "again".to_owned());
        }
        let told = |index| mentions.told(&key(index)).map(|told| told.name);
        assert_eq!(told(room - 1), Some(format!("of {}", room - 1)));
        assert_eq!(told(room), None);
        assert!(mentions.mention(&key(room + 1)));
        assert!(!mentions.mention(&key(room + 2)));
    }

    #[test]
    fn what_is_written_in_base64_is_read() {
        for source in [
            "https://pics.s3.amazonaws.com/x/a.png",
            "s3://pics/x/a.png",
            "local:///x/a.png",
            r#"{"bucket":"pics","key":"x/a.png","edits":{"resize":{"width":64}}}"#,
            "x/a.png",
            "???>>>/x/a.png",
            "https%3A%2F%2Fpics.s3.amazonaws.com%2Fx%2Fa.png",
            "\u{4}\u{8}{\u{7}:\u{8}keyI\"\u{15}x/a.png\u{6}",
        ] {
            for encoded in [STANDARD.encode(source), URL_SAFE_NO_PAD.encode(source)] {
                for text in [
                    format!("https://img.example.net/sig/rs:fit:3/{encoded}"),
                    format!("https://img.example.net/{encoded}.webp"),
                    format!("https://img.example.net/?u={}", encoded.replace('=', "%3D")),
                    format!(
                        "https://img.example.net/{}/{}.png",
                        &encoded[..8],
                        &encoded[8..]
                    ),
                ] {
                    assert!(mentions(&text, "x/a.png"), "{source} in {text}");
                }
            }
        }
    }

    proptest! {
        /// Whatever stands around it, and however often it was encoded.
        #[test]
        fn a_key_is_found_wherever_it_stands(
            // (What decodes once more is another key.)
            key in "[a-z0-9][ -~é고]{0,20}[a-z0-9]".prop_map(|key| key.replace(['%', '&', '\\'], "~").replace("..", "~")),
            before in "([ -~]{0,20}[-_ !\"#$'()*,.:;<=>?@{|}~\u{200b}])?".prop_map(|text| text.replace(['%', '&', '\\'], "~").replace("..", "~")),
            after in "([-_ !\"#$'()*,.:;<=>?@{|}~\u{200b}][ -~]{0,20})?".prop_map(|text| text.replace(['%', '&', '\\'], "~").replace("..", "~")),
            encoded in 0..=4,
        ) {
            let mut text = format!("{before}{key}{after}");
            for _ in 0..encoded {
                text = utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
            }
            prop_assert!(mentions(&text, &key), "{key} in {text}");
        }

        #[test]
        fn what_is_found_stands_there(text in "[a-cA-C/.?]{0,5}", key in "[a-c]{1,2}[/.][a-c]{1,3}") {
            let letters = |text: &str| text.to_lowercase().replace(['/', '.', '?'], "");
            prop_assert!(letters(&text).contains(&letters(&key)) || !mentions(&text, &key));
        }
    }
}
