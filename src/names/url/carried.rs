//! What a URL carries of ours within its path or its query, as that of a proxy or a resizer does:
//! other URLs, and paths of its own host.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::iter;

use super::{Addresses, MAX_PATH_BYTES, Meant, Origin, decoded_lossily, is_signed, split_host};
use crate::names::error::{NameError, shown};
use crate::names::host::{Host, found_in};

impl Addresses<'_> {
    /// The URLs that one carries behind its scheme, as one of a proxy or a resizer does: in its path,
    /// or in a value of its query, as they are or encoded, whole or without the scheme of a host that
    /// stands for the bucket. Fails where they are too many to be read.
    pub(super) fn carried(&self, name: &str, rest: &str) -> Result<BTreeSet<String>, NameError> {
        let is_encoded = ENCODED.iter().any(|encoded| rest.contains(encoded));
        // (The bucket's own host, without what tells the region.)
        let own = format!("{}.s3", self.bucket);
        let lower = rest.to_ascii_lowercase();
        let names = |host: &Host| host.found_in(&lower).next().is_some();
        if !is_encoded
            && !rest.contains("://")
            && found_in(&own, &lower).next().is_none()
            && !self.hosts.iter().any(names)
        {
            return Ok(BTreeSet::new());
        }
        // Each value by itself, too: what it encodes may be what ends it.
        let values = rest.split(['?', '#', '&']);
        let values = values.filter(|value| value.len() < rest.len());
        let texts: Vec<&str> = iter::once(rest).chain(values).collect();
        let decoded = |texts: &[&'_ str]| -> Vec<String> {
            let encoded = texts.iter().filter(|text| text.contains('%'));
            encoded
                .map(|text| decoded_lossily(text).into_owned())
                .collect()
        };
        let once = decoded(&texts);
        let twice = decoded(&once.iter().map(String::as_str).collect::<Vec<_>>());
        let texts = texts
            .into_iter()
            .chain(once.iter().chain(&twice).map(String::as_str));
        let mut urls = BTreeSet::new();
        for text in texts {
            let whole = urls_in(text).into_iter().map(|at| ("", at));
            let lower = text.to_ascii_lowercase();
            let hosts = self.hosts.iter().flat_map(|host| host.found_in(&lower));
            let hosts = hosts.chain(found_in(&own, &lower));
            for (scheme, at) in whole.chain(hosts.map(|at| ("https://", at))) {
                let end = text.floor_char_boundary(at.saturating_add(MAX_URL_BYTES));
                urls.insert(format!("{scheme}{}", &text[at..end]));
                if urls.len() > MAX_CARRIED {
                    return Err(NameError::SeveralUrls(shown(name)));
                }
            }
        }
        Ok(urls)
    }

    /// What a URL that another one carries protects, if it is one of the bucket. Fails where its
    /// host is not known, and must be.
    pub(super) fn add_carried(
        &self,
        meant: &mut Meant<'_>,
        url: &str,
        must_be_known: bool,
    ) -> Result<(), NameError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Ok(());
        };
        let (host, path) = split_host(rest);
        let host = host.rsplit('@').next().unwrap_or_default();
        // What stands behind it in a text ends it.
        let host = host.split(ends_host_in_text).next().unwrap_or_default();
        if host.is_empty() {
            return Ok(());
        }
        let host = host.to_ascii_lowercase();
        let Some(origin) = Origin::of(scheme, &host) else {
            return Ok(());
        };
        let mut readings = self.readings(origin, path).peekable();
        let is_ours = readings.peek().is_some();
        if must_be_known && !is_ours {
            self.not_ours(url, &host, origin, path)?;
        }
        for raw in readings {
            meant.add(&raw)?;
        }
        self.add_carried_paths(meant, origin, path, is_ours)
    }

    /// What the paths protect that a path of a host carries, where they stand on that same host; of
    /// one of ours as keys, too.
    pub(super) fn add_carried_paths(
        &self,
        meant: &mut Meant<'_>,
        origin: Origin<'_>,
        path: &str,
        is_ours: bool,
    ) -> Result<(), NameError> {
        if matches!(origin, Origin::Bucket(_)) {
            return Ok(());
        }
        for inner in carried_paths(path) {
            if is_ours {
                meant.add(&inner)?;
            }
            for raw in self.readings(origin, &inner) {
                meant.add(&raw)?;
            }
        }
        Ok(())
    }
}

/// What a URL holds where it carries an encoded one.
const ENCODED: [&str; 5] = ["%3A", "%3a", "%2F", "%2f", "%25"];

/// How the URLs begin that may be meant.
const SCHEMES: [&str; 3] = ["http://", "https://", "s3://"];

/// Where URLs begin in a text.
pub(super) fn urls_in(text: &str) -> Vec<usize> {
    if !text.contains("://") {
        return Vec::new();
    }
    let text = text.to_ascii_lowercase();
    let begins = |scheme| text.match_indices(scheme).map(|(at, _)| at);
    SCHEMES.into_iter().flat_map(begins).collect()
}

/// The paths that a path carries, as a resizer asks for what stands on its own host:
/// in a value of its query, or behind `cdn-cgi/image/OPTIONS/`
/// (<https://developers.cloudflare.com/images/transform-images/transform-via-url/>).
fn carried_paths(path: &str) -> Vec<String> {
    let mut paths = Vec::new();
    if let Some((_, query)) = path.split_once('?').filter(|(_, query)| !is_signed(query)) {
        let pairs = query.split(['?', '#', '&']);
        let values = pairs.filter_map(|pair| pair.split_once('='));
        let values = values.map(|(_, value)| decoded_lossily(value));
        let paths_in = values.filter(|value| value.contains(['/', '.']));
        paths.extend(paths_in.map(Cow::into_owned));
    }
    let behind = |(at, mark): (usize, &str)| path[at + mark.len()..].split_once('/');
    let resized = path.match_indices("cdn-cgi/image/").next().and_then(behind);
    paths.extend(resized.map(|(_, path)| path.to_owned()));
    paths
}

/// What no host holds.
fn ends_host_in_text(c: char) -> bool {
    !c.is_alphanumeric() && !".:-_[]".contains(c)
}

/// A host, and that path behind it.
const MAX_URL_BYTES: usize = 512 + MAX_PATH_BYTES;

/// No more URLs within one can be read.
const MAX_CARRIED: usize = 64;

#[cfg(test)]
mod tests {
    use crate::names::tests::{keys, refused, rules};
    use crate::names::{Host, NameRules, ReferenceForm};
    use crate::references::ReferenceKind;

    #[test]
    fn what_a_url_carries_is_protected_too() {
        for carrying in [
            "https://cdn.example.com/_next/image?url=https%3A%2F%2Fcdn.example.com%2Fx%2Fa.png&w=64",
            "https://cdn.example.com/width=80/https://CDN.example.com/x/a.png",
            "https://avatars.example.net/?url=s3://pics/x/a.png&w=64",
            "https://avatars.example.net/http%3a//localhost:9000/pics/x/a.png",
            "https://avatars.example.net/x?a=https://other.example/&b=HTTPS://s3.amazonaws.com/pics/x%2Fa.png",
            "https://avatars.example.net/?url=https%253A%252F%252Fcdn.example.com%252Fx%252Fa.png",
            "https://avatars.example.net/?url=%2F%2Fcdn.example.com%2Fx%2Fa.png",
            "https://avatars.example.net/https%3A//pics.s3.amazonaws.com/x/a.png",
            "https://avatars.example.net/https%3a//pics.s3.amazonaws.com/x/a.png",
            "https://avatars.example.net/unsafe/80x80/cdn.example.com/x/a.png",
            "https://avatars.example.net/?u=cdn.example.com/x/a.png",
            "https://avatars.example.net/?u=ssl:cdn.example.com/x/a.png",
            "https://avatars.example.net/pics.s3.amazonaws.com/x/a.png?w=300",
            "https://avatars.example.net/?u=%2F%2Fpics.s3.amazonaws.com%2Fx%2Fa.png",
            "https://avatars.example.net/insecure/rs:fit:300:300/plain/s3://pics/x/a.png@webp",
            "https://avatars.example.net/plain/https://cdn.example.com/x/a.png@webp",
            "https://avatars.example.net/CDN.Example.com/x/a.png",
            "https://avatars.example.net/filters:watermark(cdn.example.com/x/a.png,-10,50)/1.png",
            "https://avatars.example.net/https%3A%2F%2Fcdn.example.com%2F_next%2Fimage%3Furl%3D%252Fx%252Fa.png%26w%3D64",
            "https://avatars.example.net/https://cdn.example.com/cdn-cgi/image/w=80/x/a.png",
            "https://cdn.example.com/_next/image?url=%2Fx%2Fa.png&w=64",
            "http://localhost:9000/pics/_next/image?url=/pics/x/a.png&w=64",
            "https://cdn.example.com/resize?w=64&key=x/a.png",
            "http://localhost:9000/pics/resize?key=x/a.png#top",
            "https://cdn.example.com/cdn-cgi/image/width=80,fit=cover/x/a.png?v=2",
        ] {
            let read = rules(ReferenceForm::Url).widen(carrying).unwrap();
            let carried = read
                .iter()
                .find(|reference| reference.key.as_str() == "x/a.png");
            assert_eq!(
                carried.map(|reference| reference.kind),
                Some(ReferenceKind::Alternate),
                "{carrying}"
            );
        }
    }

    #[test]
    fn what_a_url_of_ours_carries_must_be_known_and_no_more_than_can_be_read() {
        // Our own server may fetch it from a host that is ours, too.
        let unknown = "https://cdn.example.com/width=80/https://origin.example.org/x/a.png";
        let error = refused(ReferenceForm::Url, unknown);
        assert!(
            error.starts_with("the host origin.example.org of"),
            "{error}"
        );
        for secret in [
            "https://cdn.example.com/w=80/https://me:secret@origin.example.org/a.png",
            "https://cdn.example.com/a.png,https://me:secret@cdn.example.com/b.png",
        ] {
            let error = refused(ReferenceForm::Url, secret);
            assert!(!error.contains("secret"), "{error}");
        }
        for foreign in [
            "https://cdn.example.com/b.png?by=https://avatars.example.net/1.png",
            "https://cdn.example.com/b.png?by=https://avatars.example.net&v=2",
            "https://cdn.example.com/b.png?by=(https://avatars.example.net)",
            "https://cdn.example.com/b.png?by=https://me@avatars.example.net/1.png",
            "https://cdn.example.com/b.png?by=https://",
        ] {
            assert!(keys(foreign).contains(&"b.png".to_owned()), "{foreign}");
        }
    }

    #[test]
    fn each_value_of_a_query_is_read_by_itself() {
        // What is encoded may hold what ends a value, and stand beside what is no text.
        for (name, key) in [
            (
                "https://avatars.example.net/?u=https%3A%2F%2Fcdn.example.com%2FR%26D.png&w=64",
                "R&D.png",
            ),
            (
                "https://avatars.example.net/?n=caf%E9&u=https%3A%2F%2Fcdn.example.com%2Fa.png",
                "a.png",
            ),
            (
                "https://avatars.example.net/?u=https://me@cdn.example.com/a.png",
                "a.png",
            ),
        ] {
            assert!(keys(name).contains(&key.to_owned()), "{key} by {name}");
        }
        // As many as there are, or none.
        let montage = |count: usize| {
            let urls = (0..count).map(|n| format!("u{n}=https://cdn.example.com/{n}.png"));
            format!(
                "https://avatars.example.net/?{}",
                urls.collect::<Vec<_>>().join("&")
            )
        };
        let read = keys(&montage(10));
        assert!(
            (0..10).all(|n| read.contains(&format!("{n}.png"))),
            "{read:?}"
        );
        assert!(refused(ReferenceForm::Url, &montage(70)).contains("holds several"));
        // A path of a host of which only a part is ours.
        let partly = NameRules {
            hosts: vec![Host::new("www.example.com/m").unwrap()],
            foreign_hosts: vec![Host::new("www.example.com").unwrap()],
            ..rules(ReferenceForm::Url)
        };
        for (name, expected) in [
            (
                "https://www.example.com/_next/image?url=%2Fm%2Fx%2Fa.png",
                true,
            ),
            ("https://www.example.com/cdn-cgi/image/w=80/m/x/a.png", true),
            ("https://www.example.com/_next/image?url=x/a.png", false),
        ] {
            let read = partly.widen(name).unwrap();
            let named = read.iter().any(|one| one.key.as_str() == "x/a.png");
            assert_eq!(named, expected, "{name}");
        }
        // However many blanks stand in it.
        let blanks = "https://cdn.example.com/a b c d e f g h i j k.png 2x";
        assert!(keys(blanks).contains(&"a b c d e f g h i j k.png".to_owned()));
        // Only what may be a path: it stands with a slash or an ending.
        let plain = "https://cdn.example.com/r?key=pony&w=64";
        assert_eq!(keys(plain), ["r", "r?key=pony&w=64"]);
        for path in ["x/pony", "pony.png"] {
            let read = keys(&format!("https://cdn.example.com/r?key={path}"));
            assert!(read.contains(&path.to_owned()), "{read:?}");
        }
        assert_eq!(keys("s3://pics/why?k=a.png"), ["why", "why?k=a.png"]);
        // What is not ours is nobody's concern there.
        assert!(keys("https://avatars.example.net/mycdn.example.com/x/a.png").is_empty());
        assert!(keys("https://avatars.example.net/?u=https://other.example/a.png").is_empty());
        // No more of a signature than elsewhere.
        let signed =
            "https://avatars.example.net/?u=https://cdn.example.com/a.png?x-amz-signature=s";
        assert_eq!(keys(signed), ["a.png"]);
        let signed = "https://cdn.example.com/a.png?x-amz-%73ignature=s&k=b.png";
        assert_eq!(keys(signed), ["a.png"]);
    }
}
