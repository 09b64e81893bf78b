//! Reads the body of a `ListObjectsV2` answer.
//!
//! The SDK's deserialiser spends many times the CPU that the page needs, neither asks for
//! nor decodes `encoding-type=url`, and lets pages pass that contradict themselves. This
//! scanner reads the one document that S3 sends, and refuses everything else: what it
//! does not know in the wrong place, a second value, a missing end, a count that does not
//! match.

use std::borrow::Cow;

use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use thiserror::Error;

use crate::listing::Page;
use crate::object::ListedObject;

/// What is wrong with a page.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{what} (at byte {at})")]
pub struct PageFault {
    what: String,
    at: usize,
}

/// Reads a page.
///
/// # Errors
/// Anything that is not one complete, consistent page.
pub fn parse(body: &[u8]) -> Result<Page, PageFault> {
    let text = std::str::from_utf8(body).map_err(|error| PageFault {
        what: "the page is not UTF-8".to_owned(),
        at: error.valid_up_to(),
    })?;
    let mut scanner = Scanner { text, at: 0 };
    scanner.prolog()?;
    scanner.root()?;
    let result = scanner.list_bucket_result()?;
    scanner.space();
    if scanner.at != text.len() {
        return Err(scanner.fault("something follows the page's end"));
    }
    result.into_page().map_err(|what| PageFault {
        what,
        at: text.len(),
    })
}

/// A value of a page, its references resolved.
type Value<'xml> = Cow<'xml, str>;

/// The values of a page.
#[derive(Default)]
struct Fields<'xml> {
    contents: Vec<Contents<'xml>>,
    is_truncated: Option<Value<'xml>>,
    next: Option<Value<'xml>>,
    key_count: Option<Value<'xml>>,
    encoding: Option<Value<'xml>>,
}

#[derive(Default)]
struct Contents<'xml> {
    key: Option<Value<'xml>>,
    etag: Option<Value<'xml>>,
    size: Option<Value<'xml>>,
    last_modified: Option<Value<'xml>>,
}

impl Fields<'_> {
    fn into_page(self) -> Result<Page, String> {
        let url = match self.encoding.as_deref().map(str::trim) {
            None | Some("") => false,
            Some("url") => true,
            Some(other) => {
                return Err(format!(
                    "keys are encoded as {other:?}, which was not asked for"
                ));
            }
        };
        let next = match (self.is_truncated.as_deref(), self.next) {
            (Some("true"), Some(token)) if !token.is_empty() => Some(token.into_owned()),
            (Some("true"), _) => {
                return Err("the page is truncated but has no token for the next".to_owned());
            }
            (Some("false"), None) => None,
            (Some("false"), Some(_)) => {
                return Err("the page is the last but has a token for the next".to_owned());
            }
            (Some(other), _) => return Err(format!("IsTruncated is {other:?}")),
            (None, _) => {
                return Err("the page does not say whether it is the last (IsTruncated)".to_owned());
            }
        };
        if let Some(count) = &self.key_count
            && count.parse() != Ok(self.contents.len())
        {
            return Err(format!(
                "the page counts {count} keys but holds {}",
                self.contents.len()
            ));
        }
        let mut page = Page::default();
        page.next = next;
        for contents in &self.contents {
            let raw = contents.key.as_deref().ok_or("an object has no key")?;
            let key = if url {
                decode(raw)?
            } else {
                Cow::Borrowed(raw)
            };
            if key.is_empty() {
                return Err("an object has an empty key".to_owned());
            }
            let about = |what: &str| format!("the object {} has {what}", crate::key::escape(&key));
            let etag = contents.etag.as_deref().unwrap_or_default();
            // (A `*` is the condition that everything fulfils.)
            if etag.is_empty() || etag == "*" {
                return Err(about(
                    "no ETag, without which nothing can be deleted safely",
                ));
            }
            let size = contents
                .size
                .as_deref()
                .and_then(|size| size.parse().ok())
                .ok_or_else(|| about("no size"))?;
            // What cannot be read is an unknown age, and that is new.
            let last_modified = contents
                .last_modified
                .as_deref()
                .and_then(|at| at.parse::<Timestamp>().ok());
            page.push(ListedObject {
                key: &key,
                etag,
                size,
                last_modified,
            });
        }
        Ok(page)
    }
}

/// Undoes `encoding-type=url`: percent-encoding with `+` for a space
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>; seen: S3
/// sends a plus sign as `%2B`).
fn decode(raw: &str) -> Result<Cow<'_, str>, String> {
    if memchr::memchr2(b'%', b'+', raw.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(raw));
    }
    let spaced = raw.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(key) => Ok(Cow::Owned(key.into_owned())),
        Err(_) => Err(format!("the key {raw:?} does not decode to UTF-8")),
    }
}

/// Resolves the five entities of XML and character references, and folds line ends as XML
/// 1.0 says (2.11).
fn unescape(text: &str) -> Result<Cow<'_, str>, String> {
    let marked = |text: &str| memchr::memchr2(b'&', b'\r', text.as_bytes());
    if marked(text).is_none() {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = marked(rest) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix('\r') {
            out.push('\n');
            rest = after.strip_prefix('\n').unwrap_or(after);
            continue;
        }
        let end =
            memchr::memchr(b';', rest.as_bytes()).ok_or("a character reference has no end")?;
        let entity = &rest[1..end];
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => character(entity).ok_or_else(|| format!("&{entity}; is no character"))?,
        });
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

fn character(entity: &str) -> Option<char> {
    let number = entity.strip_prefix('#')?;
    let (digits, radix) = match number.strip_prefix('x') {
        Some(hexadecimal) => (hexadecimal, 16),
        None => (number, 10),
    };
    // `from_str_radix` takes a sign, XML does not.
    if !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, radix)
        .ok()
        .and_then(char::from_u32)
}

/// White space as XML has it.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Whether an element's name, of those that S3 uses, may hold this byte.
fn is_name_byte(byte: u8) -> bool {
    NAME_BYTES[usize::from(byte)]
}

const NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-' | b'.');
        byte += 1;
    }
    table
};

struct Scanner<'xml> {
    text: &'xml str,
    at: usize,
}

/// A tag that was read.
#[derive(PartialEq, Eq)]
enum Tag<'xml> {
    Open(&'xml str),
    Empty(&'xml str),
    Close(&'xml str),
}

impl<'xml> Scanner<'xml> {
    fn fault(&self, what: impl Into<String>) -> PageFault {
        PageFault {
            what: what.into(),
            at: self.at,
        }
    }

    fn rest(&self) -> &'xml str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        let bytes = &self.text.as_bytes()[self.at..];
        let length = bytes.iter().position(|&b| !is_space(b));
        self.at += length.unwrap_or(bytes.len());
    }

    /// Reads up to `end` and past it.
    fn until(&mut self, end: u8) -> Result<&'xml str, PageFault> {
        let rest = self.rest();
        let length = memchr::memchr(end, rest.as_bytes())
            .ok_or_else(|| self.fault("the page ends in the middle"))?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    /// Reads text up to the next tag. A reference that no parser would take is refused even
    /// where nobody wants the text.
    fn text(&mut self) -> Result<Value<'xml>, PageFault> {
        let rest = self.rest();
        let plain = memchr::memchr3(b'<', b'&', b'\r', rest.as_bytes());
        if let Some(length) = plain.filter(|&at| rest.as_bytes()[at] == b'<') {
            self.at += length;
            return Ok(Cow::Borrowed(&rest[..length]));
        }
        let text = self.until(b'<')?;
        self.at -= 1;
        unescape(text).map_err(|what| self.fault(what))
    }

    /// A byte order mark and an XML declaration, if there are.
    fn prolog(&mut self) -> Result<(), PageFault> {
        if self.rest().starts_with('\u{feff}') {
            self.at += '\u{feff}'.len_utf8();
        }
        if self.rest().starts_with("<?xml ") && !self.until(b'>')?.ends_with('?') {
            return Err(self.fault("the XML declaration has no end"));
        }
        self.space();
        Ok(())
    }

    fn root(&mut self) -> Result<(), PageFault> {
        match self.tag()? {
            Tag::Open("ListBucketResult") => Ok(()),
            Tag::Open(name) | Tag::Empty(name) | Tag::Close(name) => {
                let name = name.to_owned();
                Err(self.fault(format!("the page is a {name:?}, not a ListBucketResult")))
            }
        }
    }

    /// The next tag, which must come after nothing but white space.
    fn tag(&mut self) -> Result<Tag<'xml>, PageFault> {
        self.space();
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'<') {
            return Err(self.fault(if self.rest().is_empty() {
                "the page ends in the middle"
            } else {
                "text between elements"
            }));
        }
        self.at += 1;
        // Nearly every tag of a page is a bare name: read it byte by byte, with no search.
        let closes = bytes.get(self.at) == Some(&b'/');
        let start = self.at + usize::from(closes);
        let name = bytes[start..].iter().position(|&byte| !is_name_byte(byte));
        let end = start + name.unwrap_or(0);
        if end > start && bytes[end] == b'>' {
            self.at = end + 1;
            let name = &self.text[start..end];
            return Ok(if closes {
                Tag::Close(name)
            } else {
                Tag::Open(name)
            });
        }
        let inside = self.until(b'>')?;
        if let Some(name) = inside.strip_prefix('/') {
            return Ok(Tag::Close(
                self.name(name.trim_end_matches([' ', '\t', '\r', '\n']))?,
            ));
        }
        let (inside, empty) = match inside.strip_suffix('/') {
            Some(inside) => (inside, true),
            None => (inside, false),
        };
        let (name, attributes) = inside
            .split_once([' ', '\t', '\r', '\n'])
            .unwrap_or((inside, ""));
        // S3's only attributes are name spaces; a `>` or `<` within one would fool this
        // scanner, so quotes must pair up.
        if attributes.contains('<')
            || attributes.matches('"').count() % 2 == 1
            || attributes.matches('\'').count() % 2 == 1
        {
            return Err(self.fault("an attribute cannot be read"));
        }
        let name = self.name(name)?;
        Ok(if empty {
            Tag::Empty(name)
        } else {
            Tag::Open(name)
        })
    }

    /// No comment, no processing instruction, no CDATA: S3 sends none.
    fn name(&self, name: &'xml str) -> Result<&'xml str, PageFault> {
        if !name.is_empty() && name.bytes().all(is_name_byte) {
            Ok(name)
        } else {
            Err(self.fault(format!(
                "{:?} is no element of a page",
                name.chars().take(40).collect::<String>()
            )))
        }
    }

    /// The text of an element that was just opened, up to its own end.
    fn value(&mut self, name: &str) -> Result<Value<'xml>, PageFault> {
        let value = self.text()?;
        if self.tag()? == Tag::Close(name) {
            Ok(value)
        } else {
            Err(self.fault(format!("{name} does not end where it should")))
        }
    }

    /// Passes an element that was just opened, with all that it holds.
    fn skip(&mut self, name: &'xml str) -> Result<(), PageFault> {
        self.text()?;
        let mut tag = self.tag()?;
        // Most hold nothing but text.
        if tag == Tag::Close(name) {
            return Ok(());
        }
        let mut open = vec![name];
        while let Some(&innermost) = open.last() {
            match tag {
                Tag::Open(name) => open.push(name),
                Tag::Empty(_) => {}
                Tag::Close(name) if name == innermost => {
                    open.pop();
                    if open.is_empty() {
                        break;
                    }
                }
                Tag::Close(name) => {
                    let name = name.to_owned();
                    return Err(self.fault(format!("{innermost} ends as {name}")));
                }
            }
            self.text()?;
            tag = self.tag()?;
        }
        Ok(())
    }

    fn once(&mut self, slot: &mut Option<Value<'xml>>, name: &str) -> Result<(), PageFault> {
        let value = self.value(name)?;
        self.put(slot, name, value)
    }

    fn put(
        &self,
        slot: &mut Option<Value<'xml>>,
        name: &str,
        value: Value<'xml>,
    ) -> Result<(), PageFault> {
        if slot.replace(value).is_some() {
            Err(self.fault(format!("{name} stands twice")))
        } else {
            Ok(())
        }
    }

    fn list_bucket_result(&mut self) -> Result<Fields<'xml>, PageFault> {
        let mut fields = Fields::default();
        loop {
            match self.tag()? {
                Tag::Close("ListBucketResult") => return Ok(fields),
                Tag::Open("Contents") => {
                    let contents = self.contents()?;
                    fields.contents.push(contents);
                }
                Tag::Open("IsTruncated") => self.once(&mut fields.is_truncated, "IsTruncated")?,
                Tag::Open("NextContinuationToken") => {
                    self.once(&mut fields.next, "NextContinuationToken")?;
                }
                Tag::Open("KeyCount") => self.once(&mut fields.key_count, "KeyCount")?,
                Tag::Open("EncodingType") => self.once(&mut fields.encoding, "EncodingType")?,
                Tag::Open("CommonPrefixes") | Tag::Empty("CommonPrefixes") => {
                    return Err(
                        self.fault("the page groups keys by a delimiter, which was not asked for")
                    );
                }
                Tag::Empty("Contents") => return Err(self.fault("an object has no key")),
                Tag::Open(name) => self.skip(name)?,
                Tag::Empty(_) => {}
                Tag::Close(name) => {
                    let name = name.to_owned();
                    return Err(self.fault(format!("ListBucketResult ends as {name}")));
                }
            }
        }
    }

    fn contents(&mut self) -> Result<Contents<'xml>, PageFault> {
        let mut contents = Contents::default();
        loop {
            match self.tag()? {
                Tag::Close("Contents") => return Ok(contents),
                Tag::Open("Key") => self.once(&mut contents.key, "Key")?,
                Tag::Open("ETag") => self.once(&mut contents.etag, "ETag")?,
                Tag::Open("Size") => self.once(&mut contents.size, "Size")?,
                Tag::Open("LastModified") => {
                    self.once(&mut contents.last_modified, "LastModified")?;
                }
                Tag::Open(name) => self.skip(name)?,
                Tag::Empty(_) => {}
                Tag::Close(name) => {
                    let name = name.to_owned();
                    return Err(self.fault(format!("Contents ends as {name}")));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name><Prefix/>";
    const LAST: &str = "<IsTruncated>false</IsTruncated></ListBucketResult>";

    fn object(key: &str) -> String {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;e&quot;</ETag><Size>7</Size><Owner><ID>x</ID></Owner><StorageClass>STANDARD</StorageClass></Contents>"
        )
    }

    fn fault(body: &str) -> String {
        parse(body.as_bytes())
            .map(|page| page.len())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_page_is_read() {
        let body = format!(
            "{HEAD}<KeyCount>1</KeyCount><EncodingType>url</EncodingType>{}{LAST}",
            object("a%2Bb+%EA%B3%A0%0A")
        );
        let page = parse(body.as_bytes()).unwrap();
        let objects: Vec<_> = page.objects().collect();
        let last_modified = Some("2026-01-02T03:04:05.678Z".parse().unwrap());
        assert_eq!(
            objects,
            [ListedObject {
                key: "a+b 고\n",
                etag: "\"e\"",
                size: 7,
                last_modified
            }]
        );
        assert_eq!(page.next, None);
    }

    #[test]
    fn keys_are_decoded_only_when_the_page_says_so() {
        let body = format!("{HEAD}{}{LAST}", object("a%2B+&amp;&#xA;&#13;&lt;"));
        assert_eq!(
            parse(body.as_bytes())
                .unwrap()
                .objects()
                .next()
                .unwrap()
                .key,
            "a%2B+&\n\r<"
        );
    }

    #[test]
    fn an_unreadable_age_is_unknown() {
        let body = format!(
            "{HEAD}{}{LAST}",
            object("a").replace("2026-01-02T", "yesterday")
        );
        assert_eq!(
            parse(body.as_bytes())
                .unwrap()
                .objects()
                .next()
                .unwrap()
                .last_modified,
            None
        );
    }

    #[test]
    fn a_token_goes_with_truncation_and_only_with_it() {
        let page = format!(
            "{HEAD}<IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b</NextContinuationToken></ListBucketResult>"
        );
        assert_eq!(parse(page.as_bytes()).unwrap().next.as_deref(), Some("a&b"));
        assert!(
            fault(&format!(
                "{HEAD}<IsTruncated>true</IsTruncated></ListBucketResult>"
            ))
            .contains("no token")
        );
        assert!(fault(&format!("{HEAD}<IsTruncated>true</IsTruncated><NextContinuationToken></NextContinuationToken></ListBucketResult>")).contains("no token"));
        assert!(fault(&format!("{HEAD}<IsTruncated>false</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>")).contains("is the last but"));
        assert!(fault(&format!("{HEAD}</ListBucketResult>")).contains("IsTruncated"));
        assert!(
            fault(&format!(
                "{HEAD}<IsTruncated>False</IsTruncated></ListBucketResult>"
            ))
            .contains("\"False\"")
        );
    }

    #[test]
    fn what_is_not_a_page_is_refused() {
        for (body, word) in [
            (String::new(), "ends in the middle"),
            (
                "<Error><Code>SlowDown</Code></Error>".to_owned(),
                "not a ListBucketResult",
            ),
            (format!("{HEAD}{LAST}x"), "follows the page's end"),
            (format!("{HEAD}{LAST}{LAST}"), "follows the page's end"),
            (
                format!("{HEAD}<KeyCount>2</KeyCount>{}{LAST}", object("a")),
                "counts 2 keys but holds 1",
            ),
            (
                format!("{HEAD}<EncodingType>base64</EncodingType>{LAST}"),
                "base64",
            ),
            (
                format!(
                    "{HEAD}<EncodingType>url</EncodingType>{}{LAST}",
                    object("%ff")
                ),
                "does not decode",
            ),
            (
                format!("{HEAD}<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>{LAST}"),
                "delimiter",
            ),
            (
                format!("{HEAD}<IsTruncated>false</IsTruncated>{LAST}"),
                "IsTruncated stands twice",
            ),
            (
                format!("{HEAD}{}{LAST}", object("a").replace("<Size>7</Size>", "")),
                "no size",
            ),
            (
                format!("{HEAD}{}{LAST}", object("a").replace("<Size>7", "<Size>-7")),
                "no size",
            ),
            (
                format!("{HEAD}{}{LAST}", object("a").replace("&quot;e&quot;", "")),
                "no ETag",
            ),
            (
                format!("{HEAD}{}{LAST}", object("a").replace("&quot;e&quot;", "*")),
                "no ETag",
            ),
            (format!("{HEAD}{}{LAST}", object("")), "empty key"),
            (
                format!("{HEAD}{}{LAST}", object("a").replace("<Key>a</Key>", "")),
                "no key",
            ),
            (
                format!("{HEAD}{}{LAST}", object("a</Key><Key>b")),
                "Key stands twice",
            ),
            (format!("{HEAD}{}{LAST}", object("&bogus;")), "&bogus;"),
            (
                format!("{HEAD}{}{LAST}", object("a").replace("STANDARD", "a&b")),
                "no end",
            ),
            (
                format!("{HEAD}{}{LAST}", object("&#x110000;")),
                "no character",
            ),
            (format!("{HEAD}<!-- x -->{LAST}"), "no element"),
            (
                format!("{HEAD}{}{LAST}", object("<![CDATA[a]]>")),
                "no element",
            ),
            (format!("{HEAD}<Name><b></Name></b>{LAST}"), "ends as"),
            (format!("{HEAD}text{LAST}"), "text between"),
        ] {
            let fault = fault(&body);
            assert!(fault.contains(word), "{body}\n{fault}");
        }
        assert!(
            parse(b"<ListBucketResult>\xff")
                .unwrap_err()
                .to_string()
                .contains("not UTF-8")
        );
    }

    /// What can turn a page into another one.
    const MARKUP: [char; 16] = [
        '&', '<', '>', '"', '\'', '/', ';', '=', '?', '!', '-', '[', ']', '#', ' ', ':',
    ];

    proptest! {
        /// However a page is cut, it is not a page.
        #[test]
        fn every_beginning_of_a_page_is_refused(cut in 0_usize..10_000) {
            let body = format!("{HEAD}{}{}{LAST}", object("a"), object("b"));
            let cut = cut % body.len();
            prop_assert!(parse(&body.as_bytes()[..cut]).is_err(), "{}", &body[..cut]);
        }

        /// Whatever this scanner takes, a full XML parser reads the same way.
        #[test]
        fn a_real_parser_reads_the_same_keys(keys in proptest::collection::vec("([a-z<>&\"' %+é고🦀]|\r|\n|\t){1,8}", 0..5), damage in proptest::option::of((any::<prop::sample::Index>(), prop_oneof![any::<char>(), proptest::sample::select(&MARKUP[..])]))) {
            let escaped = |key: &str| key.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\r', "&#13;");
            let mut body = format!("{HEAD}{}{LAST}", keys.iter().map(|key| object(&escaped(key))).collect::<String>());
            let mut damaged = false;
            if let Some((at, c)) = damage {
                let at = at.index(body.len());
                if body.is_char_boundary(at) {
                    body.insert(at, c);
                    damaged = true;
                }
            }
            let parsed = parse(body.as_bytes());
            if !damaged {
                prop_assert!(parsed.is_ok(), "{parsed:?}");
            }
            if let Ok(page) = parsed {
                let ours: Vec<String> = page.objects().map(|object| object.key.to_owned()).collect();
                prop_assert_eq!(Some(ours), keys_of_a_real_parser(&body), "{}", body);
            }
        }
    }

    /// The keys of the page as quick-xml reads them, or `None` where it refuses.
    fn keys_of_a_real_parser(body: &str) -> Option<Vec<String>> {
        use quick_xml::events::Event;
        let mut reader = quick_xml::Reader::from_str(body.trim_start_matches('\u{feff}'));
        let (mut keys, mut path, mut key) = (Vec::new(), Vec::<String>::new(), String::new());
        loop {
            let in_key =
                path.iter()
                    .map(String::as_str)
                    .eq(["ListBucketResult", "Contents", "Key"]);
            match reader.read_event().ok()? {
                Event::Start(tag) => {
                    path.push(String::from_utf8(tag.name().as_ref().to_vec()).ok()?);
                    key.clear();
                }
                Event::End(_) => {
                    if in_key {
                        keys.push(std::mem::take(&mut key));
                    }
                    path.pop();
                }
                Event::Text(text) if in_key => key.push_str(&text.xml10_content().ok()?),
                Event::GeneralRef(reference) if in_key => {
                    let text = reference.decode().ok()?;
                    key.push_str(&quick_xml::escape::unescape(&format!("&{text};")).ok()?);
                }
                Event::Eof => return path.is_empty().then_some(keys),
                _ => {}
            }
        }
    }
}
