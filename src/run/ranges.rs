//! The first step of a distributed run: where to cut the scope. Each range is then a run of
//! its own, with every guard.

use super::RunError;
use crate::hands::ReferenceSnapshot as _;
use crate::key::KeyRange;
use crate::mark::{Marking, chunks};
use crate::ranges;
use crate::settings::Settings;
use crate::world::World;

/// References from one place where the scope may be cut to the next.
const STEP: usize = 100;

/// Cuts the scope in at most so many ranges, which name about as many keys each.
///
/// # Errors
/// The references cannot be read.
pub async fn ranges_in<W: World>(
    world: &W,
    settings: &Settings,
    parts: usize,
) -> Result<Vec<KeyRange>, RunError> {
    let mut snapshot = world.snapshot().await?;
    let marking = Marking {
        rules: &settings.rules,
        scope: &settings.scope,
        per_chunk: STEP,
    };
    let cut = {
        let names = snapshot.names(settings.rules.keep_order()).await?;
        ranges::ranges(chunks(names, marking), parts).await?
    };
    snapshot.finish().await?;
    Ok(cut)
}
