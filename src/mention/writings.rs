//! What a text may say, in the ways in which image servers and careless code escape and encode.

use std::borrow::Cow;
use std::collections::VecDeque;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;

use super::TooLong;

/// So often what was decoded is decoded again.
const DEPTH: usize = 4;

/// No more texts are read of one.
const MAX_WRITINGS: usize = 256;

/// Shorter ones hide no key.
const SHORTEST: usize = 6;

/// Longer ones are not read, so that a long name takes no longer than many short ones.
const LONGEST: usize = 16_384;

/// The text, and all that it decodes to, however often it was encoded. Fails where that is more
/// than can be read.
pub(super) fn writings(text: &str) -> Result<Vec<Cow<'_, str>>, TooLong> {
    let mut said: Vec<Cow<'_, str>> = vec![text.into()];
    let mut open: VecDeque<(usize, usize)> = [(0, 0)].into();
    while let Some((place, depth)) = open.pop_front() {
        if depth == DEPTH {
            continue;
        }
        let (decoded, rearranged) = (decoded(&said[place])?, rearranged(&said[place]));
        let decoded = decoded.into_iter().map(|text| (text, depth + 1));
        // (What that decodes to stands in what the text itself does.)
        let rearranged = rearranged.into_iter().map(|text| (text, DEPTH));
        for (text, depth) in decoded.chain(rearranged) {
            if said.iter().any(|known| *known == text) {
                continue;
            }
            if said.len() == MAX_WRITINGS {
                return Err(TooLong);
            }
            open.push_back((said.len(), depth));
            said.push(text.into());
        }
    }
    Ok(said)
}

/// What a text decodes to at once.
fn decoded(text: &str) -> Result<Vec<String>, TooLong> {
    let mut decoded = Vec::new();
    if text.contains('%') {
        decoded.push(text_of(percent_decode_str(text).collect()));
    }
    if text.contains('&') && text.contains(';') {
        decoded.push(html_escape::decode_html_entities(text).into_owned());
    }
    if text.contains('\\') || text.contains("%u") {
        decoded.push(unescaped(text));
    }
    if text.contains(char::is_control) {
        decoded.push(text.replace(char::is_control, ""));
    }
    decoded.extend(encoded_once_less(text));
    hidden_in(text, &mut decoded)?;
    Ok(decoded)
}

/// What the parts of a text say in another order or without each other.
fn rearranged(text: &str) -> Vec<String> {
    let mut rearranged = Vec::new();
    if text.contains("..") {
        rearranged.push(without_dots(text));
    }
    rearranged.extend(joined_values(text));
    if text.contains(';') {
        rearranged.push(without_matrix_parameters(text));
    }
    rearranged
}

/// Of bytes that are no UTF-8, each is a letter of Latin-1.
fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let bytes = error.into_bytes();
        bytes.into_iter().map(char::from).collect()
    })
}

/// Without what JSON (`\u00e9`, `\n`), programs (`\xc3`, `\303`, `\u{e9}`) and JavaScript's `escape`
/// (`%u00E9`) make of letters.
fn unescaped(text: &str) -> String {
    let mut bytes: Vec<u8> = Vec::with_capacity(text.len());
    let mut units: Vec<u16> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let unit = rest.strip_prefix("\\u").or(rest.strip_prefix("%u"));
        let unit = unit.and_then(|code| code.get(..4));
        if let Some(unit) = unit.and_then(|code| u16::from_str_radix(code, 16).ok()) {
            // (Two of them may be one letter.)
            units.push(unit);
            rest = &rest[6..];
            continue;
        }
        bytes.extend(String::from_utf16_lossy(&std::mem::take(&mut units)).bytes());
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
        } else if let Some((code, behind)) = rest
            .strip_prefix("u{")
            .and_then(|code| code.split_once('}'))
        {
            let code = u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
            bytes.extend(code.unwrap_or(' ').to_string().bytes());
            rest = behind;
        } else if let Some(byte) = rest
            .strip_prefix('x')
            .and_then(|code| byte_of(code.get(..2)?, 16))
        {
            bytes.push(byte);
            rest = &rest[3..];
        } else if let Some(byte) = rest.get(..3).and_then(|code| byte_of(code, 8)) {
            bytes.push(byte);
            rest = &rest[3..];
        } else if rest.starts_with(['n', 'r', 't', 'b', 'f']) {
            bytes.push(b' ');
            rest = &rest[1..];
        }
    }
    bytes.extend(String::from_utf16_lossy(&units).bytes());
    text_of(bytes)
}

fn byte_of(digits: &str, radix: u32) -> Option<u8> {
    let are_digits = digits.chars().all(|c| c.is_digit(radix));
    are_digits.then(|| u8::from_str_radix(digits, radix).ok())?
}

/// The path without the folders that a `..` leaves again.
fn without_dots(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split(['/', '\\']) {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Each value of a query, or of matrix parameters, that may be a file's name behind each other part:
/// its folder may stand there.
fn joined_values(text: &str) -> Vec<String> {
    /// Of more parameters than these nobody makes one name.
    const MOST: usize = 16;
    if !text.contains('=') {
        return Vec::new();
    }
    let parts = text.split(['?', '&', ';']).take(MOST);
    let values = parts.map(|pair| {
        pair.split_once('=')
            .map_or((pair, false), |(_, value)| (value, true))
    });
    let values: Vec<(&str, bool)> = values.collect();
    let files = values
        .iter()
        .filter(|(value, is_value)| *is_value && value.contains('.'));
    let behind = |file: &str| {
        let folders = values.iter();
        folders
            .map(|(folder, _)| format!("{folder}/{file}"))
            .collect::<Vec<_>>()
    };
    files.flat_map(|(file, _)| behind(file)).collect()
}

/// A path without what its parts say behind a `;`.
fn without_matrix_parameters(text: &str) -> String {
    let parts = text.split('/');
    let parts = parts.map(|part| part.split(';').next().unwrap_or_default());
    parts.collect::<Vec<_>>().join("/")
}

/// What Windows-1252 has in the place of Latin-1's control characters
/// (<https://encoding.spec.whatwg.org/index-windows-1252.txt>).
const WINDOWS: [(char, u8); 27] = [
    ('€', 0x80),
    ('‚', 0x82),
    ('ƒ', 0x83),
    ('„', 0x84),
    ('…', 0x85),
    ('†', 0x86),
    ('‡', 0x87),
    ('ˆ', 0x88),
    ('‰', 0x89),
    ('Š', 0x8a),
    ('‹', 0x8b),
    ('Œ', 0x8c),
    ('Ž', 0x8e),
    ('‘', 0x91),
    ('’', 0x92),
    ('“', 0x93),
    ('”', 0x94),
    ('•', 0x95),
    ('–', 0x96),
    ('—', 0x97),
    ('˜', 0x98),
    ('™', 0x99),
    ('š', 0x9a),
    ('›', 0x9b),
    ('œ', 0x9c),
    ('ž', 0x9e),
    ('Ÿ', 0x9f),
];

/// What was taken for Latin-1, or Windows-1252, when it was UTF-8 already; other letters may stand
/// between.
fn encoded_once_less(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let byte = |c: char| {
        let known = WINDOWS.iter().find(|(known, _)| *known == c);
        known.map_or_else(|| u8::try_from(c).ok(), |(_, byte)| Some(*byte))
    };
    let mut less = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        // What was one letter stands together.
        let end = rest.find(|c: char| c.is_ascii() || byte(c).is_none());
        let (run, behind) = rest.split_at(end.unwrap_or(rest.len()));
        match String::from_utf8(run.chars().filter_map(byte).collect()) {
            Ok(letter) => less.push_str(&letter),
            Err(_) => less.push_str(run),
        }
        let end = behind.find(|c: char| !c.is_ascii() && byte(c).is_some());
        let (other, behind) = behind.split_at(end.unwrap_or(behind.len()));
        less.push_str(other);
        rest = behind;
    }
    Some(less)
}

/// Adds what is written in Base64 or hexadecimal within a text, as image servers write what they
/// fetch (<https://docs.imgproxy.net/usage/processing#source-url>,
/// <https://github.com/atmos/camo#url-formats>,
/// <https://docs.aws.amazon.com/solutions/latest/dynamic-image-transformation-for-amazon-cloudfront/use-supported-query-param-edits.html>):
/// each piece by itself, what stands before and behind a mark in it, and with what stands behind a slash.
fn hidden_in(text: &str, decoded: &mut Vec<String>) -> Result<(), TooLong> {
    let bytes = text.as_bytes();
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric();
    let is_mark = |byte: u8| matches!(byte, b'+' | b'-' | b'_');
    let length = |from: usize, holds: &dyn Fn(u8) -> bool| {
        let rest = &bytes[from..bytes.len().min(from + LONGEST + 1)];
        let end = rest.iter().position(|byte| !holds(*byte));
        end.unwrap_or(rest.len())
    };
    for from in 0..bytes.len() {
        if decoded.len() > MAX_WRITINGS {
            return Err(TooLong);
        }
        if !is_letter(bytes[from]) && !is_mark(bytes[from])
            || from > 0 && is_letter(bytes[from - 1])
        {
            continue;
        }
        let piece = &bytes[from..from + length(from, &|byte| is_letter(byte) || is_mark(byte))];
        let letters = &piece[..length(from, &is_letter).min(piece.len())];
        let joined = length(from, &|byte| {
            is_letter(byte) || is_mark(byte) || byte == b'/'
        });
        let joined = &bytes[from..from + joined];
        if piece.len() > LONGEST {
            return Err(TooLong);
        }
        decoded.extend(from_base64(piece));
        if letters.len() < piece.len() {
            decoded.extend(from_base64(letters));
        }
        if joined.len() > piece.len() {
            decoded.extend(from_base64(joined));
            let pieces: Vec<u8> = joined
                .iter()
                .copied()
                .filter(|byte| *byte != b'/')
                .collect();
            decoded.extend(from_base64(&pieces));
        }
        decoded.extend(from_hexadecimal(piece));
        // (As PostgreSQL and programs write bytes.)
        let prefixed = piece.strip_prefix(b"x").or(piece.strip_prefix(b"0x"));
        decoded.extend(prefixed.and_then(from_hexadecimal));
    }
    Ok(())
}

/// Base64, of the alphabet of URLs.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The text that is written so, in either alphabet.
fn from_base64(letters: &[u8]) -> Option<String> {
    /// Most of what is no text shows in its beginning. (Four letters are three bytes.)
    const BEGINNING: usize = 16;
    let in_urls = |letter: &u8| match letter {
        b'+' => b'-',
        b'/' => b'_',
        other => *other,
    };
    if letters.len() < SHORTEST {
        return None;
    }
    let mut beginning = [0; BEGINNING];
    let mut bytes = [0; BEGINNING];
    let length = letters.len().min(BEGINNING);
    for (to, letter) in beginning.iter_mut().zip(letters) {
        *to = in_urls(letter);
    }
    let beginning = &beginning[..length - length % 4];
    let length = BASE64.decode_slice_unchecked(beginning, &mut bytes).ok()?;
    let valid = str::from_utf8(&bytes[..length]).map_or_else(|error| error.valid_up_to(), str::len);
    // (A character of four bytes may be cut.)
    if valid + 3 < length {
        return None;
    }
    let letters: Vec<u8> = letters.iter().map(in_urls).collect();
    // (One letter too many is none of it.)
    let whole = letters.len() - usize::from(letters.len() % 4 == 1);
    String::from_utf8(BASE64.decode(&letters[..whole]).ok()?).ok()
}

fn from_hexadecimal(digits: &[u8]) -> Option<String> {
    if digits.len() < 2 * SHORTEST || !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| byte_of(str::from_utf8(pair).ok()?, 16);
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD_NO_PAD;

    use super::*;

    #[test]
    fn more_than_can_be_read_is_an_error() {
        for piece in ["eyJ4IjoxfQ-", "YWFh.", "YWFhYWFh/", "a=b&c=d;"] {
            let said = writings(&piece.repeat(3)).map(|said| said.len());
            assert!(said.is_ok_and(|said| said <= MAX_WRITINGS), "{piece}");
        }
        for long in ["eyJ4IjoxfQ-".repeat(300), "a".repeat(LONGEST + 1)] {
            assert!(writings(&long).is_err());
        }
        let hidden = |text: &str| STANDARD_NO_PAD.encode(text);
        let many = |count: u64| {
            (0..count)
                .map(|of| hidden(&hidden(&format!("of {of}"))))
                .collect::<Vec<_>>()
                .join(".")
        };
        assert!(writings(&many(100)).is_ok());
        assert!(writings(&many(200)).is_err());
        // Whatever its length, where little is hidden in it.
        for piece in ["%25", "&amp;", "x/../", "a/", "a-", "é", "a.b,", "\\u0025"] {
            assert!(writings(&piece.repeat(3_000)).is_ok(), "{piece}");
        }
    }
}
