//! Everything that knows PostgreSQL.

mod access;
mod ask;
mod check;
mod connect;
mod copy;
mod discover;
mod examine;
mod literal;
mod query;
mod relations;
mod role;
mod roots;
mod said;
mod snapshot;
mod state;
mod unseen;

pub use access::{Access, AccessError};
pub use check::PrimaryCheck;
pub(crate) use connect::Parts;
pub use connect::{Database, DatabaseUrl, UrlError};
pub use discover::ColumnSearch;
pub use examine::{Examination, Order, examine};
pub use query::ReferencesQuery;
pub use relations::Relations;
pub use role::{more_than_reading, state};
pub(crate) use roots::rds_region;
pub use said::Said;
pub use snapshot::Snapshot;

use thiserror::Error;

use crate::hands::SnapshotError;

/// The part of the driver that logs what it cannot read of an address or of a `.pgpass`,
/// passwords and all: no log takes its lines.
pub(crate) const TALKATIVE: &str = "sqlx_postgres::options";

/// The database could not be read.
#[derive(Debug, Error)]
pub enum DatabaseError {
    /// Nobody says where the database is or how to sign in.
    #[error("could not learn how to sign in to the database")]
    Access(#[from] AccessError),
    /// No connection.
    #[error("could not connect to the database")]
    Connect(#[source] Said),
    /// A statement failed.
    #[error("could not {tried}")]
    Statement {
        /// What was tried.
        tried: &'static str,
        /// What the database said.
        source: Said,
    },
    /// The references query is not what it should be.
    #[error("the references query {0}")]
    Query(String),
    /// The database is not what it should be.
    #[error("the database {0}")]
    Database(String),
    /// The stream of names broke off or makes no sense.
    #[error("the names from the database cannot be read: {0}")]
    Copy(String),
    /// A table was rewritten while it was read, and rows may have been lost.
    #[error(
        "{relations} was truncated, rewritten, renamed or put in the place of another while it was read, so names may have been lost; run again when that is done"
    )]
    Rewritten {
        /// The tables and indexes.
        relations: String,
    },
}

impl From<DatabaseError> for SnapshotError {
    fn from(error: DatabaseError) -> Self {
        Self(error.into())
    }
}

/// Names what was tried when a statement failed.
fn statement(tried: &'static str) -> impl FnOnce(sqlx::Error) -> DatabaseError {
    move |error| DatabaseError::Statement {
        tried,
        source: error.into(),
    }
}
