//! How long what was deleted can be brought back.

/// How long a bucket that keeps versions keeps those that are not current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// At least so many days; then they are freed.
    Days(u32),
    /// Nothing frees them.
    Forever,
    /// That could not be read.
    Unknown,
}

impl Retention {
    /// The days, where there are any.
    #[must_use]
    pub fn days(self) -> Option<u32> {
        match self {
            Self::Days(days) => Some(days),
            Self::Forever | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_freed_has_days() {
        assert_eq!(Retention::Days(30).days(), Some(30));
        assert_eq!(Retention::Forever.days(), None);
        assert_eq!(Retention::Unknown.days(), None);
    }
}
