//! The parts of a run that see every key, one by one: `cargo bench --bench parts`.

#[path = "sweep/keys.rs"]
#[expect(dead_code, reason = "the bench of whole runs uses all of it")]
mod keys;
#[path = "sweep/page.rs"]
mod object;

use std::hint::black_box;

use divan::Bencher;
use divan::counter::ItemsCount;
use keys::{Key, Population};
use orphan_sweeper::key::{KeyRange, Prefix};
use orphan_sweeper::merge::{Criteria, Findings, Merge};
use orphan_sweeper::names::{Host, NameRules, ReferenceForm};
use orphan_sweeper::object::ListedObject;
use orphan_sweeper::references::{Chunk, Chunker, ReferenceKind};
use orphan_sweeper::s3::page;
use orphan_sweeper::scope::Scope;
use quick_xml::events::Event;

/// Objects of one page.
const PAGE: u64 = 1_000;

/// Objects of the merge and of the chunker.
const MANY: u64 = 1_000_000;

/// Names that are widened.
const NAMES: u64 = 10_000;

fn main() {
    divan::main();
}

fn full_page() -> Vec<u8> {
    let population = Population::new(PAGE);
    let mut page = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>pictures</Name><Prefix/><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><KeyCount>1000</KeyCount><IsTruncated>true</IsTruncated><NextContinuationToken>token</NextContinuationToken>".to_vec();
    for index in 0..PAGE {
        object::contents(&mut page, index, &population.key(index));
    }
    page.extend_from_slice(b"</ListBucketResult>");
    page
}

/// The page scanner with all its checks.
#[divan::bench]
fn page_scan(bencher: Bencher<'_, '_>) {
    let body = full_page();
    bencher
        .counter(ItemsCount::new(PAGE))
        .bench(|| page::parse(black_box(&body)).expect("a page").len());
}

/// A general XML parser that takes only the keys of the same page and checks nothing.
#[divan::bench]
fn page_by_quick_xml(bencher: Bencher<'_, '_>) {
    let body = full_page();
    bencher.counter(ItemsCount::new(PAGE)).bench(|| {
        let mut reader = quick_xml::Reader::from_reader(black_box(body.as_slice()));
        let (mut in_key, mut bytes) = (false, 0);
        loop {
            match reader.read_event().expect("XML") {
                Event::Start(tag) => in_key = tag.name().as_ref() == b"Key",
                Event::Text(text) if in_key => {
                    bytes += text.xml10_content().expect("UTF-8").len();
                }
                Event::End(_) => in_key = false,
                Event::Eof => break bytes,
                _ => {}
            }
        }
    });
}

/// Every key against every name, verdicts and orphans out.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn merge_a_million(bencher: Bencher<'_, '_>) {
    let population = Population::new(MANY);
    let keys: Vec<Key> = (0..MANY).map(|index| population.key(index)).collect();
    let names: Vec<Key> = population.names().collect();
    let criteria = Criteria {
        scope: Scope::new(Prefix::default(), &[], &[]).expect("a scope"),
        cutoff: "2026-01-01T00:00:00Z".parse().expect("a time"),
    };
    let last_modified = "2025-01-01T00:00:00Z".parse().ok();
    bencher
        .counter(ItemsCount::new(MANY))
        .with_inputs(|| Chunk::new(KeyRange::default(), primaries(&names)))
        .bench_values(|chunk| -> Findings {
            let mut merge = Merge::new(&criteria, chunk);
            for key in &keys {
                merge.object(ListedObject {
                    key: text(key),
                    etag: "\"00000000000000000000000000000000\"",
                    size: 1,
                    last_modified,
                });
            }
            merge.finish()
        });
}

/// A million ordered names into ranges of 9,000.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn chunk_a_million(bencher: Bencher<'_, '_>) {
    let names: Vec<Key> = Population::new(MANY).names().collect();
    bencher.counter(ItemsCount::new(names.len())).bench(|| {
        let mut chunker = Chunker::new(KeyRange::default(), 9_000);
        let mut ranges = 1;
        for (name, kind) in primaries(&names) {
            ranges += u32::from(chunker.push(name, kind).expect("in order").is_some());
        }
        black_box(chunker.finish());
        ranges
    });
}

/// Names of form `key`, as the ordered reading takes them.
#[divan::bench]
fn widen_keys(bencher: Bencher<'_, '_>) {
    let rules = rules(ReferenceForm::Key);
    let names: Vec<Key> = Population::new(NAMES).names().collect();
    bencher.counter(ItemsCount::new(names.len())).bench(|| {
        let keys = names.iter().map(|name| rules.key_of(text(name)));
        keys.fold(0, |bytes, key| bytes + key.expect("a key").len())
    });
}

/// Names of form `url`: plain ones, and ones with an escape, which have two readings.
#[divan::bench(args = ["", "with%20space/"])]
fn widen_urls(bencher: Bencher<'_, '_>, folder: &str) {
    let rules = rules(ReferenceForm::Url);
    let names: Vec<String> = Population::new(NAMES)
        .names()
        .map(|name| format!("https://cdn.example.com/{folder}{}?width=20", text(&name)))
        .collect();
    bencher.counter(ItemsCount::new(names.len())).bench(|| {
        let keys = names.iter().map(|name| rules.widen(name));
        keys.fold(0, |count, keys| count + keys.expect("keys").len())
    });
}

fn rules(form: ReferenceForm) -> NameRules {
    NameRules {
        bucket: "pictures".to_owned(),
        form,
        prefix: String::new(),
        hosts: vec![Host::new("cdn.example.com").expect("a host")],
        foreign_hosts: Vec::new(),
    }
}

fn primaries(names: &[Key]) -> impl Iterator<Item = (&str, ReferenceKind)> {
    names
        .iter()
        .map(|name| (text(name), ReferenceKind::Primary))
}

fn text(key: &Key) -> &str {
    std::str::from_utf8(key).expect("ASCII")
}
