//! The simulated database: every row with the time of its commit and of its end, so that a
//! snapshot of any time can be taken.

use crate::bucket::Ms;

/// Who writes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Author {
    /// Was there before the world began.
    Past,
    /// Uploads an object and commits its row.
    Uploader,
    /// Points a new row at an old object.
    Editor,
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) author: Author,
    pub(crate) committed: Ms,
    pub(crate) ended: Option<Ms>,
}

#[derive(Debug, Default)]
pub(crate) struct Database {
    pub(crate) rows: Vec<Row>,
}

impl Database {
    pub(crate) fn commit(&mut self, key: &str, author: Author, committed: Ms) {
        self.rows.push(Row {
            key: key.to_owned(),
            author,
            committed,
            ended: None,
        });
    }

    /// The rows that a snapshot of that time sees.
    pub(crate) fn at(&self, time: Ms) -> impl Iterator<Item = &Row> {
        self.rows
            .iter()
            .filter(move |row| row.committed <= time && row.ended.is_none_or(|ended| ended > time))
    }

    pub(crate) fn names(&self, key: &str, time: Ms) -> bool {
        self.at(time).any(|row| row.key == key)
    }

    /// Everything is as it was at that time.
    pub(crate) fn restore(&mut self, to: Ms, now: Ms) {
        let back: Vec<Row> = self
            .at(to)
            .filter(|row| row.ended.is_some())
            .map(|row| Row {
                committed: now,
                ended: None,
                ..row.clone()
            })
            .collect();
        for row in &mut self.rows {
            if row.committed > to && row.ended.is_none() {
                row.ended = Some(now);
            }
        }
        self.rows.extend(back);
    }
}
