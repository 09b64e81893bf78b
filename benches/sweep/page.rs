//! What S3 writes of one object of a listing.

use crate::keys::etag;

/// One object of a page, with what S3 says of an object today.
pub(crate) fn contents(page: &mut Vec<u8>, index: u64, key: &[u8]) {
    page.extend_from_slice(b"<Contents><Key>");
    page.extend_from_slice(key);
    page.extend_from_slice(b"</Key><LastModified>2025-01-01T");
    // The last second of the day is a referenced object's: no guard speaks up.
    let second = index % 86_400;
    for (part, end) in [
        (second / 3_600, b":".as_slice()),
        (second / 60 % 60, b":"),
        (second % 60, b".000Z</LastModified><ETag>&quot;"),
    ] {
        page.extend([digit(part / 10), digit(part % 10)]);
        page.extend_from_slice(end);
    }
    page.extend_from_slice(&etag(index));
    page.extend_from_slice(b"&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>");
    let size = 100_000 + index % 900_000;
    for place in [100_000, 10_000, 1_000, 100, 10, 1] {
        page.push(digit(size / place));
    }
    page.extend_from_slice(b"</Size><StorageClass>STANDARD</StorageClass></Contents>");
}

/// The last decimal digit.
fn digit(number: u64) -> u8 {
    b'0' + u8::try_from(number % 10).unwrap_or_default()
}
