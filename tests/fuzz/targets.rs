//! What must hold of any input. The fuzzers call these, and so does `cargo test`, on the
//! corpora.
#![allow(dead_code, reason = "each fuzzer calls one of them")]

use orphan_sweeper::key::MAX_KEY_BYTES;
use orphan_sweeper::manifest::{Header, Manifest, sha256};
use orphan_sweeper::mention::{Keys, Strictness, needles};
use orphan_sweeper::names::{Host, NameRules, ReferenceForm};
use orphan_sweeper::object::Orphan;
use orphan_sweeper::references::ReferenceKind;
use orphan_sweeper::s3::page;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Whatever is taken for a page is a whole one.
pub(crate) fn page(body: &[u8]) {
    let Ok(page) = page::parse(body) else { return };
    assert_eq!(page.objects().count(), page.len());
    assert!(page.next.as_ref().is_none_or(|token| !token.is_empty()));
    for object in page.objects() {
        assert!(!object.key.is_empty() && !object.etag.is_empty());
    }
    // A page that lost its end is none.
    let whole = body.trim_ascii_end();
    for lost in 1..whole.len().min(40) {
        assert!(page::parse(&whole[..whole.len() - lost]).is_err());
    }
}

/// Whatever a name is widened to can be a key, none but the first is what it means in the first
/// place, and a complaint can be shown.
pub(crate) fn names(name: &[u8]) {
    let Ok(name) = std::str::from_utf8(name) else {
        return;
    };
    for form in [ReferenceForm::Key, ReferenceForm::Url] {
        let rules = NameRules {
            bucket: "pics".to_owned(),
            form,
            prefix: if form == ReferenceForm::Key {
                "images/".to_owned()
            } else {
                String::new()
            },
            hosts: vec![
                Host::new("cdn.example.com").expect("a host"),
                Host::new("localhost:9000/pics").expect("a host"),
            ],
            foreign_hosts: vec![Host::new("avatars.example.net").expect("a host")],
        };
        match rules.widen(name) {
            Ok(references) => {
                for (index, reference) in references.iter().enumerate() {
                    let key = reference.key.as_str();
                    assert!(!key.is_empty() && key.len() <= MAX_KEY_BYTES);
                    assert!(reference.kind == ReferenceKind::Alternate || index == 0);
                }
                let primary = rules.primary_of(name).expect("it was widened");
                let first = references.first();
                let first = first.filter(|one| one.kind == ReferenceKind::Primary);
                assert_eq!(primary.as_ref(), first.map(|one| &one.key));
                // What a name means stands in it.
                if let Some(primary) = primary {
                    let mut keys = Keys::default();
                    keys.add(&primary, &rules.prefix);
                    let (path, _) = rules.parts(name);
                    let has_letters = primary.as_str().chars().any(char::is_alphanumeric);
                    if let Ok(found) = keys.mentioned_in(&path, Strictness::Strict) {
                        let mut needles = needles(&primary, &rules.prefix);
                        assert_eq!(needles.any(|needle| found.contains(&needle)), has_letters);
                    }
                }
                if form == ReferenceForm::Key {
                    let named = references.first().and_then(|one| rules.name_of(&one.key));
                    assert_eq!(named.unwrap_or_default(), name);
                }
            }
            Err(error) => {
                let told = error.to_string();
                assert!(!told.chars().any(char::is_control), "{told:?}");
                assert!(told.len() < 5_000, "{told:?}");
                let signed = told.to_ascii_lowercase().contains("x-amz-signature");
                assert!(!signed, "{told:?}");
            }
        }
    }
}

/// Whatever is taken for a manifest is one, and can be written and read again.
pub(crate) fn manifest(bytes: &[u8]) {
    read(bytes);
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return again::<Orphan>(bytes);
    };
    let (first, lines) = bytes.split_at(end + 1);
    again::<Header>(first);
    // Its hashes would keep a fuzzer out, so the lines are also read behind the right ones.
    if let (Ok(mut header), Ok(lines)) = (
        serde_json::from_slice::<Header>(first),
        std::str::from_utf8(lines),
    ) {
        header.orphans = lines.matches('\n').count() as u64;
        header.sha256 = sha256(lines);
        header.references_sha256 = sha256(&header.references);
        let header = header.sealed().expect("a header can be written");
        let mut mended = serde_json::to_vec(&header).expect("a header can be written");
        mended.push(b'\n');
        mended.extend_from_slice(lines.as_bytes());
        read(&mended);
    }
}

fn read(bytes: &[u8]) {
    let Ok(manifest) = Manifest::read(bytes) else {
        return;
    };
    let (header, spool) = (manifest.header(), manifest.spool());
    assert_eq!(header.orphans, spool.len());
    let mut written = Vec::new();
    spool
        .write_manifest(header, &mut written)
        .expect("memory is written");
    let reread = Manifest::read(&written[..]);
    if spool.sha256() == header.sha256 {
        assert_eq!(
            reread.expect("what was written can be read").header(),
            header
        );
    }
}

fn again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(line: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(line) else {
        return;
    };
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    assert!(!written.contains(&b'\n'), "one line");
    let reread: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(read, reread);
}
