//! The corpora of the fuzzers in `tests/fuzz`, replayed with whatever compiler there is: what
//! they once found stays found.

#[path = "fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// Hands every file of a corpus to what the fuzzer of its name calls.
fn replay(target: &str, call: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let mut inputs = 0;
    for file in fs::read_dir(&corpus).expect("a corpus") {
        let path = file.expect("a file").path();
        println!("{}", path.display());
        call(&fs::read(&path).expect("a readable file"));
        inputs += 1;
    }
    assert!(inputs > 3, "{} is nearly empty", corpus.display());
}

#[test]
fn pages() {
    replay("page", targets::page);
}

#[test]
fn names() {
    replay("names", targets::names);
}

#[test]
fn manifests() {
    replay("manifest", targets::manifest);
}

/// A corpus of nothing but broken input would show nothing.
#[test]
fn a_whole_manifest_is_among_them() {
    let whole: &[u8] = include_bytes!("fuzz/corpus/manifest/whole");
    let manifest = orphan_sweeper::manifest::Manifest::read(whole).expect("a manifest");
    assert_eq!(manifest.spool().len(), 2);
}
