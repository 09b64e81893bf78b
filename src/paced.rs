//! The listing at the pace that the storage bears: pages that it refuses with the request to
//! slow down are asked for again, all of them more slowly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::listing::{ListError, Page, PageStart, Pages};
use crate::throttle::{self, Throttle};

/// Refusals of one page in a row, while no other page was given either, that are borne.
const MAX_IN_VAIN: u32 = 8;

/// Refusals of one page that are borne in all.
const MAX_REFUSALS: u32 = 64;

/// The wait before a page is asked for again when nothing was given meanwhile; it doubles.
const PAUSE: Duration = Duration::from_millis(100);

/// Pages at the pace that their storage bears.
#[derive(Debug)]
pub(crate) struct Paced<'run, P> {
    pages: &'run P,
    throttle: Throttle,
    given: AtomicU64,
}

impl<'run, P: Pages> Paced<'run, P> {
    pub(crate) fn new(pages: &'run P) -> Self {
        Self {
            pages,
            throttle: Throttle::new(throttle::PAGES),
            given: AtomicU64::new(0),
        }
    }

    fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }
}

impl<P: Pages + Sync> Pages for Paced<'_, P> {
    async fn page(&self, start: &PageStart) -> Result<Page, ListError> {
        let (mut refusals, mut in_vain) = (0, 0);
        let mut given = self.given();
        loop {
            self.throttle.turn(1).await;
            match self.pages.page(start).await {
                Err(ListError::SlowDown { context }) => {
                    self.throttle.refused(1);
                    refusals += 1;
                    in_vain = if self.given() == given {
                        in_vain + 1
                    } else {
                        1
                    };
                    given = self.given();
                    if in_vain == MAX_IN_VAIN || refusals == MAX_REFUSALS {
                        return Err(ListError::SlowDown { context });
                    }
                    if in_vain > 1 {
                        sleep(PAUSE * 2_u32.pow(in_vain - 1)).await;
                    }
                }
                Ok(page) => {
                    self.throttle.taken(1);
                    self.given.fetch_add(1, Ordering::Relaxed);
                    return Ok(page);
                }
                fault => return fault,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::stream::{self, StreamExt as _};
    use tokio::time::Instant;

    use super::*;

    /// A storage that gives so many pages a second, with a tenth of a second's worth saved up,
    /// each after some time.
    struct Limited {
        a_second: f64,
        takes: Duration,
        saved: Mutex<(f64, Instant)>,
        asked: Mutex<Vec<Instant>>,
    }

    impl Limited {
        fn new(a_second: f64, takes: Duration) -> Self {
            Self {
                a_second,
                takes,
                saved: Mutex::new((a_second / 10.0, Instant::now())),
                asked: Mutex::default(),
            }
        }

        fn asked(&self) -> usize {
            self.asked.lock().unwrap().len()
        }
    }

    fn slow_down() -> ListError {
        ListError::SlowDown {
            context: "SlowDown: Reduce your request rate.".to_owned(),
        }
    }

    impl Pages for Limited {
        async fn page(&self, _: &PageStart) -> Result<Page, ListError> {
            sleep(self.takes).await;
            let now = Instant::now();
            self.asked.lock().unwrap().push(now);
            let mut saved = self.saved.lock().unwrap();
            let since = (now - saved.1).as_secs_f64();
            *saved = (
                (saved.0 + since * self.a_second).min(self.a_second / 10.0),
                now,
            );
            if saved.0 < 0.0 {
                return Err(slow_down());
            }
            saved.0 -= 1.0;
            Ok(Page::default())
        }
    }

    async fn all(pages: &impl Pages, count: u32, at_once: u32) -> Vec<Result<Page, ListError>> {
        let first = PageStart::After(None);
        stream::iter(0..count)
            .map(|_| pages.page(&first))
            .buffered(at_once as usize)
            .collect()
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_the_storage_gives_is_nearly_used_and_refusals_are_few() {
        for a_second in [20_u32, 100, 200, 1_000, 2_000] {
            for (at_once, takes) in [(64, 1), (64, 50), (32, 50), (8, 1)] {
                let count = (a_second * 5).max(1_000);
                let takes = Duration::from_millis(takes);
                let limited = Limited::new(f64::from(a_second), takes);
                let began = Instant::now();
                let pages = all(&Paced::new(&limited), count, at_once).await;
                assert!(pages.iter().all(Result::is_ok));
                let seconds = began.elapsed().as_secs_f64();
                // A window that never waits could not be faster either.
                let busy = takes.as_secs_f64() * f64::from(count) / f64::from(at_once);
                let ideal = (f64::from(count) / f64::from(a_second)).max(busy);
                let about = format!("{a_second} a second, {at_once} at once, {takes:?}");
                assert!(
                    seconds < 1.15 * ideal,
                    "{about}: {seconds} s, ideal {ideal} s"
                );
                let refused = limited.asked() - pages.len();
                assert!(refused < pages.len() / 2, "{about}: {refused} refused");
            }
        }
    }

    /// S3 splits busy prefixes while they are used, and refuses some of what is asked meanwhile
    /// however slowly that is asked.
    #[tokio::test(start_paused = true)]
    async fn refusals_that_do_not_hang_on_the_rate_do_not_stop_the_listing() {
        for (every, seconds) in [(20, 12), (3, 310)] {
            let storage = refusing(|request| request % every == 0);
            let began = Instant::now();
            let pages = all(&Paced::new(&storage), 2_000, 64).await;
            assert!(pages.iter().all(Result::is_ok));
            let took = began.elapsed();
            assert!(took < Duration::from_secs(seconds), "{every}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_storm_the_pace_is_soon_found_again() {
        let began = Instant::now();
        let storage = refusing(|_| began.elapsed() < Duration::from_secs(8));
        let pages = all(&Paced::new(&storage), 1_000, 64).await;
        assert!(pages.iter().all(Result::is_ok));
        let took = began.elapsed();
        assert!(took < Duration::from_secs(8 + 6 + 8), "{took:?}");
    }

    /// Refuses these requests, counted from 0.
    struct Refusing<F> {
        refuses: F,
        asked: Mutex<Vec<Instant>>,
    }

    impl<F: Fn(usize) -> bool + Sync> Pages for Refusing<F> {
        async fn page(&self, _: &PageStart) -> Result<Page, ListError> {
            let mut asked = self.asked.lock().unwrap();
            asked.push(Instant::now());
            if (self.refuses)(asked.len() - 1) {
                return Err(slow_down());
            }
            Ok(Page::default())
        }
    }

    fn refusing<F: Fn(usize) -> bool + Sync>(refuses: F) -> Refusing<F> {
        Refusing {
            refuses,
            asked: Mutex::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_is_always_refused_is_asked_for_eight_times_ever_more_slowly() {
        let storage = refusing(|_| true);
        let pages = all(&Paced::new(&storage), 1, 1).await;
        assert!(matches!(pages[..], [Err(ListError::SlowDown { .. })]));
        let asked = storage.asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 8);
        for (refusal, pair) in (1..).zip(asked.windows(2)) {
            let least = match refusal {
                1 => Duration::from_millis(50),
                _ => PAUSE * 2_u32.pow(refusal - 1),
            };
            assert!(pair[1] - pair[0] >= least, "after {refusal}");
        }
        assert!(asked[7] - asked[6] < PAUSE * 2_u32.pow(7));
        // What was given before it counts for nothing.
        let storage = refusing(|request| request != 2);
        let pages = all(&Paced::new(&storage), 2, 2).await;
        assert!(pages[0].is_err() && pages[1].is_ok());
        assert_eq!(storage.asked.lock().unwrap().len(), 2 + 1 + 8);
        // The eighth time it is given.
        let storage = refusing(|request| request < 7);
        assert!(all(&Paced::new(&storage), 1, 1).await[0].is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_is_not_given_up_soon_while_others_are_given() {
        /// Refuses one page so often.
        struct Unlucky {
            refuses: usize,
            asked: Mutex<usize>,
        }

        impl Pages for Unlucky {
            async fn page(&self, start: &PageStart) -> Result<Page, ListError> {
                sleep(Duration::from_millis(1)).await;
                let mut asked = self.asked.lock().unwrap();
                if matches!(start, PageStart::Token(_)) && *asked < self.refuses {
                    *asked += 1;
                    return Err(slow_down());
                }
                Ok(Page::default())
            }
        }

        for (refuses, given) in [(63, true), (64, false)] {
            let storage = Unlucky {
                refuses,
                asked: Mutex::default(),
            };
            let paced = Paced::new(&storage);
            let others = async {
                loop {
                    paced.page(&PageStart::After(None)).await.unwrap();
                }
            };
            let began = Instant::now();
            let unlucky = PageStart::Token("unlucky".to_owned());
            let page = tokio::select! {
                page = paced.page(&unlucky) => page,
                () = others => unreachable!("they go on for ever"),
            };
            assert_eq!(page.is_ok(), given);
            assert_eq!(*storage.asked.lock().unwrap(), refuses);
            // Nobody waits for longer and longer where something is given.
            assert!(began.elapsed() < Duration::from_mins(1));
        }
    }
}
