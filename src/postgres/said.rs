//! What the driver and the server said, in words for people.

use std::error::Error;
use std::fmt;

use sqlx::postgres::PgDatabaseError;

/// An error of the driver. Where the server complained only its own words are shown: the
/// driver adds the line of PostgreSQL's source code that complained, which reads like a line
/// of the query.
#[derive(Debug)]
pub struct Said(pub(super) sqlx::Error);

impl From<sqlx::Error> for Said {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_database_error() {
            Some(error) => write!(f, "the database says: {}", words(error)),
            None => self.0.fmt(f),
        }
    }
}

impl Error for Said {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            sqlx::Error::Database(_) => None,
            error => error.source(),
        }
    }
}

/// The server's message, with its hint where it has one.
pub(super) fn words(error: &dyn sqlx::error::DatabaseError) -> String {
    let hint = error
        .try_downcast_ref::<PgDatabaseError>()
        .and_then(PgDatabaseError::hint);
    match hint {
        Some(hint) => format!("{} ({hint})", error.message()),
        None => error.message().to_owned(),
    }
}
