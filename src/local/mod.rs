//! Real servers on this machine for the demo and the tests: never part of the Lambda.

pub mod postgres;
pub mod s3;
