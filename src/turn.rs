//! Whose turn it is: two sweeps of the same bucket and prefix are held apart.

use std::convert::Infallible;
use std::fmt;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::summary::Refusal;

/// The answer to a run that wants to sweep.
#[derive(Debug)]
pub enum Turn {
    /// It is this run's.
    Ours(Box<dyn Hold>),
    /// It is another's: the guard's no.
    Another(Refusal),
}

/// What holds others off.
pub trait Hold: fmt::Debug + Send {
    /// Says again and again that this run lives.
    fn keep(&mut self) -> BoxFuture<'_, Infallible>;

    /// Lets go.
    fn release(&mut self) -> BoxFuture<'_, ()>;
}

/// Nothing: where nobody else can be.
#[derive(Debug)]
pub struct Alone;

impl Hold for Alone {
    fn keep(&mut self) -> BoxFuture<'_, Infallible> {
        std::future::pending().boxed()
    }

    fn release(&mut self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

/// Does the work while holding others off, and lets go.
pub async fn during<T>(mut hold: Box<dyn Hold>, work: impl Future<Output = T>) -> T {
    let done = tokio::select! {
        done = work => done,
        never = hold.keep() => match never {},
    };
    hold.release().await;
    done
}
