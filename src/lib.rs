//! Orphan Sweeper finds the objects of an S3 bucket that no PostgreSQL row names, the
//! orphans, and deletes them.
//!
//! # The promise
//!
//! It deletes people's pictures, so it is judged first by what it never does.
//!
//! 1. A referenced image is never deleted. Every input error, truncated page, broken order,
//!    unreadable row or snapshot that may have lost rows means zero deletions.
//! 2. An object is deleted only if it is older than the grace period, absent from a complete
//!    snapshot of the references, absent again from a fresh check of the primary made just
//!    before its batch (milliseconds; made again for what waits longer than a tenth of a second, or
//!    than the check itself took), and still carries the ETag that it was listed with. (The same bytes
//!    uploaded again keep their ETag. So when more than 60 s have passed since the listing
//!    began, the object's age is read again before its batch.)
//! 3. The cutoff (`now - grace`) is fixed once, when the run starts; `now` is the lower of the
//!    local clock and the `Date` of S3's first answer, and more than 5 minutes between them
//!    refuses. An object of unknown age is new.
//! 4. Keys travel byte for byte: what S3 listed is what is deleted. Only the database's side
//!    is widened.
//! 5. Nothing is deleted before the whole scope was judged and the guards have approved.
//! 6. What is about to be deleted is written down before its batch is sent, and each batch's
//!    outcome after it.
//! 7. `listed = referenced + young + out_of_scope + orphans` and `orphans = deleted + gone +
//!    spared + failed + unknown + deferred`, in every run however it ends, to the object. A
//!    count means confirmed, not attempted.
//! 8. A dry run changes neither the swept scope nor the database: the same code, stopped after
//!    the plan, with nothing in its hands that deletes. It writes only its ledger.
//! 9. Running twice, or two at once, does no harm. Killed anywhere, the next run completes the
//!    work.
//! 10. More references, more errors or more grace never add a key to the orphans.
//!
//! What holds it:
//!
//! | | tests |
//! |---|---|
//! | 1 | `tests/sweep.rs` (a model over random buckets and tables), `tests/listing_faults.rs`, `tests/references.rs`, `tests/mentions.rs`, the properties of [`mention`] and of `glob`, `tests/bad_input.rs` |
//! | 2 | `tests/deletion.rs` (over the wire), `tests/sweep_time.rs` (with the clock in hand) |
//! | 3 | `the_lower_clock_decides_and_clocks_apart_refuse`, `an_age_that_cannot_be_read_is_new` |
//! | 4 | the nasty keys of `tests/sweep.rs`, the properties of [`names`] and [`s3::page`] |
//! | 5 | `each_guard_refuses_with_the_plan_written_and_nothing_deleted`, the tests of [`guards`] and [`folders`], `tests/guards.rs`, `tests/discovery.rs` |
//! | 6 | `the_plan_is_written_down_before_the_first_batch`, `batches_hold_at_most_a_thousand_and_each_key_is_written_down_once` |
//! | 7 | every run of every test; `whatever_fails_the_counts_are_true`, `deleted_means_confirmed` |
//! | 8 | `a_dry_run_writes_nothing_but_its_ledger_and_plans_what_the_sweep_does` |
//! | 9 | `two_sweeps_at_once_do_no_harm`, `killed_anywhere_the_next_run_completes_the_work` |
//! | 10 | `another_reference_never_adds_an_orphan` |
//! | 1 to 9 | `tests/simulation`: 20,000 histories of faults, crashes and people, an oracle at each deletion |
//!
//! What is left, and all that the simulation finds: an application that points a *new* row at
//! an *old* key, between the fresh check and the deletion some milliseconds later (up to a
//! tenth of a second where requests wait for each other), loses that object; and one that uploads the *same bytes* to an old key again, between its page and the
//! deletion less than a minute later. Never reuse keys, and keep versions: then
//! [`recheck`](mod@recheck) notices it after the sweep, and [`restore`](mod@restore) brings it
//! back (`tests/recheck.rs`, `tests/restore.rs`).
//!
//! # The five steps
//!
//! ```text
//!                 key ranges, cut at the names that the database holds
//!                      │
//!  S3 listing ─────────┤                                             ┌─ summary
//!  (ordered pages)     ├─► merge ─► plan ─► guards ─► approved ─► sweep ─► outcomes ─► ledger
//!  PostgreSQL ─────────┘                             plan        │
//!  (ordered names)                                               └─ fresh check, then
//!                                                                   conditional deletion
//! ```
//!
//! [`run`] puts them together: [`mark`] turns names into chunks of [`references`], each the
//! references of one key range; [`judge`] lists the ranges and [`merge`]s them into a
//! [`plan`], of which what a name merely [`mention`]s is held back; the [`guards`] approve it or refuse; [`sweep`](mod@sweep) carries an approved plan
//! out. [`reviewed`] plans are carried out the same way (`tests/apply.rs`), behind guards of
//! their own ([`review`]).
//!
//! | layer | modules | knows |
//! |---|---|---|
//! | words | [`key`], [`object`], [`summary`], [`retention`], [`chain`](mod@chain) | nothing |
//! | domain | [`scope`] with its `glob`s, [`names`], [`references`], [`merge`], [`folders`], [`mention`], [`manifest`], [`plan`], [`guards`], [`discovery`], [`review`], [`reconcile`], [`metrics`] | the words |
//! | steps | [`listing`], [`sorting`], [`mark`], [`mod@ranges`], [`judge`], [`mentioned`], [`dangling`], [`probe`](mod@probe), [`remember`], [`sweep`](mod@sweep) with its `throttle`, the same for pages in `paced`, [`reviewed`], [`recheck`](mod@recheck), [`undelete`](mod@undelete), [`delegate`], [`restore`](mod@restore), [`uploads`], [`turn`] | the domain, and what they need of the world as traits ([`hands`], [`listing::Pages`]) |
//! | adapters | [`s3`], [`postgres`], [`ledger`], [`archive`], [`aws`] | one world each |
//! | composition | [`settings`], [`access`], [`event`], [`failure`], [`world`], [`run`](mod@run), [`undo`](mod@undo), `pages`, [`doctor`] | both worlds |
//! | doors | `cli`, `lambda` | the composition |
//!
//! Where a bucket outgrows one process, [`mod@ranges`] cuts it in key ranges, and each is the
//! scope of a run of its own, with every guard and check (`tests/ranges.rs`): none deletes
//! before it has judged all of its range, and each reads every name, so that one which cannot
//! be read ends all of them.
//!
//! [`upload`] is the service's side: where orphans come from.

pub mod access;
pub mod archive;
pub mod aws;
pub mod chain;
pub mod dangling;
pub mod delegate;
pub mod discovery;
pub mod doctor;
pub mod event;
pub mod failure;
pub mod folders;
mod glob;
pub mod guards;
pub mod hands;
pub mod judge;
pub mod key;
pub mod ledger;
pub mod listing;
pub mod manifest;
pub mod mark;
pub mod mention;
pub mod mentioned;
pub mod merge;
pub mod metrics;
pub mod names;
pub mod object;
mod paced;
pub mod plan;
pub mod postgres;
pub mod probe;
pub mod progress;
pub mod ranges;
pub mod recheck;
pub mod reconcile;
pub mod references;
pub mod remember;
pub mod restore;
pub mod retention;
pub mod review;
pub mod reviewed;
pub mod run;
pub mod s3;
pub mod scope;
pub mod settings;
pub mod sorting;
pub mod stop;
pub mod summary;
pub mod sweep;
mod throttle;
pub mod turn;
pub mod undelete;
pub mod undo;
pub mod upload;
pub mod uploads;
pub mod world;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "lambda")]
pub mod lambda;
#[cfg(feature = "cli")]
pub mod pages;

#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "demo")]
pub mod local;
