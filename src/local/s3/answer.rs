//! How questions and answers are written: errors, times, versions, keys and pages.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{self, ETag, ETagCondition};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::bucket::{Condition, Unmet, VersionId, Versioning};
use super::buckets::version_id;
use super::page::MAX_PAGE;

const DELETE_MARKER: HeaderName = HeaderName::from_static("x-amz-delete-marker");
const VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");

pub(super) fn error(code: &str, message: &'static str) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    S3Error::with_message(code, message)
}

pub(super) fn no_such_key() -> S3Error {
    error("NoSuchKey", "The specified key does not exist.")
}

pub(super) fn malformed_xml() -> S3Error {
    error(
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
    )
}

pub(super) fn not_honoured(what: &'static str) -> S3Error {
    error("NotImplemented", what)
}

impl Unmet {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::NoSuchKey => "NoSuchKey",
            Self::PreconditionFailed => "PreconditionFailed",
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::NoSuchKey => "The specified key does not exist.",
            Self::PreconditionFailed => {
                "At least one of the pre-conditions you specified did not hold"
            }
        }
    }
}

impl From<Unmet> for S3Error {
    fn from(unmet: Unmet) -> Self {
        error(unmet.code(), unmet.message())
    }
}

/// Times as s3s takes them.
pub(super) fn stamp(time: Timestamp) -> dto::Timestamp {
    let since = time.duration_since(Timestamp::UNIX_EPOCH);
    let system = if since.is_negative() {
        UNIX_EPOCH.checked_sub(since.unsigned_abs())
    } else {
        UNIX_EPOCH.checked_add(since.unsigned_abs())
    };
    dto::Timestamp::from(system.unwrap_or(SystemTime::UNIX_EPOCH))
}

pub(super) fn strong(tag: &str) -> ETag {
    ETag::Strong(tag.to_owned())
}

pub(super) fn condition(asked: Option<ETagCondition>) -> Option<Condition> {
    asked.map(|asked| match asked {
        ETagCondition::Any => Condition::Exists,
        ETagCondition::ETag(tag) => Condition::Tag(tag.into_value()),
    })
}

pub(super) fn asked_version(text: Option<&str>) -> S3Result<Option<VersionId>> {
    text.map(|text| {
        version_id(text).ok_or_else(|| error("InvalidArgument", "Invalid version id specified"))
    })
    .transpose()
}

/// The version id that an answer shows: none in a bucket that never had versioning.
pub(super) fn shown(versioning: Versioning, id: VersionId) -> Option<String> {
    (versioning != Versioning::Unversioned || id != VersionId::NULL).then(|| id.to_string())
}

/// How S3 encodes keys under `encoding-type=url`: as an HTML form does, with
/// the slash left alone. Measured against S3 in
/// <https://github.com/brekkylab/backlot/issues/178>; its API reference gives
/// `test_file%283%29.png` for `test_file(3).png`.
pub(super) struct Encoding {
    url: bool,
}

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'*')
    .remove(b' ');

impl Encoding {
    pub(super) fn of(asked: Option<&dto::EncodingType>) -> S3Result<Self> {
        match asked.map(dto::EncodingType::as_str) {
            None => Ok(Self { url: false }),
            Some(dto::EncodingType::URL) => Ok(Self { url: true }),
            Some(_) => Err(error(
                "InvalidArgument",
                "Invalid Encoding Method specified in Request",
            )),
        }
    }

    pub(super) fn text(&self, text: &str) -> String {
        if self.url {
            utf8_percent_encode(text, PLAIN)
                .to_string()
                .replace(' ', "+")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn optional(&self, text: Option<&String>) -> Option<String> {
        text.map(|text| self.text(text))
    }

    pub(super) fn named(&self) -> Option<dto::EncodingType> {
        self.url
            .then(|| dto::EncodingType::from_static(dto::EncodingType::URL))
    }
}

/// The size of a page: what was asked, at most 1,000.
pub(super) fn page_size(asked: Option<i32>) -> S3Result<usize> {
    let asked = asked.map_or(Ok(MAX_PAGE), usize::try_from);
    let asked = asked.map_err(|_| {
        error(
            "InvalidArgument",
            "max-keys must be an integer between 0 and 2147483647",
        )
    })?;
    Ok(asked.min(MAX_PAGE))
}

/// Page sizes are at most 1,000.
pub(super) fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Sizes above `i64::MAX` do not occur.
pub(super) fn long(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Whether XML 1.0 has this character; S3 reads bodies with a parser that refuses others.
/// <https://www.w3.org/TR/xml/#charsets>
pub(super) fn in_xml(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

pub(super) fn marker_headers(id: VersionId) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(DELETE_MARKER, HeaderValue::from_static("true"));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(VERSION_ID, id);
    }
    headers
}
