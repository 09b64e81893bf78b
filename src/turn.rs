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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Writes down what it is asked to do.
    #[derive(Debug, Default, Clone)]
    struct Diary(Arc<Mutex<Vec<&'static str>>>);

    impl Diary {
        fn write(&self, word: &'static str) {
            self.0.lock().unwrap().push(word);
        }
    }

    impl Hold for Diary {
        fn keep(&mut self) -> BoxFuture<'_, Infallible> {
            self.write("kept");
            std::future::pending().boxed()
        }

        fn release(&mut self) -> BoxFuture<'_, ()> {
            async { self.write("released") }.boxed()
        }
    }

    #[tokio::test]
    async fn others_are_held_off_until_the_work_is_done() {
        let diary = Diary::default();
        let work = async {
            tokio::task::yield_now().await;
            diary.write("done");
            7
        };
        assert_eq!(during(Box::new(diary.clone()), work).await, 7);
        assert_eq!(*diary.0.lock().unwrap(), ["kept", "done", "released"]);
    }

    #[tokio::test]
    async fn where_nobody_else_can_be_the_work_is_done_too() {
        let work = tokio::task::yield_now();
        during(Box::new(Alone), work).await;
    }
}
