//! Everything that knows S3.

mod bucket;
mod conditional;
mod connect;
mod delete;
mod get;
pub mod page;
mod put;
mod retention;
mod signable;
mod undelete;
mod uploads;
mod versions;

pub(crate) use bucket::said;
pub use bucket::{Bucket, BucketError};
pub use conditional::{Condition, Put, get, put_if};
pub use connect::{client, connect, http_client};
pub use delete::Deleter;
pub use get::{GetError, folders, get_file, names};
pub use put::{PutError, put, put_file};
pub use signable::signable;
pub use undelete::Undeleter;
