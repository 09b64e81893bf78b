//! The whole sweep against real servers, held against a model of a dozen lines over sets.
#![cfg(feature = "demo")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use orphan_sweeper::object::Orphan;
use orphan_sweeper::settings::Setting;
use orphan_sweeper::summary::Status;
use proptest::prelude::*;
use support::{BUCKET, World};

/// What a sweep should do, said over sets.
struct Model {
    referenced: BTreeSet<String>,
    young: BTreeSet<String>,
    out_of_scope: BTreeSet<String>,
    orphans: BTreeSet<String>,
    dangling: BTreeSet<String>,
    references: BTreeSet<String>,
}

fn model(
    objects: &BTreeMap<String, i64>,
    names: &[String],
    prefix: &str,
    name_prefix: &str,
    min_age_hours: i64,
) -> Model {
    let named: BTreeSet<String> = names
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| format!("{name_prefix}{name}"))
        .collect();
    let references: BTreeSet<String> = named
        .into_iter()
        .filter(|key| key.starts_with(prefix))
        .collect();
    let listed = objects.iter().filter(|(key, _)| key.starts_with(prefix));
    let mut model = Model {
        dangling: references
            .iter()
            .filter(|key| !objects.contains_key(*key))
            .cloned()
            .collect(),
        referenced: BTreeSet::new(),
        young: BTreeSet::new(),
        out_of_scope: BTreeSet::new(),
        orphans: BTreeSet::new(),
        references,
    };
    for (key, age) in listed {
        let verdict = match () {
            () if key.strip_suffix(".txt").is_some() => &mut model.out_of_scope,
            () if model.references.contains(key) => &mut model.referenced,
            () if *age <= min_age_hours => &mut model.young,
            () => &mut model.orphans,
        };
        verdict.insert(key.clone());
    }
    model
}

/// Keys that other tools stumble over.
const NASTY: [&str; 36] = [
    " ",
    "a b.png",
    " a.png",
    "a.png ",
    "a+b.png",
    "a%20b.png",
    "a%2Bb",
    "%",
    "a\"b'c.png",
    "a&b<c>.png",
    "&amp;",
    "]]>",
    "line\nbreak.png",
    "tab\t.png",
    "return\r.png",
    "\u{1}",
    "\u{7f}",
    "a\u{85}b",
    "a\u{2028}b",
    "\u{ffee}",
    "\u{fffd}",
    "🦀.png",
    "e\u{301}.png",
    "\u{e9}.png",
    "고양이.png",
    "/lead.png",
    "trail/",
    "a//b.png",
    "a/../b.png",
    "..",
    ".",
    "a/",
    "a",
    "a/b",
    "?x=1#y",
    "\\back\\slash",
];

fn nasty_key() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => proptest::sample::select(&NASTY[..]).prop_map(str::to_owned),
        2 => "[ab/+% 고]{1,6}",
        1 => "[ab]{1,3}\\.txt",
        1 => Just("x".repeat(1_024)),
        1 => "\\PC{1,8}",
    ]
}

fn key() -> impl Strategy<Value = String> {
    (
        prop_oneof![Just(""), Just("images/"), Just("images2/")],
        nasty_key(),
    )
        .prop_map(|(folder, key)| {
            let mut key = format!("{folder}{key}");
            while key.len() > 1_024 {
                key.pop();
            }
            key
        })
}

/// In form `key` such names are errors, as `tests/references.rs` shows.
fn fits_form_key(name: &str) -> bool {
    !name.contains("://") && !name.starts_with(['[', '{']) && !name.contains('\0')
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_sweep_does_what_the_model_says(
        objects in proptest::collection::btree_map(key(), 0_i64..100, 0..40),
        extra in proptest::collection::vec(key(), 0..10),
        named in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
        prefix in prop_oneof![2 => Just(""), 1 => Just("images")],
        name_prefix in prop_oneof![2 => Just(""), 1 => Just("images/")],
        min_age in 1_i64..60,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            for (key, age) in &objects {
                // Half an hour away from any whole hour, so that no cutoff falls on it.
                let at = support::ago(*age) + jiff::SignedDuration::from_mins(30);
                world.server.put_at(BUCKET, key, key.as_bytes().to_vec(), at);
            }
            let keys: Vec<&String> = objects.keys().collect();
            let from_objects = named.iter().filter(|_| !keys.is_empty()).map(|index| index.get(&keys).as_str());
            let names: Vec<String> = from_objects
                .chain(extra.iter().map(String::as_str))
                .filter_map(|key| key.strip_prefix(name_prefix))
                .filter(|name| fits_form_key(name))
                .map(str::to_owned)
                .chain([String::new()])
                .collect();
            world.name(&names).await;

            let folder = if prefix.is_empty() { "" } else { "images/" };
            let model = model(&objects, &names, folder, name_prefix, min_age);
            let age = format!("{min_age}h");
            let report = world.run(&[
                (Setting::Prefix, prefix), (Setting::ReferencePrefix, name_prefix), (Setting::MinAge, &age),
                (Setting::Include, "**"), (Setting::Exclude, "*.txt"),
                (Setting::MaxOrphanPercent, "100"), (Setting::MaxDanglingPercent, "100"), (Setting::AllowNewerOrphans, "true"),
                // Its few names stand in many keys, and folders fill by chance.
                (Setting::NotAReference, "public.images.name"), (Setting::AllowUnreferencedFolder, "images"), (Setting::AllowUnreferencedFolder, "images2"), (Setting::AllowUnreferencedFolder, "*"),
            ]).await;

            let counts = report.summary.counts;
            let size = |keys: &BTreeSet<String>| keys.len() as u64;
            prop_assert_eq!(counts.referenced, size(&model.referenced));
            prop_assert_eq!(counts.young, size(&model.young));
            prop_assert_eq!(counts.out_of_scope, size(&model.out_of_scope));
            prop_assert_eq!(counts.orphans, size(&model.orphans));
            prop_assert_eq!(counts.dangling, size(&model.dangling));
            prop_assert_eq!(counts.references, size(&model.references));
            prop_assert_eq!(counts.orphan_bytes, model.orphans.iter().map(|key| key.len() as u64).sum::<u64>());

            let refused = counts.listed > 0 && (model.references.is_empty() || model.referenced.is_empty() && !model.orphans.is_empty());
            prop_assert_eq!(report.summary.status, if refused { Status::Refused } else { Status::Completed }, "{:?}", report);
            // What a name mentions stays; where every name has its object, none does.
            let held: BTreeSet<String> = if world.has(&report, "held_back.jsonl") {
                let lines = String::from_utf8(world.read_bytes(&report, "held_back.jsonl")).expect("UTF-8");
                lines.lines().map(|line| serde_json::from_str::<Orphan>(line).expect("an orphan").key.as_str().to_owned()).collect()
            } else {
                BTreeSet::new()
            };
            prop_assert_eq!(size(&held), report.summary.more.held_back);
            prop_assert!(held.is_subset(&model.orphans));
            prop_assert!(held.is_empty() || !model.dangling.is_empty() || !prefix.is_empty(), "{:?}", held);
            let gone: BTreeSet<String> = if refused { BTreeSet::new() } else { &model.orphans - &held };
            let left: Vec<String> = objects.keys().filter(|key| !gone.contains(*key)).cloned().collect();
            prop_assert_eq!(world.keys(), left);
            prop_assert_eq!(counts.deleted, size(&gone));
            prop_assert_eq!(counts.deferred, counts.orphans - counts.deleted);
            Ok(())
        })?;
    }
}
