//! What a text may say, in the ways in which image servers and careless code escape and encode.

use std::borrow::Cow;
use std::collections::VecDeque;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;

use crate::key::MAX_KEY_BYTES;

/// So often what was decoded is decoded again.
const DEPTH: usize = 4;

/// No more texts are read of one.
const MAX_WRITINGS: usize = 64;

/// Shorter ones hide no key.
const SHORTEST: usize = 6;

/// Longer ones are not read, so that a long name takes no longer than many short ones.
const LONGEST: usize = 4 * MAX_KEY_BYTES;

/// The text, and all that it decodes to, however often it was encoded.
pub(super) fn writings(text: &str) -> Vec<Cow<'_, str>> {
    let mut said: Vec<Cow<'_, str>> = vec![text.into()];
    let mut open: VecDeque<(usize, usize)> = [(0, 0)].into();
    while let Some((place, depth)) = open.pop_front() {
        if depth == DEPTH {
            continue;
        }
        let decoded = decoded(&said[place]);
        for text in decoded {
            if said.len() < MAX_WRITINGS && !said.iter().any(|known| *known == text) {
                open.push_back((said.len(), depth + 1));
                said.push(text.into());
            }
        }
    }
    said
}

/// What a text decodes to at once.
fn decoded(text: &str) -> Vec<String> {
    let mut decoded = Vec::new();
    if text.contains('%') {
        decoded.push(percent_decoded(text));
    }
    if text.contains('&') && text.contains(';') {
        decoded.push(html_escape::decode_html_entities(text).into_owned());
    }
    if text.contains("\\u") || text.contains("%u") {
        decoded.push(without_code_units(text));
    }
    if text.contains("..") {
        decoded.push(without_dots(text));
    }
    if text.contains('=') && text.contains(['&', ';']) {
        decoded.push(joined_values(text));
        decoded.push(without_matrix_parameters(text));
    }
    decoded.extend(encoded_once_less(text));
    hidden_in(text, &mut decoded);
    decoded
}

/// Of bytes that are no UTF-8, each is a letter of Latin-1.
fn percent_decoded(text: &str) -> String {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let bytes = error.into_bytes();
        bytes.into_iter().map(char::from).collect()
    })
}

/// Without what JSON (`\u00e9`) and JavaScript's `escape` (`%u00E9`) make of letters.
fn without_code_units(text: &str) -> String {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let code = rest.strip_prefix("\\u").or(rest.strip_prefix("%u"));
        let code = code.and_then(|code| code.get(..4));
        if let Some(unit) = code.and_then(|code| u16::from_str_radix(code, 16).ok()) {
            units.push(unit);
            rest = &rest[6..];
        } else {
            let mut buffer = [0; 2];
            units.extend_from_slice(c.encode_utf16(&mut buffer));
            rest = &rest[c.len_utf8()..];
        }
    }
    String::from_utf16_lossy(&units)
}

/// The path without the folders that a `..` leaves again.
fn without_dots(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The values of a query, or of matrix parameters, behind each other: a folder may stand in one, and the
/// name in the next.
fn joined_values(text: &str) -> String {
    let values = text.split(['?', '&', ';']);
    let values = values.map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
    values.collect::<Vec<_>>().join("/")
}

/// A path without what its parts say behind a `;`.
fn without_matrix_parameters(text: &str) -> String {
    let parts = text.split('/');
    let parts = parts.map(|part| part.split(';').next().unwrap_or_default());
    parts.collect::<Vec<_>>().join("/")
}

/// What was taken for Latin-1 when it was UTF-8 already.
fn encoded_once_less(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    String::from_utf8(bytes.ok()?).ok()
}

/// Adds what is written in Base64 or hexadecimal within a text, as image servers write what they
/// fetch (<https://docs.imgproxy.net/usage/processing#source-url>,
/// <https://github.com/atmos/camo#url-formats>,
/// <https://docs.aws.amazon.com/solutions/latest/dynamic-image-transformation-for-amazon-cloudfront/use-supported-query-param-edits.html>):
/// each piece by itself, what stands before and behind a mark in it, and with what stands behind a slash.
fn hidden_in(text: &str, decoded: &mut Vec<String>) {
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
            break;
        }
        if !is_letter(bytes[from]) && !is_mark(bytes[from])
            || from > 0 && is_letter(bytes[from - 1])
        {
            continue;
        }
        let piece = &bytes[from..from + length(from, &|byte| is_letter(byte) || is_mark(byte))];
        let joined = &bytes[from..from
            + length(from, &|byte| {
                is_letter(byte) || is_mark(byte) || byte == b'/'
            })];
        decoded.extend(from_base64(piece));
        let letters = &piece[..length(from, &is_letter)];
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
        // (As PostgreSQL writes bytes.)
        decoded.extend(piece.strip_prefix(b"x").and_then(from_hexadecimal));
    }
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
    if !(SHORTEST..=LONGEST).contains(&letters.len()) {
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
    if !(2 * SHORTEST..=LONGEST).contains(&digits.len()) || !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| {
        let pair = str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}
