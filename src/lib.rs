//! Orphan Sweeper finds the objects of an S3 bucket that no PostgreSQL row
//! names, and deletes them.

pub mod dangling;
pub mod doctor;
pub mod event;
pub mod guards;
pub mod judge;
pub mod key;
pub mod ledger;
pub mod listing;
pub mod manifest;
pub mod mark;
pub mod merge;
pub mod names;
pub mod object;
pub mod plan;
pub mod postgres;
pub mod progress;
pub mod reconcile;
pub mod references;
pub mod run;
pub mod s3;
pub mod scope;
pub mod settings;
pub mod sorting;
pub mod stop;
pub mod summary;
pub mod sweep;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "lambda")]
pub mod lambda;

#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "demo")]
pub mod local;
