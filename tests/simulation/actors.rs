//! Who else changes the bucket and the database: uploaders, editors, who deletes rows.
//!
//! Each is a task of its own on the history's clock, so it acts between any two steps of a
//! run. A further actor is a function here and a line in [`act`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::bucket::Ms;
use crate::database::Author;
use crate::rng::Rng;
use crate::sim::{Sim, State};

/// The grace period of all histories.
pub(crate) const GRACE: Ms = 24 * 3_600_000;

/// The longest time from an upload's start to its commit: just under the grace period, but
/// for the clocks that may be apart.
const LONGEST_UPLOAD: Ms = GRACE - 6 * 60_000;

const STEMS: [&str; 7] = ["cat", "고양이", "a b+c", "50%off", "x\ny", "dir/deep", "é"];
const EXTENSIONS: [&str; 5] = ["png", "JPG", "webp", "jpeg", "gif"];

/// A key that may or may not be taken.
pub(crate) fn any_key(rng: &mut Rng) -> String {
    let (stem, number) = (rng.pick(&STEMS), rng.index(60));
    // (Each has one ending: a row that names another would mention it, which has tests of its own.)
    let ending = EXTENSIONS[number % EXTENSIONS.len()];
    format!("images/{stem}{number}.{ending}")
}

async fn wait(ms: Ms) {
    sleep(Duration::from_millis(u64::try_from(ms).unwrap_or_default())).await;
}

/// Something that somebody does, some time from now.
pub(crate) async fn act(sim: Arc<Sim>, mut rng: Rng, after: Ms) {
    wait(after).await;
    match rng.range(0, 100) {
        0..35 => {
            let (key, body) = (any_key(&mut rng), rng.range(1, 1_000_000));
            upload(sim, rng, key, body, "uploads of a key").await;
        }
        35..65 => {
            let chosen = {
                let state = sim.state();
                let chosen = any_object(&state, &mut rng, |_| true);
                chosen.map(|(key, body)| {
                    if rng.percent(50) {
                        (key, body, "uploads of the same bytes again")
                    } else {
                        (
                            key,
                            rng.range(1, 1_000_000),
                            "uploads of other bytes to the same key",
                        )
                    }
                })
            };
            if let Some((key, body, what)) = chosen {
                upload(sim, rng, key, body, what).await;
            }
        }
        65..82 => edit(&sim, &mut rng),
        _ => delete_row(&sim, &mut rng),
    }
}

/// The key and the body of an object that a person might choose.
fn any_object(state: &State, rng: &mut Rng, may: impl Fn(&str) -> bool) -> Option<(String, u64)> {
    let keys: Vec<&String> = state
        .bucket
        .keys
        .keys()
        .filter(|key| state.bucket.current(key).is_some() && is_touched(key) && may(key))
        .collect();
    let key = keys.get(rng.index(keys.len()))?;
    let body = state.bucket.current(key)?.size - 100;
    Some(((*key).clone(), body))
}

/// Some objects are left alone, so that every run finds something that is referenced; and
/// what lies elsewhere has a name in some histories only.
fn is_touched(key: &str) -> bool {
    key.starts_with("images/") && !key.contains("anchor")
}

/// An object first, its row later: or a roll-back, which may fail, too.
async fn upload(sim: Arc<Sim>, mut rng: Rng, key: String, body: u64, what: &'static str) {
    let began = sim.now();
    let last_modified = {
        let mut state = sim.state();
        state.coverage.count(what);
        sim.storage_seconds(&state)
    };
    let multipart = rng.percent(30);
    wait(if multipart {
        rng.ms(1, 3 * 3_600_000)
    } else {
        rng.ms(1, 400)
    })
    .await;
    let id = {
        let mut state = sim.state();
        sim.note(&mut state, || format!("an upload puts {key:?}"));
        let now = sim.now();
        if multipart {
            state.coverage.count("multipart uploads");
        }
        state.bucket.put(&key, body, last_modified, now, true)
    };
    let left = (began + LONGEST_UPLOAD - sim.now()).max(2);
    let delay = match rng.range(0, 10) {
        0..5 => rng.ms(1, 2_000.min(left)),
        5..8 => rng.ms(1, left),
        _ => rng.ms(left - left / 100 - 1, left),
    };
    wait(delay).await;
    let now = sim.now();
    let mut state = sim.state();
    state.bucket.close(&key, id);
    match rng.range(0, 100) {
        0..55 => {
            sim.note(&mut state, || format!("a row commits for {key:?}"));
            state.database.commit(&key, Author::Uploader, now);
            state.coverage.count(if delay > GRACE / 2 {
                "rows committed more than half the grace period late"
            } else {
                "rows committed"
            });
        }
        55..75 => {
            if state
                .bucket
                .current(&key)
                .is_some_and(|current| current.id == id)
            {
                let at = sim.storage_seconds(&state);
                state.bucket.delete(&key, at, now);
            }
            state.coverage.count("uploads rolled back");
        }
        _ => {
            sim.note(&mut state, || format!("a roll-back fails for {key:?}"));
            state.coverage.count("uploads whose roll-back failed");
        }
    }
}

/// Points a new row at an old object that no row names.
fn edit(sim: &Arc<Sim>, rng: &mut Rng) {
    let mut state = sim.state();
    let named = sim.named(&state);
    if let Some((key, _)) = any_object(&state, rng, |key| !named.contains(key)) {
        reference(sim, &mut state, &key);
    }
}

fn reference(sim: &Arc<Sim>, state: &mut State, key: &str) {
    let now = sim.now();
    sim.note(state, || format!("an editor points a new row at {key:?}"));
    state.database.commit(key, Author::Editor, now);
    state.coverage.count("rows pointed at an old object");
}

fn delete_row(sim: &Arc<Sim>, rng: &mut Rng) {
    let now = sim.now();
    let mut state = sim.state();
    let mut rows: Vec<_> = state
        .database
        .rows
        .iter_mut()
        .filter(|row| row.ended.is_none() && is_touched(&row.key))
        .collect();
    let chosen = rng.index(rows.len());
    if let Some(row) = rows.get_mut(chosen) {
        row.ended = Some(now);
        let key = row.key.clone();
        drop(rows);
        sim.note(&mut state, || format!("a row of {key:?} is deleted"));
        state.coverage.count("rows deleted");
    }
}

/// An editor who chooses just the moment after a fresh check.
pub(crate) fn strike_after_check<'a>(
    sim: &Arc<Sim>,
    state: &mut State,
    keys: impl Iterator<Item = &'a str>,
) {
    let strikes = state.strikes;
    if !state.rng.percent(strikes) {
        return;
    }
    let mut rng = state.rng.fork();
    let now = sim.now();
    let keys: Vec<String> = keys
        .filter(|key| state.bucket.current(key).is_some() && !state.database.names(key, now))
        .map(str::to_owned)
        .collect();
    if keys.is_empty() {
        return;
    }
    let key = keys[rng.index(keys.len())].clone();
    let after = rng.ms(0, 3 * state.latency.1);
    let sim = Arc::clone(sim);
    tokio::spawn(async move {
        wait(after).await;
        let mut state = sim.state();
        if state.bucket.current(&key).is_some() {
            state
                .coverage
                .count("strikes of an editor just after a check");
            reference(&sim, &mut state, &key);
        }
    });
}

/// An uploader who sends the same bytes again just after their page was listed.
pub(crate) fn strike_after_page<'a>(
    sim: &Arc<Sim>,
    state: &mut State,
    keys: impl Iterator<Item = &'a str>,
) {
    let strikes = state.strikes;
    if !state.rng.percent(strikes / 5) {
        return;
    }
    let mut rng = state.rng.fork();
    let now = sim.now();
    let keys: Vec<(String, u64)> = keys
        .filter(|key| is_touched(key) && !state.database.names(key, now))
        .filter_map(|key| Some((key.to_owned(), state.bucket.current(key)?.size - 100)))
        .collect();
    if keys.is_empty() {
        return;
    }
    let (key, body) = keys[rng.index(keys.len())].clone();
    let after = rng.ms(0, 20 * state.latency.1);
    let sim = Arc::clone(sim);
    tokio::spawn(async move {
        wait(after).await;
        upload(
            sim,
            rng,
            key,
            body,
            "uploads of the same bytes just after their page",
        )
        .await;
    });
}
