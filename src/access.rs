//! Puts together what the settings say of the database with who signs in there.

use std::sync::Arc;

use crate::aws::{Secret, Token};
use crate::postgres::Database;
use crate::settings::DatabaseAccess;

/// The database, for one run: a secret is read once, and anew when the sign-in fails.
#[must_use]
pub fn database(access: &DatabaseAccess) -> Database {
    match access {
        DatabaseAccess::Url(url) => Database::new(url.clone()),
        DatabaseAccess::Secret { arn, ca } => {
            Database::behind(Arc::new(Secret::new(arn.clone(), ca.clone())))
        }
        DatabaseAccess::Iam(url) => Database::behind(Arc::new(Token::new(url.clone()))),
    }
}
