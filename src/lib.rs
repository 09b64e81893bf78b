//! Orphan Sweeper finds the objects of an S3 bucket that no PostgreSQL row
//! names, and deletes them.

#[cfg(feature = "demo")]
pub mod local;
