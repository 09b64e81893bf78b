//! From a URL to the keys that it may mean: read by every host, in every way of writing, up to
//! every mark that may end it. One more reading only protects.

mod carried;

use std::borrow::Cow;
use std::iter;

use percent_encoding::percent_decode_str;
use url::Url;

use self::carried::urls_in;
use super::error::{NameError, short, shown, signature};
use super::host::{Host, behind};
use crate::key::{MAX_KEY_BYTES, ObjectKey};
use crate::references::{Reference, ReferenceKind};

/// What URLs stand for the bucket.
pub(super) struct Addresses<'rules> {
    /// The bucket, whose own S3 hosts are always known.
    pub bucket: &'rules str,
    /// Hosts that stand for it besides.
    pub hosts: &'rules [Host],
    /// Hosts whose URLs name no object of it.
    pub foreign_hosts: &'rules [Host],
}

impl Addresses<'_> {
    /// The keys that a URL protects: its primary key first, then what else an application may
    /// have meant by it. None for one of a foreign host, but for what it carries of ours. What one
    /// of ours carries must be known, too: our own server may fetch it from another host of ours.
    pub(super) fn widen(&self, name: &str) -> Result<Vec<Reference>, NameError> {
        if holds_several(name) {
            return Err(NameError::SeveralUrls(shown(name)));
        }
        let (scheme, host, rest, path) = split(name)?;
        let origin = Origin::of(scheme, &host).ok_or_else(|| NameError::NotUrl(shown(name)))?;
        let mut readings = self.readings(origin, path);
        let mut meant = Meant::new(name);
        let mut is_ours = false;
        if let Some(raw) = readings.next() {
            is_ours = true;
            meant.references.extend(first(name, &raw)?);
            for raw in iter::once(raw).chain(readings) {
                meant.add(&raw)?;
            }
        } else {
            self.not_ours(name, &host, origin, path)?;
        }
        self.add_carried_paths(&mut meant, origin, path, is_ours)?;
        for inner in self.carried(name, rest)? {
            self.add_carried(&mut meant, &inner, is_ours)?;
        }
        Ok(meant.references)
    }

    /// The one key that a URL means, if it means one.
    pub(super) fn primary(&self, name: &str) -> Result<Option<Reference>, NameError> {
        let (scheme, host, _, path) = split(name)?;
        let origin = Origin::of(scheme, &host).ok_or_else(|| NameError::NotUrl(shown(name)))?;
        let raw = self.readings(origin, path).next();
        raw.map_or(Ok(None), |raw| first(name, &raw))
    }

    /// Fails where nobody declared a host that does not stand for the bucket.
    fn not_ours(
        &self,
        name: &str,
        host: &str,
        origin: Origin<'_>,
        path: &str,
    ) -> Result<(), NameError> {
        let bare = path.split(TAIL).next().unwrap_or_default();
        let (Origin::Web(known) | Origin::Bucket(known)) = origin;
        let mut foreign = self.foreign_hosts.iter();
        if foreign.any(|foreign| foreign.key(known, bare).is_some()) {
            return Ok(());
        }
        let host = if is_s3_host(host) {
            format!("{host}/{}", bare.split('/').next().unwrap_or_default())
        } else {
            host.to_owned()
        };
        Err(NameError::UnknownHost {
            host: short(&host),
            name: shown(name),
        })
    }

    /// What stands behind each host that stands for the bucket and that the path begins with:
    /// the one with the longest path first.
    fn raw_keys<'url>(&self, origin: Origin<'_>, path: &'url str) -> Vec<&'url str> {
        let (Origin::Web(host) | Origin::Bucket(host)) = origin;
        let declared = self.hosts.iter().filter_map(|known| known.key(host, path));
        let mut raw: Vec<&str> = declared.collect();
        raw.sort_by_key(|raw| raw.len());
        // Virtual-hosted (`bucket.s3.region.amazonaws.com/key`) before path-style
        // (`s3.region.amazonaws.com/bucket/key`):
        // https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html
        let own = match origin {
            Origin::Bucket(name) => (name == self.bucket).then_some(path),
            Origin::Web(host) => {
                let is_virtual = host
                    .strip_prefix(self.bucket)
                    .and_then(|rest| rest.strip_prefix('.'))
                    .is_some_and(is_s3_host);
                if is_virtual {
                    Some(path)
                } else if is_s3_host(host) {
                    behind(path, self.bucket)
                } else {
                    None
                }
            }
        };
        raw.extend(own);
        raw
    }

    /// What stands in the path behind each host that it may begin with, up to each mark that
    /// may end it, in every way of writing; what is meant first comes first. Nothing where the path
    /// begins with no host that stands for the bucket.
    fn readings(&self, origin: Origin<'_>, path: &str) -> impl Iterator<Item = String> {
        let bare = path.find(TAIL).unwrap_or(path.len());
        let in_text = path.match_indices(ends_in_text);
        // (In a query it is one of many.)
        let in_text = in_text.filter(move |(end, mark)| *mark != "&" || *end < bare);
        let in_text = in_text.take(MAX_ENDS_IN_TEXT);
        let ends = in_text.chain(path.match_indices(TAIL)).map(|(end, _)| end);
        let ends = ends.chain((bare < path.len()).then_some(path.len()));
        iter::once(bare)
            .chain(ends.filter(|end| *end <= MAX_PATH_BYTES))
            .map(move |end| (&path[..end], path.get(bare..end).unwrap_or_default()))
            // (A signature belongs to no key, and shall not be carried about.)
            .filter(|(_, tail)| tail.len() <= MAX_TAIL_BYTES && !is_signed(tail))
            .flat_map(|(path, _)| ways_of_writing(path))
            .flat_map(move |path| {
                let raw = self.raw_keys(origin, &path).into_iter();
                let ways = raw.flat_map(ways_of_writing);
                ways.map(Cow::into_owned).collect::<Vec<_>>()
            })
    }
}

/// Where a URL points.
#[derive(Clone, Copy)]
enum Origin<'url> {
    /// To a host.
    Web(&'url str),
    /// To a bucket by its name (`s3://`).
    Bucket(&'url str),
}

impl<'url> Origin<'url> {
    fn of(scheme: &str, host: &'url str) -> Option<Self> {
        match scheme.to_ascii_lowercase().as_str() {
            "http" => Some(Self::Web(host.strip_suffix(":80").unwrap_or(host))),
            "https" => Some(Self::Web(host.strip_suffix(":443").unwrap_or(host))),
            "s3" => Some(Self::Bucket(host)),
            _ => None,
        }
    }
}

/// A URL's scheme, its host in lower case, what stands behind the scheme, and the path.
fn split(name: &str) -> Result<(&str, String, &str, &str), NameError> {
    let not_url = || NameError::NotUrl(shown(name));
    let (scheme, rest) = name.split_once("://").ok_or_else(not_url)?;
    let (host, path) = split_host(rest);
    if host.is_empty() || host.contains([' ', '\\']) {
        return Err(not_url());
    }
    if host.contains('@') {
        return Err(NameError::HasUser(shown(name)));
    }
    Ok((scheme, host.to_ascii_lowercase(), rest, path))
}

/// The host, and the path without the slash before it.
fn split_host(rest: &str) -> (&str, &str) {
    let ends_host = |c: char| c == '/' || TAIL.contains(&c);
    let (host, path) = rest.split_at(rest.find(ends_host).unwrap_or(rest.len()));
    (host, path.strip_prefix('/').unwrap_or(path))
}

/// A URL without its scheme.
pub(super) fn behind_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest)
}

/// A URL up to what ends its path, and the rest, without what signs it and nothing else: that takes
/// long to be read.
pub(super) fn parts(url: &str) -> (&str, Cow<'_, str>) {
    let (path, tail) = url.split_at(url.find(TAIL).unwrap_or(url.len()));
    if signature(tail).is_none() {
        return (path, tail.into());
    }
    let pairs: Vec<&str> = tail.split('&').filter(|pair| !only_signs(pair)).collect();
    (path, pairs.join("&").into())
}

/// Whether this is a parameter of a presigned URL as S3 writes it
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>).
fn only_signs(pair: &str) -> bool {
    let Some((name, value)) = pair.trim_start_matches('?').split_once('=') else {
        return false;
    };
    let is = |holds: fn(u8) -> bool| value.bytes().all(holds);
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"%+/=-_".contains(&byte);
    match name.to_ascii_lowercase().as_str() {
        "x-amz-algorithm" => value == "AWS4-HMAC-SHA256",
        "x-amz-credential" => value.ends_with("aws4_request") && is(is_token),
        "x-amz-date" | "x-amz-expires" => is(|byte| byte.is_ascii_digit() || b"TZ".contains(&byte)),
        "x-amz-signedheaders" => value == "host",
        "x-amz-signature" => is(|byte| byte.is_ascii_hexdigit()),
        "x-amz-security-token" => value.len() > 100 && is(is_token),
        _ => false,
    }
}

/// Whether this is a list of URLs rather than one: another one stands behind what separates them,
/// or a comma behind what a `srcset` says of one (`2x`, `640w`).
fn holds_several(name: &str) -> bool {
    let mut urls = urls_in(name).into_iter();
    let is_described = |part: &str| {
        let size = part.trim_end().rsplit_once(char::is_whitespace);
        let number = size.and_then(|(_, size)| size.strip_suffix(['w', 'x', 'h']));
        number.is_some_and(|number| number.parse::<f64>().is_ok())
    };
    let mut before_commas = name.rsplit(',').skip(1);
    urls.any(|at| name[..at].trim_start().ends_with(separates)) || before_commas.any(is_described)
}

/// Whether this is a host of S3 itself, of whatever region: `s3`, `s3-REGION`, dual
/// stack, accelerated or a static web site's.
fn is_s3_host(host: &str) -> bool {
    let Some(service) = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"))
    else {
        return false;
    };
    let first = service.split('.').next().unwrap_or_default();
    first == "s3" || first.starts_with("s3-")
}

/// The ways in which a path may be meant: as it is written, with `/` for one that is encoded, as
/// a client asks for it, and as servers read it that take several slashes for one.
fn ways_of_writing(path: &str) -> Vec<Cow<'_, str>> {
    let mut ways = vec![Cow::Borrowed(path)];
    if path.contains("%2F") || path.contains("%2f") {
        let slashed = path.replace("%2F", "/").replace("%2f", "/");
        ways.push(slashed.into());
    }
    let resolved: Vec<Cow<'_, str>> = ways.iter().filter_map(|way| resolved(way)).collect();
    ways.extend(resolved);
    let merged: Vec<Cow<'_, str>> = ways.iter().filter_map(|way| merged(way)).collect();
    ways.extend(merged);
    ways
}

/// The path that a client asks for, where it is not the one that is written: without dot
/// segments and the blanks at its end, with `/` for a backslash (<https://url.spec.whatwg.org/#url-parsing>).
fn resolved<'way>(raw: &str) -> Option<Cow<'way, str>> {
    let is_plain = !raw.contains(|c: char| c <= ' ' || c == '\\')
        && !raw.contains("/.")
        && !raw.starts_with('.')
        && !raw.contains("%2e")
        && !raw.contains("%2E");
    if is_plain {
        return None;
    }
    // What begins a tail is read as a part of the key here.
    let path = raw.replace('?', "%3F").replace('#', "%23");
    let url = Url::parse(&format!("http://host/{path}")).ok()?;
    let resolved = url.path().strip_prefix('/')?;
    // Only encoded in another way.
    let is_same = decoded(resolved).is_some_and(|key| decoded(raw) == Some(key));
    (!is_same).then(|| resolved.to_owned().into())
}

/// The path with one slash for several, and none at its beginning, where that is another.
fn merged<'way>(path: &str) -> Option<Cow<'way, str>> {
    if !path.starts_with('/') && !path.contains("//") {
        return None;
    }
    let parts = path.split('/').filter(|part| !part.is_empty());
    let mut merged = parts.collect::<Vec<_>>().join("/");
    if path.ends_with('/') {
        merged.push('/');
    }
    Some(merged.into())
}

/// What ends a URL's path.
const TAIL: [char; 2] = ['?', '#'];

/// What stands between the URLs of a list: all but what may stand before one that another
/// carries.
fn separates(c: char) -> bool {
    !c.is_alphanumeric() && !"/=(:[{@+~-_.!$*%?#&\\".contains(c)
}

/// What ends a URL in the text that holds it, and may belong to a key as well.
fn ends_in_text(c: char) -> bool {
    // (The last of them begin what image servers put behind a key: a style, a size, a format.)
    separates(c) || matches!(c, '<' | '>' | ')' | ']' | '}' | '&' | '!' | '@' | ':')
}

/// What stands behind so much names no key, however many dot segments and slashes are left out.
const MAX_PATH_BYTES: usize = 4 * MAX_KEY_BYTES;

/// No more readings of a name are tried.
const MAX_READINGS: usize = 4_096;

/// So many ends of a URL in a text are tried: the first is the one, but for keys that hold such.
const MAX_ENDS_IN_TEXT: usize = 32;

/// A key that begins with a mark, and has each of its other bytes encoded.
const MAX_TAIL_BYTES: usize = 1 + 3 * (MAX_KEY_BYTES - 1);

/// The parameters of a presigned URL that nobody else shall read.
const SECRETS: [&str; 3] = [
    "x-amz-signature=",
    "x-amz-credential=",
    "x-amz-security-token=",
];

fn is_signed(path: &str) -> bool {
    let holds = |path: &str| {
        let path = path.to_ascii_lowercase();
        SECRETS.iter().any(|secret| path.contains(secret))
    };
    holds(path) || path.contains('%') && holds(&decoded_lossily(path))
}

/// The key that a name means in the first place; none where it means the bucket itself.
fn first(name: &str, raw: &str) -> Result<Option<Reference>, NameError> {
    let key = decoded(raw).ok_or_else(|| NameError::NotUtf8(shown(name)))?;
    NameError::if_too_long(name, &key)?;
    Ok((!key.is_empty()).then(|| Reference::primary(key)))
}

fn decoded_lossily(raw: &str) -> Cow<'_, str> {
    percent_decode_str(raw).decode_utf8_lossy()
}

fn decoded(raw: &str) -> Option<String> {
    let decoded = percent_decode_str(raw).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// What a raw key may mean: the key that it encodes, once or twice and with a `+` for a space, and
/// what it says as it stands.
fn keys_of(raw: &str) -> Vec<Cow<'_, str>> {
    let mut keys = Vec::new();
    if raw.contains(['%', '+']) {
        let spaced = raw.contains('+').then(|| raw.replace('+', " "));
        let once: Vec<String> = iter::once(raw)
            .chain(spaced.as_deref())
            .filter_map(decoded)
            .collect();
        let twice: Vec<String> = once.iter().filter_map(|once| decoded(once)).collect();
        keys.extend(once.into_iter().chain(twice).map(Cow::from));
    }
    keys.push(raw.into());
    // What was encoded with the key by mistake.
    let bare: Vec<String> = keys
        .iter()
        .map(|key| (key, key.split(TAIL).next().unwrap_or_default()))
        .map(|(key, bare)| (key, bare.trim_matches(is_stray)))
        .filter(|(key, bare)| bare.len() < key.len())
        .map(|(_, bare)| bare.to_owned())
        .collect();
    keys.extend(bare.into_iter().map(Cow::from));
    keys
}

/// What may stand before or behind a key in a URL that was put together carelessly.
fn is_stray(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "\"'.\\\u{200b}\u{feff}".contains(c)
}

/// What a name means, as far as it has been read.
struct Meant<'name> {
    name: &'name str,
    references: Vec<Reference>,
    /// How many readings were tried.
    readings: usize,
}

impl<'name> Meant<'name> {
    fn new(name: &'name str) -> Self {
        Self {
            name,
            references: Vec::new(),
            readings: 0,
        }
    }

    /// Adds what a raw key may mean. An alternate longer than any key protects nothing, and is no
    /// error; a name that may mean more than can be tried is one.
    fn add(&mut self, raw: &str) -> Result<(), NameError> {
        self.readings += 1;
        if self.readings > MAX_READINGS {
            return Err(NameError::TooManyReadings(shown(self.name)));
        }
        for key in keys_of(raw) {
            let is_known = |reference: &Reference| reference.key.as_str() == key;
            let is_no_key = key.is_empty() || key.len() > MAX_KEY_BYTES;
            if is_no_key || self.references.iter().any(is_known) {
                continue;
            }
            self.references.push(Reference {
                key: ObjectKey::new(key.into_owned()),
                kind: ReferenceKind::Alternate,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

    use super::super::tests::{keys, refused, rules};
    use super::super::{NameRules, ReferenceForm};
    use super::*;

    #[test]
    fn a_path_is_read_as_a_client_resolves_it_too() {
        for (name, resolved) in [
            ("s3://pics/a.png ", "a.png"),
            ("s3://pics/a b.png\n", "a b.png"),
            ("s3://pics/a\tb.png", "ab.png"),
            ("s3://pics/x/../a.png", "a.png"),
            ("s3://pics/./x/.//a.png", "x//a.png"),
            ("s3://pics/x\\2026\\a.png", "x/2026/a.png"),
            ("s3://pics/x/%2E./a.png", "a.png"),
            ("s3://pics/x/..", ""),
        ] {
            let keys = keys(name);
            let written = name.strip_prefix("s3://pics/").unwrap();
            assert_eq!(keys[0], written.replace("%2E", "."));
            let is_read = keys.iter().any(|key| key == resolved);
            assert_eq!(is_read, !resolved.is_empty(), "{keys:?}");
        }
        assert_eq!(keys("s3://pics/a/.../b..png"), ["a/.../b..png"]);
    }

    #[test]
    fn every_host_that_stands_for_the_bucket_is_read_before_a_foreign_one() {
        let host = |text: &str| Host::new(text).unwrap();
        let rules = NameRules {
            hosts: vec![
                host("x.example"),
                host("x.example/pics"),
                host("y.example/bilder-grün"),
                host("y.example/neue%20bilder"),
                host("localhost:9000/pics"),
            ],
            foreign_hosts: vec![
                host("y.example"),
                host("s3.amazonaws.com"),
                host("paintings"),
            ],
            ..rules(ReferenceForm::Url)
        };
        let named = |name: &str, key: &str| {
            let keys = rules.widen(name).unwrap();
            keys.iter().any(|reference| reference.key.as_str() == key)
        };
        for (name, key) in [
            ("https://x.example/pics/a.png", "a.png"),
            ("https://x.example/pics/a.png", "pics/a.png"),
            ("https://x.example/pics/#1.png", "#1.png"),
            ("https://x.example//pics//2026//a.png", "2026/a.png"),
            ("https://y.example/bilder-grün/a.png", "a.png"),
            ("https://y.example/bilder-gr%C3%BCn/a%20b.png", "a b.png"),
            ("https://y.example/bilder-gr%c3%bcn%2Fa.png", "a.png"),
            ("https://y.example/bilder-gr%c3%bcn%2fa.png", "a.png"),
            ("https://y.example/neue%20bilder/a.png", "a.png"),
            ("https://x.example//pics//2026/", "2026/"),
            ("https://x.example/2026//a.png", "2026/a.png"),
            ("https://x.example/pics/../a.png", "a.png"),
            ("http://localhost:9000/pics/../a.png", "a.png"),
            ("https://s3.amazonaws.com/pics/x/../../a.png", "a.png"),
            (
                "s3://pics/x-amz-signature=1/a#1.png",
                "x-amz-signature=1/a#1.png",
            ),
            ("https://y.example//bilder-grün/a.png", "a.png"),
            ("https://y.example/x/../bilder-grün/a.png", "a.png"),
            ("https://s3.amazonaws.com/pics/a.png", "a.png"),
            ("https://s3.amazonaws.com//pics/a.png", "a.png"),
            ("https://s3.amazonaws.com/x/../pics/a.png", "a.png"),
        ] {
            assert!(named(name, key), "{key} by {name}");
        }
        // What cannot be read is not another's for that.
        let unreadable = rules.widen("https://y.example/z/../bilder-grün/%ff.png");
        assert!(
            matches!(unreadable, Err(NameError::NotUtf8(_))),
            "{unreadable:?}"
        );
        // What a person calls another's is.
        for name in [
            "https://y.example/bilder/a.png",
            "https://y.example/bilder-grün-2/a.png",
            "https://s3.amazonaws.com/others/a.png",
            "s3://paintings/a.png",
        ] {
            assert_eq!(rules.widen(name), Ok(Vec::new()), "{name}");
        }
        // The longest one is meant first.
        let first = &rules.widen("https://x.example/pics/a.png").unwrap()[0];
        assert_eq!(
            (first.key.as_str(), first.kind),
            ("a.png", ReferenceKind::Primary)
        );
    }

    #[test]
    fn an_encoded_slash_may_be_one() {
        for (name, key) in [
            ("s3://pics/x%2F..%2F2026/a.png", "2026/a.png"),
            ("s3://pics/2026%2f/a.png", "2026/a.png"),
            ("s3://pics/x/%2e%2e%2fd/e.png", "d/e.png"),
            ("http://localhost:9000/x%2f..%2Fpics/a.png", "a.png"),
            ("s3://pics/a%252Fb%2520c.png", "a/b c.png"),
        ] {
            assert!(keys(name).contains(&key.to_owned()), "{key} by {name}");
        }
    }

    #[test]
    fn a_list_of_urls_is_refused_and_what_stands_behind_one_ends_it() {
        for list in [
            "https://cdn.example.com/a.png 1x, https://cdn.example.com/b.png 2x",
            "https://cdn.example.com/a.png,S3://pics/b.png",
            "https://avatars.example.net/a.png\thttp://cdn.example.com/b.png",
            "s3://pics/a.png\";\"https://b.example/b.png",
            "https://cdn.example.com/a.png、https://cdn.example.com/b.png",
            "https://cdn.example.com/a.png\u{1f}https://cdn.example.com/b.png",
            "https://cdn.example.com/a.png 1x, /b.png 2x",
            "https://cdn.example.com/a.png 640w ,b.png",
        ] {
            let error = refused(ReferenceForm::Url, list);
            assert!(error.contains("holds several URLs"), "{error}");
        }
        for one in [
            "https://cdn.example.com/a.png 1x",
            "https://cdn.example.com/a.png,b.png",
            "https://cdn.example.com/a.png\" alt=\"A\">",
            "https://cdn.example.com/a.png)",
            "https://cdn.example.com/a.png!thumb",
            "https://cdn.example.com/a.png:large",
            "https://cdn.example.com/a.png@100w.jpg",
            "https://cdn.example.com/a.png&w=3",
            "https://cdn.example.com/a.png\\",
            "https://cdn.example.com/a.png.",
            "https://cdn.example.com/a.png%0A",
            "https://cdn.example.com/%20a.png%20",
            "https://cdn.example.com/a.png%E2%80%8B",
            "https://cdn.example.com/a.png%22",
            "https://cdn.example.com/a.png%3Fv=2",
            "https://cdn.example.com/a.png%2523x",
        ] {
            assert!(keys(one).contains(&"a.png".to_owned()), "{one}");
        }
    }

    #[test]
    fn a_key_may_begin_with_what_begins_a_tail() {
        for (name, key) in [
            ("s3://pics/#1 winner.png", "#1 winner.png"),
            ("s3://pics/?.png", "?.png"),
            ("s3://pics?.png", "?.png"),
            ("https://cdn.example.com/#selfie.png", "#selfie.png"),
            ("https://pics.s3.amazonaws.com/#1.png?v=2", "#1.png"),
            ("https://cdn.example.com/x/../d#1.png", "d#1.png"),
            ("https://cdn.example.com/x/./e?#1.png?v=1", "x/e?#1.png"),
            ("s3://pics/guide #x-amz-acl.png", "guide #x-amz-acl.png"),
            ("s3://pics/why? X-Amz-Date.png", "why? X-Amz-Date.png"),
        ] {
            assert!(keys(name).contains(&key.to_owned()), "{key} by {name}");
        }
        // It names something, but what comes first in it names the bucket.
        let references = rules(ReferenceForm::Url).widen("s3://pics/#1.png").unwrap();
        assert!(
            references
                .iter()
                .all(|one| one.kind == ReferenceKind::Alternate)
        );
        for nothing in ["s3://pics", "s3://pics/", "https://cdn.example.com"] {
            assert!(keys(nothing).is_empty(), "{nothing}");
        }
        // However many of them.
        let marks = "?#".repeat(500);
        assert!(keys(&format!("s3://pics/{marks}.png?v=2")).contains(&format!("{marks}.png")));
    }

    #[test]
    fn what_begins_a_tail_may_belong_to_the_key() {
        for (name, expected) in [
            (
                "s3://pics/logo of C#.png",
                &["logo of C", "logo", "logo of", "logo of C#.png"][..],
            ),
            ("s3://pics/what?.png", &["what", "what?.png"]),
            ("s3://pics/C#.png?v=1", &["C", "C#.png", "C#.png?v=1"]),
            (
                "s3://pics/a?b%20+#c",
                &[
                    "a",
                    "a?b +",
                    "a?b  ",
                    "a?b%20+",
                    "a?b +#c",
                    "a?b  #c",
                    "a?b%20+#c",
                ],
            ),
            ("s3://pics/a.png?", &["a.png", "a.png?"]),
            ("s3://pics/a#b?x-amz-signature=secret#c", &["a", "a#b"]),
            ("s3://pics?a.png", &["?a.png"]),
            // A tail that decodes to nothing protects as it is written.
            ("s3://pics/a?%ff", &["a", "a?%ff"]),
        ] {
            assert_eq!(keys(name), expected, "{name}");
        }
        // However many there are, the whole is among them; and none is longer than a key.
        let many = format!("a{}", "?#".repeat(100));
        assert!(keys(&format!("s3://pics/{many}")).contains(&many));
        let read = keys(&format!("s3://pics/a{}", "?".repeat(100_000)));
        assert_eq!(read.len(), MAX_KEY_BYTES);
        let read = keys(&format!("s3://pics/a{}", "?xx".repeat(50_000)));
        assert_eq!(read.len(), 1 + MAX_KEY_BYTES / 3);
        // Nor does it take for ever, whatever stands there.
        for mark in [",", "/..", "%3A", "&u=b.png", "/cdn.example.co/"] {
            let long = mark.repeat(300_000);
            assert!(keys(&format!("https://avatars.example.net/{long}")).is_empty());
        }
        for mark in ["&u=http://a", "/cdn.example.com"] {
            let error = refused(
                ReferenceForm::Url,
                &format!("https://avatars.example.net/{}", mark.repeat(300_000)),
            );
            assert!(error.contains("holds several URLs"), "{error}");
        }
        let endless = format!("s3://pics/%2F+.//./%252f+%2525{}", "?".repeat(1_000));
        let error = refused(ReferenceForm::Url, &endless);
        assert!(error.contains("more keys than can be tried"), "{error}");
        // The longest key, and the longest way to write it, behind whatever path.
        let key = format!("?{}", "ü".repeat(511)) + "x";
        let longest = utf8_percent_encode(&key[1..], NON_ALPHANUMERIC).to_string();
        let longest = longest.replace('x', "%78");
        assert_eq!(longest.len() + 1, MAX_TAIL_BYTES);
        let read = keys(&format!("s3://pics/{}?{longest}", "x/../".repeat(100)));
        assert!(read.contains(&key));
    }

    #[test]
    fn every_address_of_the_bucket_names_the_same_key() {
        for url in [
            "https://pics.s3.amazonaws.com/a/b.png",
            "https://pics.s3.ap-northeast-2.amazonaws.com/a/b.png",
            "https://pics.s3-us-west-2.amazonaws.com/a/b.png",
            "http://pics.s3.dualstack.eu-west-1.amazonaws.com/a/b.png",
            "https://pics.s3-accelerate.amazonaws.com/a/b.png",
            "http://pics.s3-website-us-east-1.amazonaws.com/a/b.png",
            "https://pics.s3.cn-north-1.amazonaws.com.cn/a/b.png",
            "https://s3.amazonaws.com/pics/a/b.png",
            "https://S3.eu-west-1.amazonaws.com:443/pics/a/b.png",
            "s3://pics/a/b.png",
            "https://cdn.example.com/a/b.png?X-Amz-Signature=secret&width=20",
            "http://cdn.example.com:80/a/b.png",
            "HTTP://localhost:9000/pics/a/b.png",
        ] {
            assert_eq!(keys(url), ["a/b.png"], "{url}");
        }
    }

    #[test]
    fn an_undeclared_host_is_an_error_that_names_it() {
        for (url, host) in [
            ("https://img.example.org/a.png", "img.example.org"),
            (
                "https://pics2.s3.amazonaws.com/a.png",
                "pics2.s3.amazonaws.com",
            ),
            (
                "https://s3.amazonaws.com/other/a.png",
                "s3.amazonaws.com/other",
            ),
            (
                "https://pics.s3.amazonaws.com.evil.example/a.png",
                "pics.s3.amazonaws.com.evil.example",
            ),
            ("https://cdn.example.com:8443/a.png", "cdn.example.com:8443"),
            ("https://localhost:9000/pics2/a.png", "localhost:9000"),
            ("s3://other/a.png", "other"),
        ] {
            let error = refused(ReferenceForm::Url, url);
            assert!(error.starts_with(&format!("the host {host} of")), "{error}");
        }
    }

    #[test]
    fn of_a_signature_only_what_is_one_is_left_out() {
        let signed = "h/a.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20260101T000000Z&x-amz-expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=0a1B";
        assert_eq!(parts(signed), ("h/a.png", "".into()));
        let token = format!("h/a.png?w=3&X-Amz-Security-Token={}", "x%2F".repeat(30));
        assert_eq!(parts(&token), ("h/a.png", "?w=3".into()));
        for tail in [
            "?v=2",
            "#b.png",
            "?X-Amz-Signature=0;src=b.png",
            "?X-Amz-Signature=0#/b.png",
            "?x-amz-meta-key=b.png",
            "?X-Amz-Security-Token=b.png",
            "?X-Amz-Credential=b.png",
            "?X-Amz-Date=b.png",
            "?X-Amz-SignedHeaders=b.png",
            "?X-Amz-Algorithm",
        ] {
            assert_eq!(parts(&format!("h/a.png{tail}")), ("h/a.png", tail.into()));
        }
    }

    #[test]
    fn a_foreign_host_names_nothing() {
        assert!(keys("https://avatars.example.net/u/1.png").is_empty());
    }

    #[test]
    fn other_readings_protect_but_are_not_counted() {
        let references = rules(ReferenceForm::Url)
            .widen("https://cdn.example.com/a+b%20%EA%B3%A0.png")
            .unwrap();
        let shown: Vec<_> = references
            .iter()
            .map(|reference| (reference.key.as_str(), reference.kind))
            .collect();
        assert_eq!(
            shown,
            [
                ("a+b 고.png", ReferenceKind::Primary),
                ("a b 고.png", ReferenceKind::Alternate),
                ("a+b%20%EA%B3%A0.png", ReferenceKind::Alternate),
            ]
        );
    }
}
